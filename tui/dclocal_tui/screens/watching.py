"""A watch: one question asked of the camera's newest picture again and again, each time that it has changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import click
from textual.timer import Timer

from dclocal.engine_messages import Media
from dclocal_tui.screens.cameras import Cameras
from dclocal_tui.widgets.prompt import Prompt

POLL_S = 0.1


@dataclass(frozen=True)
class Watch:
    """What is asked how often; `due_s` is by time.monotonic, `turns` how many there are with its last question."""

    number: int
    conversation: int
    every_s: float
    question: str
    due_s: float
    turns: int = 0


class Watching(Cameras):
    """Adds /watch; questions of the user's own may come between."""

    _editing: bool

    def __init__(self) -> None:
        super().__init__()
        self._watch: Watch | None = None
        self._watches = 0
        self._watch_timer: Timer | None = None

    def camera_command(self, name: str, rest: str) -> bool:
        """Carry out /webcam or /watch; false where there was something wrong with it."""
        if name == "/webcam":
            return super().camera_command(name, rest)
        if rest == "off":
            self.stop_watch()
            return True
        from dclocal.commands.webcam import Interval

        every, _, question = rest.partition(" ")
        try:
            every_s = float(Interval().convert(every, None, None))
        except click.ClickException as error:
            self.tell(error.message, "error")
            return False
        if self._camera is None or not question.strip():
            wrong = "say what to ask: /watch 5s What is this?" if self._camera else "open a camera first: F9 or /webcam"
            self.tell(wrong, "error")
            return False
        self._start_watch(every_s, question.strip())
        return True

    def stop_watch(self, why: str = "") -> bool:
        """End the watch; false where there is none."""
        watch, self._watch = self._watch, None
        if self._watch_timer is not None:
            self._watch_timer.stop()
        self._change(watch="")
        if watch is not None and why:
            self.tell(f"the watch has ended: {why}", "warning")
        return watch is not None

    def close_camera(self) -> None:
        """A watch ends with its camera."""
        self.stop_watch()
        super().close_camera()

    def action_freeze(self) -> None:
        """A frozen picture is not watched."""
        if self._watch is not None and self._card is not None and not self._card.view.frozen:
            self.stop_watch("the picture is frozen")
        super().action_freeze()

    async def asked_by_watch(self, media: Media | None, question: str, when: str) -> None:
        """Ask about a changed picture; say that it has not."""
        watch = self._watch
        if watch is None or watch.conversation != self.talk.conversation:
            return
        if media is None:
            self._say_watch(" · no change")
        elif await self.ask_about(media, question, when) and self._watch and self._watch.number == watch.number:
            self._watch = replace(self._watch, turns=len(self.talk.turns))
            self._say_watch()

    def _typing(self) -> bool:
        """Whether the user is about to ask something."""
        return self._editing or bool(self.query_one(Prompt).text.strip())

    def _start_watch(self, every_s: float, question: str) -> None:
        self.stop_watch()
        if self._card is not None and self._card.view.frozen:
            self.action_freeze()
        self._watches += 1
        self._watch = Watch(self._watches, self.talk.conversation, every_s, question, time.monotonic())
        self._say_watch()
        self._watch_timer = self.set_interval(POLL_S, self._keep_watch)

    def _say_watch(self, more: str = "") -> None:
        if self._watch is not None:
            self._change(watch=f"asking every {self._watch.every_s:g} s{more}")

    def _keep_watch(self) -> None:
        """Ask when it is time, unless something else is going on."""
        watch, talk, now = self._watch, self.talk, time.monotonic()
        if watch is None or self._camera is None or self._card is None:
            return
        if watch.conversation != talk.conversation:
            self.stop_watch("another conversation has begun")
        elif self._card.view.state.name in ("ended", "closed"):
            self.stop_watch("no more pictures come")
        elif talk.dead:
            self._watch = replace(watch, turns=0)
        elif talk.pending is None and len(talk.turns) < watch.turns:
            self.stop_watch("its question came to nothing")
        elif now >= watch.due_s and talk.pending is None and talk.ready and not self._takes and not self._typing():
            self._watch = replace(watch, due_s=max(watch.due_s + watch.every_s, now))
            if self._index >= 0:
                self._take("watch", watch.question, watch=watch.number)
