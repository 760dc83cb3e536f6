"""Colours and their names: shades to draw with, and the one name of a drawing, if it has one."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

NAMED = {
    "red": (215, 35, 40),
    "orange": (240, 135, 25),
    "yellow": (245, 215, 45),
    "green": (45, 150, 60),
    "blue": (40, 85, 210),
    "purple": (125, 50, 165),
    "pink": (245, 130, 180),
    "brown": (120, 72, 35),
    "black": (18, 18, 18),
    "white": (250, 250, 250),
    "gray": (135, 135, 138),
}
# Hues in degrees that nobody would call otherwise; between them a colour has no name.
HUES = {"red": (-12, 12), "orange": (22, 36), "yellow": (46, 62), "green": (82, 155), "blue": (200, 245)}
HUES |= {"purple": (268, 292)}


def shade(name: str, random_source: random.Random, spread: int = 16) -> tuple[int, int, int]:
    """A shade of a named colour, each channel at most `spread` away."""
    offset = spread // 3 if name in ("black", "white", "gray") else spread
    brightness = random_source.randint(-offset, offset)
    red, green, blue = (
        min(255, max(0, channel + brightness + random_source.randint(-offset // 4, offset // 4)))
        for channel in NAMED[name]
    )
    return red, green, blue


def names_of(pixels: np.ndarray) -> np.ndarray:
    """The colour name of each of RGB pixels uint8 [n, 3], as strings; "" where a name would be disputed."""
    rgb = pixels.astype(np.float32) / 255
    high, low = rgb.max(1), rgb.min(1)
    chroma = high - low
    saturation = chroma / np.maximum(high, 1e-6)
    hue = _hue(rgb, high, np.maximum(chroma, 1e-6))
    names = np.full(len(pixels), "", dtype="U6")
    strong = (saturation > 0.45) & (high > 0.4)
    for name, (start, end) in HUES.items():
        names[strong & ((hue - start) % 360 <= end - start)] = name
    names[(hue > 315) & (hue < 350) & (saturation > 0.25) & (high > 0.8)] = "pink"
    names[(hue > 10) & (hue < 38) & (saturation > 0.35) & (high > 0.2) & (high < 0.68)] = "brown"
    names[(saturation < 0.12) & (high > 0.92)] = "white"
    names[(saturation < 0.12) & (high > 0.35) & (high < 0.75)] = "gray"
    names[(high < 0.2) & (chroma < 0.08)] = "black"
    return names


def dominant_colour(drawing: Image.Image, share: float = 0.6) -> str | None:
    """The colour name of at least `share` of an RGBA drawing's opaque pixels, or None."""
    small = np.asarray(drawing.resize((40, 40), Image.Resampling.BOX)).reshape(-1, 4)
    opaque = small[small[:, 3] > 200][:, :3]
    if len(opaque) < 60:
        return None
    names, counts = np.unique(names_of(opaque), return_counts=True)
    best = int(counts.argmax())
    return str(names[best]) if names[best] and counts[best] >= share * len(opaque) else None


def mean_colour(drawing: Image.Image) -> tuple[float, float, float]:
    """The mean RGB of an RGBA drawing's pixels, weighted by how opaque they are."""
    small = np.asarray(drawing.resize((24, 24), Image.Resampling.BOX), np.float32).reshape(-1, 4)
    red, green, blue = (small[:, :3] * small[:, 3:]).sum(0) / max(1.0, float(small[:, 3].sum()))
    return float(red), float(green), float(blue)


@lru_cache(512)
def decoded(file: Path) -> Image.Image:
    """The drawing in a file, RGBA; the last 512 are kept (200 MB at most).  Not to be changed."""
    with Image.open(file) as image:
        return image.convert("RGBA")


@lru_cache(None)
def colour_of_file(file: Path) -> str | None:
    """`dominant_colour` of the drawing in a file."""
    return dominant_colour(decoded(file))


def _hue(rgb: np.ndarray, high: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    red, green, blue = rgb.T
    sector = np.where(
        high == red,
        (green - blue) / chroma,
        np.where(high == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    return np.asarray(sector * 60 % 360)
