"""A small picture of a file, before it is attached: of a picture itself, of a video the frame in its middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.sampling import frames_at, never, show_time
from dclocal.video import Frame, VideoError, VideoReader

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 512
MAX_DECODED = 600
"""Frames decoded at most on the way to a video's middle; where that is not enough, its first frame is shown."""


@dataclass(frozen=True, eq=False)
class Peek:
    """RGB with sides of at most SIDE pixels, and a line about the whole file."""

    picture: Image
    about: str


def peek(path: Path, kind: str, stopped: Callable[[], bool] = never) -> Peek:
    """Look at an image or a video, which may take seconds.  Raises ImageError or VideoError."""
    return _video(path, stopped) if kind == "video" else _image(path)


def _image(path: Path) -> Peek:
    from dclocal.images import load_image

    return _peek(load_image(path))


def _video(path: Path, stopped: Callable[[], bool]) -> Peek:
    with VideoReader(path) as reader:
        info = reader.info

        def enough() -> bool:
            return stopped() or reader.decoded > MAX_DECODED

        frame = next(frames_at(reader, [(info.duration_s or 0.0) / 2], enough), None) or _first(reader)
        length = "length not known" if info.duration_s is None else show_time(info.duration_s)
        return _peek(frame.image, f" · {length} · {info.fps:.4g} fps")


def _first(reader: VideoReader) -> Frame:
    reader.reopen()
    frame = reader.take()
    if frame is None:
        raise VideoError(f"{reader.name}: no frame can be decoded", "the file is damaged or cut short")
    return frame


def _peek(image: Image, more: str = "") -> Peek:
    about = f"{image.width}×{image.height}{more}"
    image.thumbnail((SIDE, SIDE))
    return Peek(image, about)
