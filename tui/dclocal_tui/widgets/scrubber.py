"""A line as long as the video: the cursor, the part that is chosen, and where its frames lie; the mouse moves it."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from dclocal_tui.film import Film
from dclocal_tui.plan import CHOSEN, GIVEN


class MovedTo(Message):
    """The user points at a time of the video."""

    def __init__(self, time_s: float):
        self.time_s = time_s
        super().__init__()


class Scrubber(Widget):
    """Two rows: frames (`GIVEN` to the model, `CHOSEN` to be), and the line below them."""

    def __init__(self) -> None:
        super().__init__()
        self._film: Film | None = None
        self._given: tuple[float, ...] = ()
        self._chosen: tuple[float, ...] = ()
        self._dragged = False

    def show(self, film: Film, given: Sequence[float], chosen: Sequence[float]) -> None:
        """Draw this; the frames by their times in seconds."""
        self._film, self._given, self._chosen = film, tuple(given), tuple(chosen)
        self.refresh()

    def render(self) -> Content:
        """Both rows."""
        if self._film is None or self.size.width < 2:
            return Content("")
        film, width = self._film, self.size.width
        marks = [" "] * width
        for mark, times_s in ((CHOSEN, self._chosen), (GIVEN, self._given)):
            for time_s in times_s:
                marks[column_of(time_s, film, width)] = mark
        start, end = (column_of(time_s, film, width) for time_s in (film.start_s, film.end_s))
        cursor = column_of(film.cursor_s, film, width)
        parts: list[tuple[str, str]] = [("".join(marks), "$accent"), ("\n", "")]
        for column in range(width):
            if column == cursor:
                parts.append(("┃", "bold $text on $accent"))
            elif column in (start, end):
                parts.append(("[" if column == start else "]", "bold $accent"))
            else:
                parts.append(("━", "$accent") if start < column < end else ("─", "$text-muted"))
        return Content.assemble(*parts)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Move there, and follow the mouse."""
        self._dragged = True
        self.capture_mouse()
        self._point(event.x)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Follow while the button is held."""
        if self._dragged:
            self._point(event.x)

    def on_mouse_up(self) -> None:
        """Let go."""
        self._dragged = False
        self.release_mouse()

    def _point(self, column: int) -> None:
        if self._film is not None and self.size.width > 1:
            self.post_message(MovedTo(column / (self.size.width - 1) * self._film.duration_s))


def column_of(time_s: float, film: Film, width: int) -> int:
    """Where a time stands on a line of `width` columns."""
    return min(width - 1, max(0, round(time_s / film.duration_s * (width - 1))))
