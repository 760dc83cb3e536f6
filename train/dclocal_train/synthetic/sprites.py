"""Objects ready to be put into a scene: a drawing or a shape, turned, mirrored and scaled."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageOps

from dclocal_train.synthetic.colours import NAMED, colour_of_file, decoded, mean_colour, shade
from dclocal_train.synthetic.figures import draw_figure
from dclocal_train.synthetic.things import Thing

TURN = 12  # degrees
FLAT_ALPHA = 40  # below it a pixel is not seen
# What a mirror would make false: letters, digits and directions.
_ONE_SIDED = frozenset(
    "clock watch sign book newspaper keyboard calendar arrow left right letter flag number button stop dollar "
    "banknote bank abc hospital calculator dvd disk map globe guitar scroll stopwatch timer chart".split()
)


@dataclass(frozen=True)
class Wanted:
    """An object to be drawn: a thing, or the shape `name` in a named `colour`; `outline` > 0 leaves it hollow."""

    name: str
    thing: Thing | None = None
    colour: str | None = None
    outline: float = 0.0


@dataclass(frozen=True)
class Sprite:
    """An object's picture, RGBA without empty margins, and the one name of its colour, if it has one."""

    wanted: Wanted
    picture: Image.Image
    colour: str | None


def draw_sprite(wanted: Wanted, side: int, random_source: random.Random) -> Sprite:
    """The object with its longer side `side` pixels, mirrored where harmless and turned by up to TURN degrees."""
    if wanted.thing is None:
        assert wanted.colour is not None
        picture = draw_figure(wanted.name, side, shade(wanted.colour, random_source), wanted.outline)
        colour: str | None = wanted.colour
    else:
        picture = decoded(wanted.thing.file)
        colour = colour_of_file(wanted.thing.file)
        if random_source.random() < 0.5 and may_mirror(wanted.thing):
            picture = ImageOps.mirror(picture)
    if random_source.random() < 0.5 and not wanted.outline:
        angle = random_source.uniform(-TURN, TURN)
        picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    return Sprite(wanted, _fitted(picture, side), colour)


def may_mirror(thing: Thing) -> bool:
    """Whether the drawing shows the same thing in a mirror."""
    words = set(thing.name.lower().split())
    return words.isdisjoint(_ONE_SIDED) and thing.category not in ("symbol", "flag", "sign")


def names_a_colour(name: str) -> bool:
    """Whether the name tells a colour already: "red apple"."""
    return not set(name.split()).isdisjoint((*NAMED, "grey", "golden", "dark", "light"))


def contrast(sprite: Sprite, background: Image.Image) -> float:
    """The least distance in RGB between the object's mean colour and a ninth of the background."""
    red, green, blue = mean_colour(sprite.picture)
    cells = background.resize((3, 3), Image.Resampling.BOX)
    pixels = [cells.getpixel((x, y)) for x in range(3) for y in range(3)]
    return float(min(((r - red) ** 2 + (g - green) ** 2 + (b - blue) ** 2) ** 0.5 for r, g, b in pixels))  # type: ignore[misc]


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Cut to what can be seen, the longer side `side` pixels."""
    seen = visible_box(picture)
    cut = picture.crop(seen) if seen else picture
    scale = side / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    return cut if size == cut.size else cut.resize(size, Image.Resampling.BICUBIC)


def visible_box(picture: Image.Image) -> tuple[int, int, int, int] | None:
    """The box of an RGBA picture's pixels that can be seen."""
    return picture.getchannel("A").point([0] * FLAT_ALPHA + [255] * (256 - FLAT_ALPHA)).getbbox()
