"""Small pictures of a video's frames for the screen, decoded in a thread: the newest wish alone counts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from dclocal.errors import UserError
from dclocal.sampling import frames_at, open_span, show_time
from dclocal.video import Frame, VideoError, VideoReader

if TYPE_CHECKING:
    from PIL.Image import Image

LARGE_SIDE = 640
SMALL_SIDE = 192


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A frame, shrunk, and when it is first shown."""

    image: Image
    time_s: float
    index: int


@dataclass(frozen=True)
class Wish:
    """A frame to be shown large, and those of the strip; times in seconds, ascending."""

    cursor_s: float
    strip_s: tuple[float, ...]


class Measured(Message):
    """How long the video is."""

    def __init__(self, duration_s: float, fps: float):
        self.duration_s, self.fps = duration_s, fps
        super().__init__()


class Decoded(Message):
    """The frame that is shown at `wanted_s`; `large` is the one under the cursor."""

    def __init__(self, wanted_s: float, thumbnail: Thumbnail, large: bool):
        self.wanted_s, self.thumbnail, self.large = wanted_s, thumbnail, large
        super().__init__()


class Undecoded(Message):
    """Why there are no pictures, or no more of them."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__()


class Decoder:
    """`run` works in a thread of its caller until `close`; what it finds goes to `send`, from that thread."""

    def __init__(self, path: str | Path, send: Callable[[Message], object]):
        self._path, self._send = path, send
        self._changed = threading.Condition()
        self._wish: Wish | None = None
        self._closed = False

    def want(self, wish: Wish) -> None:
        """Decode these next; what was wished for before is let go."""
        with self._changed:
            self._wish = wish
            self._changed.notify()

    def close(self) -> None:
        """Let `run` end."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def run(self) -> None:
        """Tell the video's length, then fulfil wishes."""
        if not self._guarded(self._measure):
            return
        shown_s: float | None = None
        while (wish := self._next()) is not None:
            if wish.cursor_s != shown_s:
                self._guarded(lambda: self._decode((wish.cursor_s,), LARGE_SIDE, self._is_closed))
                shown_s = wish.cursor_s
            if wish.strip_s:
                self._guarded(lambda: self._decode(wish.strip_s, SMALL_SIDE, self._is_superseded))

    def _next(self) -> Wish | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._wish is not None)
            wish, self._wish = self._wish, None
            return None if self._closed else wish

    def _is_closed(self) -> bool:
        return self._closed

    def _is_superseded(self) -> bool:
        return self._closed or self._wish is not None

    def _measure(self) -> None:
        with VideoReader(self._path) as reader:
            span = open_span(reader, stop=self._is_closed)
            self._send(Measured(span.duration_s, reader.info.fps))

    def _decode(self, times_s: Sequence[float], side: int, stop: Callable[[], bool]) -> None:
        for wanted_s, thumbnail in thumbnails(self._path, times_s, side, stop):
            self._send(Decoded(wanted_s, thumbnail, side == LARGE_SIDE))

    def _guarded(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except UserError as error:
            self._send(Undecoded(str(error)))
            return False
        return True


def thumbnails(
    path: str | Path, times_s: Sequence[float], side: int, stop: Callable[[], bool]
) -> Iterator[tuple[float, Thumbnail]]:
    """Each of `times_s` (ascending) with the frame that is shown then, no side above `side` pixels.

    Raises VideoError, also where the file breaks off before the last of them.
    """
    waiting, shown = deque(times_s), None
    with VideoReader(path) as reader:
        for frame in frames_at(reader, times_s, stop):
            while shown is not None and waiting and waiting[0] < frame.time_s:
                yield waiting.popleft(), shown
            shown = _shrunk(frame, side)
            if waiting:
                yield waiting.popleft(), shown
        if stop():
            return
        if reader.broken_off_s is not None:
            raise VideoError(f"the file breaks off after {show_time(reader.broken_off_s)}", "choose an earlier part")
        if shown is not None:
            yield from ((wanted_s, shown) for wanted_s in waiting)


def _shrunk(frame: Frame, side: int) -> Thumbnail:
    frame.image.thumbnail((side, side))
    return Thumbnail(frame.image, frame.time_s, frame.index)
