"""Simple charts with known values: bars upright and lying, lines, pies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from dclocal_train.synthetic.fonts import Face, open_font
from dclocal_train.synthetic.lettering import CANVAS, COLOURS

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

LABELS = (
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("apples", "pears", "plums", "figs", "kiwis", "limes"),
    ("cats", "dogs", "birds", "fish", "cows", "pigs"),
    ("red", "blue", "green", "pink", "black", "gray"),
    ("Ann", "Bob", "Eva", "Tom", "Max", "Lea"),
    ("2019", "2020", "2021", "2022", "2023", "2024"),
    ("A", "B", "C", "D", "E", "F"),
    ("North", "South", "East", "West", "Coast", "City"),
    ("tea", "milk", "juice", "water", "cola", "coffee"),
)
TITLES = ("Sales", "Votes", "Visitors", "Points", "Rain", "Orders", "Books", "Growth", "Results", "Score", "Budget")
KINDS = {"bar": 45, "lying": 15, "line": 20, "pie": 20}
HIGHEST = 20
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 44, 40  # pixels around the plot
INK, PAPER = (25, 25, 25), (255, 255, 255)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Chart:
    """A chart of `kind` "bar", "lying" (bars), "line" or "pie": `values` by `labels`, 1 to HIGHEST each.

    `colours`: of each bar or slice, by name.  `boxes`: bars in pixels (none for lines and pies).  `printed`: each value
    stands beside its mark.  `top_of_axis`: the value at the end of the axis.
    """

    image: Image.Image
    kind: str
    title: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[str, ...]
    printed: bool
    top_of_axis: int
    boxes: tuple[Box, ...] = ()


def draw_chart(faces: Sequence[Face], random: Random, kinds: Sequence[str] = tuple(KINDS)) -> Chart:
    """A chart of one of `kinds`, labelled in a face of the split "train"."""
    kind = random.choices(kinds, [KINDS[kind] for kind in kinds])[0]
    plain = [face for face in faces if face.split == "train" and not face.capitals]
    count = random.randint(2, 5 if kind in ("pie", "lying") else 6)
    labels = tuple(random.sample(random.choice(LABELS), count))
    font = _font(random.choice(plain), labels, random.randint(15, 18))
    values = _values(count, random)
    many = kind == "pie" or (kind != "line" and random.random() < 0.4)
    names = [name for name in COLOURS if name not in ("white", "black")]
    colours = tuple(random.sample(names, count)) if many else (random.choice(names),) * count
    title = random.choice(TITLES) if random.random() < 0.7 else ""
    image = Image.new("RGB", (CANVAS, CANVAS), PAPER)
    chart = Chart(image, kind, title, labels, values, colours, random.random() < 0.5, _top(max(values)))
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((CANVAS / 2, 20), title, INK, open_font(random.choice(plain), 24), anchor="mm")
    drawn: dict[str, tuple[Box, ...]] = {
        "bar": _bars(chart, draw, font) if kind == "bar" else (),
        "lying": _lying_bars(chart, draw, font) if kind == "lying" else (),
    }
    if kind == "line":
        _line(chart, draw, font)
    elif kind == "pie":
        _pie(chart, draw, font)
    return Chart(**{**chart.__dict__, "boxes": drawn.get(kind, ())})


def _font(face: Face, labels: Sequence[str], size: int) -> FreeTypeFont:
    """The face at `size` or as much smaller as the labels need to stand side by side."""
    room = 0.92 * (CANVAS - LEFT - RIGHT) / max(4, len(labels))
    while size > 9 and max(open_font(face, size).getlength(label) for label in labels) > room:
        size -= 1
    return open_font(face, size)


def _values(count: int, random: Random) -> tuple[int, ...]:
    """Different values, so that one of them is the largest and one the smallest."""
    return tuple(random.sample(range(1, random.choice((10, HIGHEST)) + 1), count))


def _top(value: int) -> int:
    return next(top for top in (5, 10, 15, 20) if top >= value)


def _axis(chart: Chart, draw: ImageDraw.ImageDraw, font: FreeTypeFont) -> None:
    """Ticks of the upright axis, each with a faint line."""
    for tick in range(0, chart.top_of_axis + 1, 5 if chart.top_of_axis > 5 else 1):
        y = _height(tick, chart)
        draw.line((LEFT, y, CANVAS - RIGHT, y), fill=(215, 215, 215) if tick else INK)
        draw.text((LEFT - 6, y), str(tick), INK, font, anchor="rm")
    draw.line((LEFT, TOP, LEFT, CANVAS - BOTTOM), fill=INK)


def _height(value: float, chart: Chart) -> float:
    return CANVAS - BOTTOM - (CANVAS - TOP - BOTTOM) * value / chart.top_of_axis


def _bars(chart: Chart, draw: ImageDraw.ImageDraw, font: FreeTypeFont) -> tuple[Box, ...]:
    _axis(chart, draw, font)
    step = (CANVAS - LEFT - RIGHT) / len(chart.values)
    boxes = []
    for index, (label, value, colour) in enumerate(zip(chart.labels, chart.values, chart.colours)):
        middle = LEFT + step * (index + 0.5)
        box = (middle - step * 0.32, _height(value, chart), middle + step * 0.32, float(CANVAS - BOTTOM))
        draw.rectangle(box, COLOURS[colour])
        draw.text((middle, CANVAS - BOTTOM + 14), label, INK, font, anchor="mm")
        if chart.printed:
            draw.text((middle, box[1] - 10), str(value), INK, font, anchor="mm")
        boxes.append(box)
    return tuple(boxes)


def _lying_bars(chart: Chart, draw: ImageDraw.ImageDraw, font: FreeTypeFont) -> tuple[Box, ...]:
    left = 72
    length = (CANVAS - left - 34) / chart.top_of_axis
    step = (CANVAS - TOP - BOTTOM) / len(chart.values)
    for tick in range(0, chart.top_of_axis + 1, 5 if chart.top_of_axis > 5 else 1):
        x = left + length * tick
        draw.line((x, TOP, x, CANVAS - BOTTOM), fill=(215, 215, 215) if tick else INK)
        draw.text((x, CANVAS - BOTTOM + 14), str(tick), INK, font, anchor="mm")
    boxes = []
    for index, (label, value, colour) in enumerate(zip(chart.labels, chart.values, chart.colours)):
        middle = TOP + step * (index + 0.5)
        box = (float(left), middle - step * 0.32, left + length * value, middle + step * 0.32)
        draw.rectangle(box, COLOURS[colour])
        draw.text((left - 6, middle), label, INK, font, anchor="rm")
        if chart.printed:
            draw.text((box[2] + 14, middle), str(value), INK, font, anchor="mm")
        boxes.append(box)
    return tuple(boxes)


def _line(chart: Chart, draw: ImageDraw.ImageDraw, font: FreeTypeFont) -> None:
    _axis(chart, draw, font)
    step = (CANVAS - LEFT - RIGHT) / len(chart.values)
    points = [(LEFT + step * (index + 0.5), _height(value, chart)) for index, value in enumerate(chart.values)]
    draw.line(points, COLOURS[chart.colours[0]], width=4)
    for (x, y), label, value in zip(points, chart.labels, chart.values):
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), COLOURS[chart.colours[0]])
        draw.text((x, CANVAS - BOTTOM + 14), label, INK, font, anchor="mm")
        if chart.printed:
            draw.text((x, y - 15), str(value), INK, font, anchor="mm")


def _pie(chart: Chart, draw: ImageDraw.ImageDraw, font: FreeTypeFont) -> None:
    middle_x, middle_y, radius = CANVAS / 2, CANVAS / 2 + 18, 100.0
    box = (middle_x - radius, middle_y - radius, middle_x + radius, middle_y + radius)
    start = -90.0
    for label, value, colour in zip(chart.labels, chart.values, chart.colours):
        sweep = 360 * value / sum(chart.values)
        draw.pieslice(box, start, start + sweep, COLOURS[colour], PAPER, 2)
        along = math.radians(start + sweep / 2)
        text = f"{label} {value}" if chart.printed else label
        x, y = middle_x + math.cos(along) * (radius + 30), middle_y + math.sin(along) * (radius + 18)
        draw.text((min(max(x, 34), CANVAS - 34), y), text, INK, font, anchor="mm")
        start += sweep
