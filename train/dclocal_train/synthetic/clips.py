"""Short clips of shapes and drawings on a plain background, frame by frame, written as Motion JPEG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dclocal.errors import UserError
from dclocal.video import import_cv2
from dclocal_train.synthetic.backgrounds import CANVAS
from dclocal_train.synthetic.sprites import Sprite

FPS = 8
FRAMES = 16
MARGIN = 8  # pixels between a thing at the end of its way and the edge

Placed = tuple[Sprite, tuple[int, int]]
"""A thing and where its centre is, (x, y) in pixels."""


def still(background: Image.Image, things: Iterable[Placed]) -> Image.Image:
    """The background with things on it, RGB."""
    frame = background.copy()
    for sprite, (x, y) in things:
        width, height = sprite.picture.size
        frame.paste(sprite.picture, (x - width // 2, y - height // 2), sprite.picture)
    return frame


def in_turn(stills: Sequence[Image.Image], changes: Sequence[int]) -> list[Image.Image]:
    """FRAMES frames: each still until the frame whose number is its change, the last one to the end."""
    ends = [*changes, FRAMES]
    return [next(one for one, end in zip(stills, ends) if number < end) for number in range(FRAMES)]


def crossing(background: Image.Image, sprite: Sprite, direction: str, across: float) -> list[Image.Image]:
    """A thing on its way from one side of the picture to the other: "left", "right", "up" or "down" is where to.

    `across`, 0 to 1, is where its path lies on the other axis.  It is whole in every frame.
    """
    width, height = sprite.picture.size
    beside = direction in ("left", "right")
    along, other = (width, height) if beside else (height, width)
    path = np.linspace(MARGIN + along / 2, CANVAS - MARGIN - along / 2, FRAMES)
    fixed = MARGIN + other / 2 + across * (CANVAS - 2 * MARGIN - other)
    steps = path[::-1] if direction in ("left", "up") else path
    centres = [(round(step), round(fixed)) if beside else (round(fixed), round(step)) for step in steps]
    return [still(background, [(sprite, centre)]) for centre in centres]


def write_clip(file: Path, frames: Sequence[Image.Image]) -> None:
    """An AVI file of FPS frames a second.  Raises UserError where it cannot be written."""
    cv2 = import_cv2()
    code = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(file), cv2.CAP_OPENCV_MJPEG, code, float(FPS), frames[0].size)
    if not writer.isOpened():
        raise UserError(f"{file} cannot be written", "check the folder, its permissions and the space left")
    try:
        for frame in frames:
            writer.write(np.ascontiguousarray(np.asarray(frame)[..., ::-1]))
    finally:
        writer.release()
