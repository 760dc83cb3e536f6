"""Setting text in a picture: grounds, shapes of signs, masks of letters that fit a room, colours that can be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from PIL import Image, ImageDraw

from dclocal_train.synthetic.fonts import Face, cap_height, open_font

CANVAS, MARGIN = 336, 6  # pixels
CONTRAST = 3.5  # of text and ground, by WCAG's formula
COLOURS = {
    "red": (214, 36, 36), "green": (30, 140, 55), "blue": (35, 75, 210), "yellow": (245, 215, 40),
    "orange": (240, 130, 30), "purple": (125, 45, 160), "pink": (245, 130, 180), "brown": (120, 72, 35),
    "gray": (128, 128, 128), "black": (15, 15, 15), "white": (250, 250, 250),
}  # fmt: skip
SIGNS = ("octagon", "board", "label", "note", "plate")
Colour = tuple[int, int, int]
Size = tuple[float, float]
Box = tuple[int, int, int, int]


def ground(random: Random) -> tuple[Image.Image, str, list[Colour]]:
    """A canvas, its kind ("plain", "gradient" or "noise") and the colours that text on it must stand out from."""
    first = _any_colour(random)
    (kind,) = random.choices(("plain", "gradient", "noise"), (55, 22, 23))
    canvas = Image.new("RGB", (CANVAS, CANVAS), first)
    if kind == "plain":
        return canvas, kind, [first]
    if kind == "gradient":
        second = _moved(first, [random.randint(-70, 70) for _ in first])
        ramp = Image.linear_gradient("L").rotate(random.choice((0, 90, 180, 270))).resize(canvas.size)
        return Image.composite(Image.new("RGB", canvas.size, second), canvas, ramp), kind, [first, second]
    cells = random.choice((6, 14, 40, CANVAS))
    noise = Image.frombytes("RGB", (cells, cells), random.randbytes(3 * cells * cells))
    strength = random.uniform(0.06, 0.2)
    noisy = Image.blend(canvas, noise.resize(canvas.size, Image.Resampling.BICUBIC), strength)
    mean = _moved(first, [round((128 - value) * strength) for value in first])
    return noisy, kind, [_moved(mean, [change] * 3) for change in (-20, 20)]


def _moved(colour: Colour, by: Sequence[int]) -> Colour:
    """The colour, each channel changed by that much and kept between 0 and 255."""
    red, green, blue = (min(255, max(0, value + change)) for value, change in zip(colour, by))
    return red, green, blue


def legible(grounds: Sequence[Colour], random: Random) -> str:
    """A colour's name that stands out from all of `grounds`; where none does, the one that does most."""
    lowest = {name: min(contrast(colour, ground) for ground in grounds) for name, colour in COLOURS.items()}
    clear = [name for name, least in lowest.items() if least >= CONTRAST]
    return random.choice(clear) if clear else max(lowest, key=lambda name: lowest[name])


def contrast(one: Colour, other: Colour) -> float:
    """1 to 21, WCAG 2's contrast ratio."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def fit(face: Face, text: str, cap: float, room: Size, angle: float, lowest: float) -> tuple[Size, Image.Image] | None:
    """The text's upright size and its mask turned by `angle`, which lies within `room`: cap height `cap` or less.

    None where it does not fit at the cap height `lowest`.
    """
    for _ in range(12):
        if cap < lowest:
            return None
        upright = mask_of(face, cap, text)
        mask = upright.rotate(angle, Image.Resampling.BICUBIC, expand=True) if angle else upright
        excess = max(mask.width / room[0], mask.height / room[1])
        if excess <= 1:
            return upright.size, mask
        cap = max(cap / excess, lowest) if cap > lowest else 0
    return None


def mask_of(face: Face, cap: float, text: str) -> Image.Image:
    """The text's mask (L), cut to its box; lines of the text are centred."""
    font = open_font(face, max(1, math.ceil(cap / cap_height(face))))
    spacing = round(cap * 0.35)
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = pen.multiline_textbbox((0, 0), text, font, spacing=spacing, align="center")
    mask = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(mask).multiline_text((-left, -top), text, 255, font, spacing=spacing, align="center")
    return mask


