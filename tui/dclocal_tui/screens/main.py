"""The one screen that people work on: conversation, media, prompt, status."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Vertical

from dclocal.errors import UserError
from dclocal_tui.example import QUESTION, example
from dclocal_tui.keys import BINDINGS
from dclocal_tui.messages import FragmentChanged, PathsPasted, RemoveWanted, Submitted
from dclocal_tui.paths import camera_source, complete, named_media
from dclocal_tui.previews import Previews
from dclocal_tui.screens.attaching import Attaching
from dclocal_tui.screens.video_actions import VideoActions
from dclocal_tui.screens.watching import Watching
from dclocal_tui.shelf import Item
from dclocal_tui.state import Status, Turn
from dclocal_tui.talk import Talk
from dclocal_tui.widgets.completions import Completions
from dclocal_tui.widgets.conversation import Conversation
from dclocal_tui.widgets.dead_banner import DeadBanner
from dclocal_tui.widgets.media_panel import MediaPanel
from dclocal_tui.widgets.prompt import Prompt
from dclocal_tui.widgets.status_line import StatusLine
from dclocal_tui.widgets.welcome import Welcome

LATER = ("dclocal.caption", "dclocal_tui.widgets.exchange", "dclocal_tui.widgets.camera_card")
"""Modules that the first paint does without, and the first things a user does need."""
HINT = "Enter sends · Ctrl+J new line · F1 help"
EDITING = "editing the last question · Esc leaves it"


class MainScreen(Attaching, VideoActions, Watching):
    """Shows one conversation; is the `View` of its Talk."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar = [
        *BINDINGS,
        Binding("pageup", "scroll(-1)", priority=True),  # the prompt would take it
        Binding("pagedown", "scroll(1)", priority=True),
    ]

    def __init__(self, first_run: bool):
        super().__init__()
        self._first_run = first_run
        self._editing = False
        self._given_attached = asyncio.Event()

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        with Container(id="middle"):
            with Vertical(id="said"):
                yield Welcome(self._first_run)
                yield Conversation()
            yield MediaPanel(self.app.preview)
        yield DeadBanner()
        yield Completions()
        yield Prompt()
        yield StatusLine()

    def on_mount(self) -> None:
        """Open the model in the background; typing works at once."""
        self.prompt.border_subtitle = HINT
        self.set_focus(self.prompt)
        self.talk = Talk(self.app.engine, self.app.recorder, self, lambda: self.app.settings)
        self.talk.open(self.app.bundle, self.app.opening)
        if self.app.history.note:
            self.tell(self.app.history.note, "warning")
        self._take_events()

    @work
    async def warm_up(self) -> None:
        """What the first paint did without is imported in a thread, then the media of the command line are attached."""
        await asyncio.to_thread(import_later)
        for source in self.app.given_media:
            if (camera := camera_source(source)) is not None:
                self.open_camera(camera)
            else:
                self.add_media([source])
        self._given_attached.set()
        if isinstance(self.app.preview, Previews):
            await asyncio.to_thread(self.app.preview.load)

    @property
    def prompt(self) -> Prompt:
        """Where questions are typed."""
        return self.query_one(Prompt)

    @work
    async def _take_events(self) -> None:
        async for event in self.app.engine.events():
            if not self.query(StatusLine):  # the screen is being taken down
                return
            await self.talk.handle(event)
            await asyncio.sleep(0)  # keys go before a backlog of events

    # What the conversation tells us

    async def show_turns(self, first: int, turns: Sequence[Turn]) -> None:
        """Show these in place of the turns from `first` on."""
        self.query_one(Welcome).display = not first and not turns
        await self.query_one(Conversation).show_turns(first, turns)

    async def grow(self, text: str) -> None:
        """Add to the last answer."""
        await self.query_one(Conversation).grow(text)

    async def finish(self, turn: Turn) -> None:
        """The last turn is whole."""
        await self.query_one(Conversation).finish(turn)

    def show_media(self, items: Sequence[Item]) -> None:
        """Show these beside the conversation."""
        self.query_one(MediaPanel).show_media(items)

    def show_status(self, status: Status) -> None:
        """Show this in the status line."""
        self.query_one(StatusLine).status = status

    def give_back(self, text: str) -> None:
        """Put a question back, unless something else is typed by now."""
        if not self.prompt.text.strip():
            self.prompt.put(text)

    def show_dead(self, message: str) -> None:
        """The engine has ended, or runs again."""
        self.query_one(DeadBanner).why = message

    # What the user does

    @on(Submitted)
    async def _submitted(self, message: Submitted) -> None:
        text = message.text.strip()
        if text.startswith("/"):
            if await self._command(text):
                self.prompt.take()
            return
        await self._given_attached.wait()
        question, paths, missing = named_media(text)
        if missing:
            self.tell(f"{missing[0]} does not exist — check the path", "error")
            return
        self.add_media(paths)
        if not question.strip():
            return
        self.prompt.take()  # before it may be given back
        if await (self.talk.edit(question) if self._editing else self.ask(question)):
            self._edit(False)
        else:
            self.prompt.put(text)

    async def _command(self, text: str) -> bool:
        """Carry out a typed command; false where it is none, or there was something wrong with it."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        if name == "/attach" and rest:
            self.add_media([rest.strip('"')])
        elif name == "/paste":
            await self.run_action("paste_picture")
        elif name == "/browse":
            self.browse(rest.strip('"'))
        elif name == "/remove" and rest.isdigit():
            self._take_off(int(rest))
        elif name == "/video" and rest.isdigit():
            self.show_video(int(rest))
        elif name == "/export" and rest:
            return self._write_file(rest)
        elif name in ("/webcam", "/watch"):
            return self.camera_command(name, rest)
        elif name in ("/help", "/new", "/quit", "/sessions", "/settings", "/bundles", "/log", "/example", "/video"):
            await self.run_action(name[1:])
        else:
            self.tell(f"{text!r:.60} is no command — F1 lists them", "error")
            return False
        return True

    def _take_off(self, number: int) -> None:
        if not self.talk.remove(number):
            self.tell(f"[{number}] cannot be taken off: no such picture, or a question shows it", "warning")

    def _write_file(self, name: str) -> bool:
        try:
            written = self.app.export(self.app.recorder.session, name)
        except UserError as error:
            self.tell(str(error), "error")
            return False
        self.tell(f"written: {written[0]}" + (f" and {len(written) - 1} files beside it" if written[1:] else ""))
        return True

    @on(PathsPasted)
    def _pasted(self, message: PathsPasted) -> None:
        self.add_media(message.paths)

    @on(RemoveWanted)
    def _remove_wanted(self, message: RemoveWanted) -> None:
        self._take_off(message.number)
        self.prompt.focus()

    @on(FragmentChanged)
    def _fragment_changed(self, message: FragmentChanged) -> None:
        self._offer(message.fragment)

    @work(exclusive=True, group="completion")
    async def _offer(self, fragment: str | None) -> None:
        """Find what a path may become, in a thread: folders may lie on slow disks."""
        candidates = [] if fragment is None else await asyncio.to_thread(complete, fragment)
        self.prompt.candidates = [] if candidates == [fragment] else candidates
        self.query_one(Completions).offer(self.prompt.candidates)

    async def action_stop(self) -> None:
        """Stop the answer and a watch, else leave editing."""
        watched = self.stop_watch()
        if not await self.talk.stop() and not watched and self._editing:
            self.prompt.text = ""
            self._edit(False)

    async def action_go_on(self) -> None:
        """Let the last answer go on."""
        await self.talk.go_on()

    async def action_retry(self) -> None:
        """Ask the last question again."""
        await self.talk.retry()

    def action_edit_last(self) -> None:
        """Put the last question into the prompt, to be asked anew."""
        if self.talk.turns and self.talk.pending is None:
            self.prompt.put(self.talk.turns[-1].text)
            self._edit(True)

    def _edit(self, editing: bool) -> None:
        self._editing = editing
        self.prompt.border_title = EDITING if editing else ""

    def action_copy_answer(self) -> None:
        """Hand the last answer to the terminal's clipboard."""
        if self.talk.turns:
            self.app.copy_to_clipboard(self.talk.turns[-1].answer)
            self.tell("copied")

    async def action_new(self) -> None:
        """Begin another conversation."""
        self._edit(False)
        await self.talk.start_over()
        self.prompt.focus()

    def action_example(self) -> None:
        """Attach the example, type a question about it."""
        self.talk.attach(example())
        self.prompt.put(QUESTION)

    def action_quit(self) -> None:
        """Leave; what was said is in the history."""
        self.app.exit()

    async def action_restart(self) -> None:
        """Start the engine again."""
        await self.talk.restart()

    def action_scroll(self, pages: int) -> None:
        """Scroll the conversation by a page."""
        conversation = self.query_one(Conversation)
        if pages < 0:
            conversation.scroll_page_up()
        else:
            conversation.scroll_page_down()


def import_later() -> None:
    """Import what is needed soon."""
    for module in LATER:
        import_module(module)
