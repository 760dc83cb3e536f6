"""Drawings of named things: emoji of several vendors and clip art, each a transparent picture in a folder.

Every generator of scenes takes its objects from here, so that what is held out is held out once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Thing:
    """One drawing of one thing.

    `concept` is the thing itself, the same in every style ("emoji:1f34e", "clipart:apple"); `name` is what an
    answer calls it, without article ("red apple"); `names` are the other words that are right too.  `style` is
    the hand that drew it: a vendor of emoji, or "openclipart".  `category` is one word for what sort of thing it
    is ("animal", "food", …; "" where the source tells none).  `file` is an RGBA PNG without empty margins, its
    longer side at most 320 pixels.  `split`: "train" or "test".
    """

    concept: str
    name: str
    names: tuple[str, ...]
    style: str
    category: str
    file: Path
    split: str

    def picture(self) -> Image:
        """The drawing, RGBA."""
        from PIL import Image

        with Image.open(self.file) as image:
            return image.convert("RGBA")