def turned_size(size: Size, angle: float) -> Size:
    """The width and height of an upright rectangle around one of `size`, turned."""
    cosine, sine = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    return size[0] * cosine + size[1] * sine, size[0] * sine + size[1] * cosine


def centre_for(size: Size, random: Random) -> tuple[float, float]:
    """A centre at which a thing of `size` lies within the canvas, or the canvas's own centre."""
    x, y = (random.uniform(min(side / 2 + 2, CANVAS / 2), max(CANVAS - side / 2 - 2, CANVAS / 2)) for side in size)
    return x, y


def paint(image: Image.Image, mask: Image.Image, place: tuple[int, int], colour: str, random: Random) -> Box:
    """Lay the text down with its upper left corner at `place`; its box in pixels."""
    shade = tuple(min(255, max(0, value + random.randint(-10, 10))) for value in COLOURS[colour])
    image.paste(shade, place, mask)
    left, top, right, bottom = mask.point(lambda value: 255 * (value > 96)).getbbox() or (0, 0, *mask.size)
    return left + place[0], top + place[1], right + place[0], bottom + place[1]


def sign_size(sign: str, size: Size) -> Size:
    """The upright size of a sign around a text of this size."""
    width, height = size
    if sign == "octagon":
        side = max(width, 1.4 * height) * 1.42
        return side, side
    if sign == "note":
        return width * 1.2 + 8, max(height * 1.5, width * 0.8)
    return width * 1.1 + 16, height * 1.35 + 16


def paint_sign(
    image: Image.Image, sign: str, size: Size, centre: tuple[float, float], angle: float, random: Random
) -> Colour:
    """Draw the sign, turned; returns the colour of its face."""
    face, border = {
        "octagon": ((196, 30, 38), (250, 250, 250)),
        "label": ((250, 248, 240), None),
        "note": ((250, 232, 110), None),
        "plate": (random.choice(((250, 250, 250), (250, 205, 40))), (25, 25, 25)),
        "board": random.choice(_BOARDS),
    }[sign]
    _polygon(image, sign, size, centre, angle, border or face)
    if border:
        edge = max(4, 0.05 * min(size))
        _polygon(image, sign, (size[0] - edge, size[1] - edge), centre, angle, face)
    return face


_BOARDS: tuple[tuple[Colour, Colour], ...] = (
    ((20, 110, 60), (250, 250, 250)), ((25, 70, 160), (250, 250, 250)), ((250, 250, 250), (200, 30, 35)),
    ((250, 210, 50), (20, 20, 20)), ((30, 30, 35), (240, 200, 80)), ((120, 80, 45), (235, 220, 190)),
)  # fmt: skip


def _polygon(
    image: Image.Image, sign: str, size: Size, centre: tuple[float, float], angle: float, colour: Colour
) -> None:
    corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    if sign == "octagon":
        near, far = 0.5 * math.tan(math.pi / 8), 0.5
        corners = [(near, far), (far, near), (far, -near), (near, -far)]
        corners += [(-x, -y) for x, y in corners]
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    mask = Image.new("L", (2 * CANVAS, 2 * CANVAS))
    points = [(x * size[0], y * size[1]) for x, y in corners]
    turned = [(centre[0] + x * cosine + y * sine, centre[1] - x * sine + y * cosine) for x, y in points]
    ImageDraw.Draw(mask).polygon([(2 * x, 2 * y) for x, y in turned], fill=255)
    image.paste(colour, (0, 0), mask.reduce(2))


def _any_colour(random: Random) -> Colour:
    """Often a pale or a dark one, as paper, walls and boards are."""
    low, high = random.choice(((185, 255), (0, 90), (0, 255)))
    red, green, blue = (random.randint(low, high) for _ in range(3))
    return red, green, blue


def _luminance(colour: Colour) -> float:
    red, green, blue = (
        value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
