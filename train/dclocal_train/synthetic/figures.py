"""Geometric shapes in any colour, drawn with smooth edges: filled, or the outline alone to put things into."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

SHAPES = (
    *("circle", "square", "triangle", "rectangle", "star", "heart"),
    *("diamond", "oval", "pentagon", "hexagon", "cross", "arrow"),
)
CONTAINERS = ("circle", "square", "rectangle", "hexagon")
ASPECT = {"rectangle": 0.55, "oval": 0.6, "diamond": 1.0, "arrow": 0.7}
SUPERSAMPLING = 3


def draw_figure(shape: str, side: int, colour: tuple[int, int, int], outline: float = 0.0) -> Image.Image:
    """The shape as RGBA, `side` pixels long; `outline` > 0: hollow, its line that share of the side thick."""
    large = side * SUPERSAMPLING
    mask = Image.new("L", (large, max(1, round(large * ASPECT.get(shape, 1)))))
    _fill(ImageDraw.Draw(mask), shape, mask.size, 0, 255)
    if outline:
        _fill(ImageDraw.Draw(mask), shape, mask.size, round(large * outline), 0)
    alpha = mask.resize((side, max(1, round(mask.height / SUPERSAMPLING))), Image.Resampling.BOX)
    figure = Image.new("RGBA", alpha.size, (*colour, 0))
    figure.putalpha(alpha)
    return figure.crop(alpha.getbbox())


def corners(shape: str) -> list[tuple[float, float]]:
    """A polygon's corners within (-1, -1) to (1, 1), y downwards.  Raises KeyError for the round shapes."""
    return _POLYGONS[shape]


def _fill(pen: ImageDraw.ImageDraw, shape: str, size: tuple[int, int], inset: int, value: int) -> None:
    width, height = size[0] - 1, size[1] - 1
    if shape in ("circle", "oval"):
        pen.ellipse((inset, inset, width - inset, height - inset), fill=value)
        return
    half_x, half_y = width / 2 - inset, height / 2 - inset
    pen.polygon([(width / 2 + x * half_x, height / 2 + y * half_y) for x, y in corners(shape)], fill=value)


def _regular(count: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners on a circle, the first at the top; every second one at `inner` of the radius."""
    steps = [(index, -math.pi / 2 + index * 2 * math.pi / count) for index in range(count)]
    return [
        ((inner if index % 2 else 1) * math.cos(angle), (inner if index % 2 else 1) * math.sin(angle))
        for index, angle in steps
    ]


def _heart() -> list[tuple[float, float]]:
    steps = [index / 60 * 2 * math.pi for index in range(60)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2.5) / 14.6,
        )
        for t in steps
    ]


_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "rectangle": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    "star": _regular(10, 0.4),
    "pentagon": _regular(5),
    "hexagon": [(y, x) for x, y in _regular(6)],
    "cross": [
        *((0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33), (0.33, 1)),
        *((-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33), (-0.33, -1)),
    ],
    "heart": _heart(),
    "arrow": [(-1, -0.4), (0.1, -0.4), (0.1, -1), (1, 0), (0.1, 1), (0.1, 0.4), (-1, 0.4)],
}
