"""Frames of a video side by side, each with its time below; as many as the width has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from dclocal.sampling import show_time
from dclocal_tui.decoder import Thumbnail
from dclocal_tui.plan import CHOSEN, GIVEN
from dclocal_tui.previews import draw
from dclocal_tui.widgets.media_card import Preview
from dclocal_tui.widgets.scrubber import MovedTo

# columns that the strip has at least → columns and rows of a picture
SIZES = ((150, 24, 7), (0, 15, 4))
MAX_CELLS = 12


@dataclass(frozen=True, eq=False)
class StripFrame:
    """A frame of the strip: when it is shown, its picture once there is one, and whether the model has it."""

    time_s: float
    thumbnail: Thumbnail | None
    given: bool


class FilmFrame(Vertical):
    """One frame; a click moves the cursor there."""

    def __init__(self, preview: Preview):
        super().__init__()
        self._preview = preview
        self._frame: StripFrame | None = None

    def compose(self) -> ComposeResult:
        """The picture, its time."""
        with Vertical(classes="picture"):
            yield draw(self._preview(None), None)
        yield Static(classes="time")

    def show(self, frame: StripFrame | None, here: bool, columns: int, rows: int) -> None:
        """Draw a frame, None: nothing; `here` is where the cursor stands."""
        self.display = frame is not None
        if frame is None:
            return
        self.styles.width, self.styles.height = columns, rows + 1
        self.set_class(here, "-here")
        self.set_class(frame.given, "-given")
        mark = GIVEN if frame.given else CHOSEN
        self.query_one(".time", Static).update(Content(f"{mark} {show_time(frame.time_s)}"))
        draw(self.query_one(".picture").children[0], frame.thumbnail.image if frame.thumbnail else None)
        self._frame = frame

    def on_click(self) -> None:
        """Go there."""
        if self._frame is not None:
            self.post_message(MovedTo(self._frame.time_s))


class Filmstrip(Horizontal):
    """A part of the frames, the one at the cursor among them."""

    def __init__(self, preview: Preview):
        super().__init__()
        self._preview = preview

    def compose(self) -> ComposeResult:
        """As many as a wide terminal shows."""
        for _ in range(MAX_CELLS):
            yield FilmFrame(self._preview)

    def window(self, count: int, here: int) -> range:
        """Which of `count` frames have room, frame `here` in the middle of them where that can be."""
        columns, _ = self._cell()
        room = min(MAX_CELLS, count, max(1, self.size.width // columns))
        first = min(max(0, here - room // 2), count - room)
        return range(first, first + room)

    def show(self, frames: Sequence[StripFrame], here: int) -> None:
        """Draw the frames of a window; `here` counts from its first."""
        columns, rows = self._cell()
        self.styles.height = rows + 1
        for number, cell in enumerate(self.query(FilmFrame)):
            cell.show(frames[number] if number < len(frames) else None, number == here, columns, rows)

    def _cell(self) -> tuple[int, int]:
        return next((columns, rows) for least, columns, rows in SIZES if self.size.width >= least)
