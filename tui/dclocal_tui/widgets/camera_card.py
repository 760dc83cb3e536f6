"""A camera beside the conversation: its newest picture, or the frozen one, and how it is doing."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from dclocal.webcam import CameraState
from dclocal_tui.clean import clean
from dclocal_tui.widgets.media_card import Preview

WORDS = {
    "opening": "opening…",
    "live": "live",
    "black": "black picture",
    "missing": "no camera; trying again…",
    "busy": "in use elsewhere; trying again…",
    "lost": "reconnecting…",
    "ended": "the end",
    "closed": "closed",
}
OPENING = CameraState("opening")


@dataclass(frozen=True)
class CameraView:
    """What is said of a camera: its state, the size of its pictures, whether one is held, and what a watch does."""

    state: CameraState = OPENING
    size: tuple[int, int] | None = None
    frozen: bool = False
    watch: str = ""

    @property
    def name(self) -> str:
        """The state in one word, for the style sheet and for people."""
        return "frozen" if self.frozen else self.state.name

    def words(self) -> str:
        """A line of the state, one of the problem, one of the watch."""
        word = WORDS[self.state.name]
        if self.frozen:
            word = "frozen"
        elif self.size and self.state.name in ("missing", "busy"):
            word = WORDS["lost"]
        size = f" · {self.size[0]}×{self.size[1]}" if self.size and self.name in ("live", "frozen") else ""
        return "\n".join(line for line in (word + size, self.watch, self.state.problem) if line)


class CameraCard(Vertical, can_focus=True):
    """Shows `view` and the pictures it is given; Space freezes, Delete closes the camera."""

    BINDINGS: ClassVar = [
        Binding("space", "screen.freeze", "Freeze or go on"),
        Binding("delete,backspace", "screen.webcam", "Close the camera"),
    ]

    view: reactive[CameraView] = reactive(CameraView())

    def __init__(self, name: str, preview: Preview, freeze_key: str):
        super().__init__()
        self._freeze_key = freeze_key
        self.border_title = Content(clean(name))
        self._preview = preview
        self._shown: Any = None

    def compose(self) -> ComposeResult:
        """State below the picture, as on other cards."""
        yield Vertical(classes="preview")
        yield Static(classes="state")

    def on_mount(self) -> None:
        """Say what is known from the start."""
        self.watch_view(self.view)

    def watch_view(self, view: CameraView) -> None:
        """Write what has changed."""
        if self.children:
            self.query_one(".state", Static).update(Content(clean(view.words())))
            self.set_classes(f"-{view.name}")
            self.border_subtitle = f"{self._freeze_key} {'goes on' if view.frozen else 'freezes'}" if view.size else ""

    def show(self, jpeg: bytes) -> None:
        """Draw this picture in place of the one before."""
        from PIL import Image

        picture = Image.open(io.BytesIO(jpeg))
        picture.load()
        if self._shown is None:
            self._shown = self._preview(picture)
            self.query_one(".preview").mount(self._shown)
        else:
            self._shown.image = picture
