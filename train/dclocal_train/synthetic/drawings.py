"""What every source of drawings hands on: a concept with its names, and a picture without empty margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LONGER_SIDE = 320
FAINT = 8  # of 255: alpha below this counts as nothing drawn


@dataclass(frozen=True)
class Concept:
    """A thing apart from its drawings; the fields are those of `things.Thing`."""

    concept: str
    name: str
    names: tuple[str, ...]
    category: str


def trimmed(image: Image) -> Image | None:
    """The drawing as RGBA without empty margins, its longer side at most 320 pixels; None where nothing is drawn."""
    from PIL import Image as images

    picture = image.convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha >= FAINT else 0).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    longer = max(picture.size)
    if longer <= LONGER_SIDE:
        return picture
    width, height = (max(1, round(side * LONGER_SIDE / longer)) for side in picture.size)
    # Pillow premultiplies alpha itself when it resizes RGBA: no fringe of the invisible pixels' colour.
    return picture.resize((width, height), images.Resampling.LANCZOS)
