"""What scenes are drawn on: plain and shaded colours, textures, and photographs that come with packages."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from dclocal.errors import UserError
from dclocal_train.synthetic.colours import NAMED, shade

CANVAS = 336
# Photographs in the wheels of scikit-image and scikit-learn, and the things to be seen in them.
PHOTOGRAPHS = {
    "skimage/data/brick.png": ("brick", "wall"),
    "skimage/data/grass.png": ("grass", "plant", "leaf"),
    "skimage/data/gravel.png": ("gravel", "stone", "rock"),
    "skimage/data/moon.png": ("moon", "crater"),
    "skimage/data/hubble_deep_field.jpg": ("star", "galaxy", "night", "sky", "milky", "planet", "comet"),
    "sklearn/datasets/images/china.jpg": ("building", "house", "castle", "temple", "tree", "roof", "sky", "cloud"),
    "sklearn/datasets/images/flower.jpg": ("flower", "blossom", "plant", "leaf", "rose", "lotus", "tulip", "dahlia"),
}
KINDS = ("plain", "plain", "plain", "gradient", "texture", "texture", "photo")


@dataclass(frozen=True)
class Photo:
    """A photograph, RGB and at least CANVAS pixels a side, and the things to be seen in it."""

    image: Image.Image
    contents: tuple[str, ...]


@dataclass(frozen=True)
class Background:
    """An RGB picture of CANVAS² pixels.  `colour` is its name, None where people would differ.

    `kind`: "plain", "gradient", "texture" or "photo"; `pattern`: "stripes", "checks" or "dots" that are there to
    be seen, else ""; `contents`: words for what a photograph shows, which nobody may be told is absent.
    """

    image: Image.Image
    colour: str | None
    kind: str
    pattern: str = ""
    contents: tuple[str, ...] = ()


class PhotographsMissing(UserError):
    """The packages with sample photographs are not installed."""


def load_photos() -> tuple[Photo, ...]:
    """The photographs of PHOTOGRAPHS from the installed packages; PhotographsMissing where a package lacks."""
    photos = []
    for place, contents in PHOTOGRAPHS.items():
        package, _, name = place.partition("/")
        found = find_spec(package)
        file = Path(found.origin).parent / name if found and found.origin else None
        if file is None or not file.is_file():
            raise PhotographsMissing(f"no {place} among the installed packages; run: pip install 'dclocal[train]'")
        with Image.open(file) as image:
            rgb = image.convert("RGB")
        photos.append(Photo(ImageOps.contain(rgb, (640, 640)), contents))
    return tuple(photos)


def draw_background(random_source: random.Random, photos: Sequence[Photo] = ()) -> Background:
    """A background of any kind; no photographs where `photos` is empty."""
    kind = random_source.choice(KINDS)
    if kind == "photo" and photos:
        return _photograph(random_source.choice(photos), random_source)
    if kind == "gradient":
        return _gradient(random_source)
    if kind == "texture":
        return random_source.choice((_noise, _grain, _stripes, _checks, _dots))(random_source)
    return plain(random_source)


def plain(random_source: random.Random, name: str | None = None) -> Background:
    """One flat shade of a named colour, any where `name` is None; white is the most frequent."""
    name = name or random_source.choice((*NAMED, "white", "white"))
    return Background(Image.new("RGB", (CANVAS, CANVAS), shade(name, random_source)), name, "plain")


def _gradient(random_source: random.Random) -> Background:
    """Two shades of one colour, which is named, or of two colours, which are not; in one of four directions."""
    first = random_source.choice(tuple(NAMED))
    second = first if random_source.random() < 0.5 else random_source.choice(tuple(NAMED))
    start, end = (np.array(shade(name, random_source), np.float32) for name in (first, second))
    if first == second:
        end = end * 0.82 if end.mean() > 60 else end + 30
    ramp = np.linspace(0, 1, CANVAS, dtype=np.float32)
    across, down = np.meshgrid(ramp, ramp)
    weight = random_source.choice((across, down, (across + down) / 2, (across + 1 - down) / 2))[..., None]
    pixels = start * (1 - weight) + end * weight
    named = first == second and first not in ("white", "orange", "black")
    return Background(_image(pixels), first if named else None, "gradient")


def _noise(random_source: random.Random) -> Background:
    """Coarse blotches between two random colours."""
    cells = random_source.choice((6, 12, 24, 48))
    values = Image.frombytes("L", (cells, cells), random_source.randbytes(cells * cells))
    mask = values.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    return Background(ImageOps.colorize(mask, *_two_colours(random_source)), None, "texture")


def _grain(random_source: random.Random) -> Background:
    """A named colour under fine grey grain."""
    name = random_source.choice(tuple(NAMED))
    strength = random_source.choice((12, 20, 30))
    grain = np.frombuffer(random_source.randbytes(CANVAS * CANVAS), np.uint8).reshape(CANVAS, CANVAS, 1)
    pixels = np.array(shade(name, random_source), np.float32) + (grain / np.float32(127.5) - 1) * strength
    return Background(_image(pixels), name, "texture")


def _stripes(random_source: random.Random) -> Background:
    width = random_source.randint(8, 40)
    rows, columns = np.mgrid[:CANVAS, :CANVAS]
    along = random_source.choice((rows, columns, rows + columns, rows - columns))
    return _two_tone((along // width) % 2 == 0, "stripes", random_source)


def _checks(random_source: random.Random) -> Background:
    width = random_source.randint(14, 56)
    rows, columns = np.mgrid[:CANVAS, :CANVAS]
    return _two_tone((rows // width + columns // width) % 2 == 0, "checks", random_source)


def _dots(random_source: random.Random) -> Background:
    width = random_source.randint(18, 48)
    rows, columns = (axis % width - width / 2 for axis in np.mgrid[:CANVAS, :CANVAS])
    radius = width * random_source.uniform(0.2, 0.35)
    return _two_tone(rows**2 + columns**2 < radius**2, "dots", random_source)


def _two_tone(mask: np.ndarray, pattern: str, random_source: random.Random) -> Background:
    """A colour and a paler one in a pattern: quiet enough that objects stand out."""
    base = np.array(shade(random_source.choice(tuple(NAMED)), random_source), np.float32)
    other = base + (np.array(shade("white", random_source), np.float32) - base) * random_source.uniform(0.35, 0.7)
    if base.mean() > 200:
        other = base * 0.85
    pixels = np.where(mask[..., None], base.astype(np.uint8), other.astype(np.uint8))
    return Background(Image.fromarray(pixels), None, "texture", pattern)


def _photograph(photo: Photo, random_source: random.Random) -> Background:
    """A crop, mirrored half the time and mostly out of focus."""
    width, height = photo.image.size
    side = int(min(width, height) * random_source.uniform(0.5, 1))
    x, y = random_source.randint(0, width - side), random_source.randint(0, height - side)
    crop = photo.image.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    if random_source.random() < 0.5:
        crop = ImageOps.mirror(crop)
    radius = random_source.choice((0, 2, 4, 6))
    soft = crop.filter(ImageFilter.BoxBlur(radius)) if radius else crop
    return Background(soft, None, "photo", contents=photo.contents)


def _two_colours(random_source: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two colours near each other, so that blotches do not look like things."""
    first = shade(random_source.choice(tuple(NAMED)), random_source)
    mark: Callable[[int], int] = lambda value: min(255, max(0, value + random_source.randint(-60, 60)))  # noqa: E731
    return first, (mark(first[0]), mark(first[1]), mark(first[2]))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
