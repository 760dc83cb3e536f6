"""The main screen's camera: opened, drawn as often as the terminal takes it, frozen, asked about, always let go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import on

from dclocal.engine_messages import Media
from dclocal.errors import UserError
from dclocal_tui.keys import shown
from dclocal_tui.messages import CameraSaid
from dclocal_tui.pace import PERIOD_S, POLL_S, is_behind, mark, pause_after
from dclocal_tui.screens.dialogs import Dialogs
from dclocal_tui.widgets.media_panel import MediaPanel

if TYPE_CHECKING:
    from dclocal.webcam_messages import NotTaken, Said, Seen, Taken
    from dclocal.webcam_process import FarCamera
    from dclocal_tui.widgets.camera_card import CameraCard

LOOK_SIDE = 320
LOG = "tui-camera.log"
GONE = ("lost", "missing", "busy")


def open_far_camera(source: str, log: Path, say: Callable[[Said], None]) -> FarCamera:
    """A camera in a process of its own; see `webcam_process.FarCamera`."""
    from dclocal.webcam_process import FarCamera

    return FarCamera(source, log, say)


class Cameras(Dialogs):
    """One camera at a time, in a process of its own; nothing here waits for it."""

    open_far_camera: Callable[..., Any] = staticmethod(open_far_camera)

    def __init__(self) -> None:
        super().__init__()
        self._camera: FarCamera | None = None
        self._card: CameraCard | None = None
        self._cameras_opened = 0
        self._source = "0"
        self._index = -1  # of the picture on the screen
        self._takes: dict[int, tuple[str, str]] = {}  # request → what for, and its question
        self._frozen: Media | None = None
        self._own: list[Media] = []  # pictures that were taken here

    def open_camera(self, source: str) -> bool:
        """Open a camera in place of the one at hand; false where `source` names none."""
        from dclocal.webcam_source import kind_of
        from dclocal_tui.widgets.camera_card import CameraCard

        try:
            kind_of(source)
            self.close_camera()
            number = self._cameras_opened = self._cameras_opened + 1

            def say(said: Said) -> None:
                with suppress(RuntimeError):  # the app has ended
                    self.post_message(CameraSaid(number, said))

            self._camera = type(self).open_far_camera(source, self.app.log_file.with_name(LOG), say)
        except (UserError, OSError) as error:
            self.tell(str(error), "error")
            return False
        self._source, self._index = source, -1
        freeze_key = shown(self.app._keymap.get("freeze", "ctrl+f"))
        self._card = CameraCard(self._camera.name, self.app.preview, freeze_key)
        self.query_one(MediaPanel).show_camera(self._card)
        self._camera.look(-1, LOOK_SIDE)
        return True

    def close_camera(self) -> None:
        """Let the camera go; a picture that was frozen and not asked about goes with it."""
        camera, self._camera, self._card = self._camera, None, None
        if camera is None:
            return
        camera.close()
        self._void_takes()
        self._frozen = None
        self._discard_unasked()
        self.query_one(MediaPanel).show_camera(None)

    def on_unmount(self) -> None:
        """However the screen ends, the camera is let go."""
        if self._camera is not None:
            self._camera.close()

    def camera_command(self, name: str, rest: str) -> bool:
        """Carry out /webcam; false where there was something wrong with it."""
        if rest == "off":
            self.close_camera()
            return True
        return self.open_camera(os.path.expanduser(rest.strip('"')) or self._source)

    def action_webcam(self) -> None:
        """Open the camera that was used last, or close it."""
        if self._camera is None:
            self.open_camera(self._source)
        else:
            self.close_camera()

    def action_freeze(self) -> None:
        """Hold the picture that is on the screen, or go on."""
        if self._camera is None or self._card is None:
            self.tell("no camera is open — F9 opens one", "warning")
        elif self._card.view.frozen:
            self._frozen = None
            self._change(frozen=False)
            self._discard_unasked()
            self._camera.look(self._index, LOOK_SIDE)
        elif self._index < 0:
            self.tell(f"{self._camera.name} has given no picture yet", "warning")
        else:
            self._change(frozen=True)
            self._take("freeze", shown=self._index)

    async def ask(self, question: str) -> bool:
        """Ask, with the frozen picture or the newest one where a camera is open; false where it cannot be asked now."""
        if self._camera is None or self._card is None:
            return await self.talk.ask(question)
        if not self.talk.free() or any(purpose == "ask" for purpose, _ in self._takes.values()):
            return False
        if self._frozen is not None:
            self._show_frozen()
            return await self.talk.ask(question)
        frozen, state = self._card.view.frozen, self._card.view.state
        if state.name in GONE and self._index >= 0 and not frozen:
            self.tell(f"{state.problem}; this is its last picture", "warning")
        self._take("ask", question, shown=self._index if frozen else None)
        return True

    async def asked_by_watch(self, media: Media | None, question: str, when: str) -> None:
        """The watch's picture is there, None: it has not changed."""

    def _take(self, purpose: str, question: str = "", *, shown: int | None = None, watch: int = 0) -> None:
        assert self._camera is not None
        self._takes[self._camera.take(shown, watch)] = purpose, question

    @on(CameraSaid)
    async def _camera_said(self, message: CameraSaid) -> None:
        from dclocal.webcam import CameraState
        from dclocal.webcam_messages import Seen

        if self._camera is None or message.camera != self._cameras_opened:
            return
        said = message.said
        if isinstance(said, CameraState):
            self._change(state=said)
            if said.name == "closed":
                self._void_takes()
        elif isinstance(said, Seen):
            self._draw(said)
        else:
            await self._took(said)

    def _draw(self, seen: Seen) -> None:
        if self._card is None or self._card.view.frozen:
            return
        started = time.monotonic()
        self._index = seen.index
        self._card.show(seen.jpeg)
        self._change(size=seen.size)
        camera = self._cameras_opened

        def drawn() -> None:
            if is_behind(self.app._driver):
                self.set_timer(POLL_S, drawn)
            else:
                self.set_timer(pause_after(time.monotonic() - started), lambda: self._look(camera))

        def refreshed() -> None:
            mark(self.app._driver)
            drawn()

        self.call_after_refresh(refreshed)

    def _look(self, camera: int) -> None:
        """Ask for the next picture, once the terminal has taken all else and the screen is in sight."""
        if self._camera is None or self._card is None or camera != self._cameras_opened or self._card.view.frozen:
            return
        if is_behind(self.app._driver) or not self.is_active:
            self.set_timer(PERIOD_S, lambda: self._look(camera))
        else:
            self._camera.look(self._index, LOOK_SIDE)

    async def _took(self, said: Taken | NotTaken) -> None:
        """A whole picture, for what it was taken for."""
        from dclocal.webcam_messages import NotTaken, Taken

        purpose, question = self._takes.pop(said.request, ("", ""))
        when = clock()
        media = Media(said.jpeg, name=f"{when} camera.jpg") if isinstance(said, Taken) else None
        if isinstance(said, NotTaken) and said.why:
            self.tell(said.why, "warning")
        if purpose == "watch":
            await self.asked_by_watch(media, question, when)
        elif purpose == "freeze" and media is not None and self._card is not None and self._card.view.frozen:
            self._frozen = media
            self._show_frozen()
        elif purpose == "ask" and (media is None or not await self.ask_about(self._frozen or media, question)):
            self.give_back(question)

    async def ask_about(self, media: Media, question: str, watched: str = "") -> bool:
        """Ask about a picture that was taken, for a watch at the time `watched`; false where that cannot be now."""
        if not self.talk.free():
            return False
        self._show_own(media)
        return await (self.talk.ask_again(question, watched) if watched else self.talk.ask(question))

    def _show_frozen(self) -> None:
        """The frozen picture stands among the media of the conversation, whichever that is by now."""
        if self._frozen is not None:
            self._show_own(self._frozen)

    def _show_own(self, media: Media) -> None:
        if not any(item.media is media for item in self.talk.shelf.items):
            self._discard_unasked()
            self._own = [*self._own, media]
            self.talk.attach(media)

    def _discard_unasked(self) -> None:
        """Take off the pictures that were taken here and that no question shows."""
        for item in self.talk.shelf.items:
            if any(item.media is media for media in self._own):
                self.talk.remove(item.number)
        self._own = []

    def _void_takes(self) -> None:
        """No picture will come: a question that waits for one goes back to the prompt."""
        takes, self._takes = self._takes, {}
        for purpose, question in takes.values():
            if purpose == "ask":
                self.give_back(question)

    def _change(self, **changes: Any) -> None:
        """Set fields of what the card says."""
        if self._card is not None:
            self._card.view = replace(self._card.view, **changes)


def clock() -> str:
    """The time of day."""
    return f"{datetime.now():%H:%M:%S}"
