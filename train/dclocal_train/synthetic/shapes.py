"""Scenes of several shapes with exact truth: counting, colours, sizes, places and what is not there."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from dclocal.progress import Progress, silent
from dclocal_train.synthetic.rows import conversation_row

CANVAS, SUPERSAMPLING = 336, 2
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 50),
    "purple": (140, 60, 170),
    "orange": (240, 140, 40),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = {"small": (18, 26), "large": (38, 50)}  # half of a side, in pixels
BACKGROUNDS = ((205, 205, 210), (190, 205, 190), (215, 200, 185), (150, 155, 165))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Thing:
    """One shape: its name, colour, size, centre (x, y) and half side in pixels."""

    shape: str
    colour: str
    size: str
    x: int
    y: int
    radius: int


def build(folder: Path, *, scenes: int, seed: int, name: str = "shapes", progress: Progress = silent) -> list[Any]:
    """Conversation rows of `scenes` pictures drawn under `folder`/`name`; another seed makes other scenes."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(scenes):
        progress("drawing scenes", index + 1, scenes)
        random_source = random.Random(f"{seed}-{index}")
        things = arrange(random_source)
        file = f"{name}/{seed}-{index}.png"
        draw(things, random_source).save(folder / file)
        rows.append(conversation_row(f"{name}-{seed}-{index}", file, ask(things, random_source)))
    return rows


def arrange(random_source: random.Random) -> list[Thing]:
    """One to six shapes that do not touch."""
    things: list[Thing] = []
    wanted = random_source.randint(1, 6)
    for _ in range(400):
        if len(things) == wanted:
            break
        size = random_source.choice(list(SIZES))
        radius = random_source.randint(*SIZES[size])
        x, y = (random_source.randint(radius + 4, CANVAS - radius - 4) for _ in range(2))
        if all(math.hypot(x - other.x, y - other.y) > 1.45 * (radius + other.radius) for other in things):
            shape, colour = random_source.choice(SHAPES), random_source.choice(list(COLOURS))
            things.append(Thing(shape, colour, size, x, y, radius))
    return things


def draw(things: list[Thing], random_source: random.Random) -> Image.Image:
    """The scene on a plain background, smooth edges."""
    side = CANVAS * SUPERSAMPLING
    image = Image.new("RGB", (side, side), random_source.choice(BACKGROUNDS))
    pen = ImageDraw.Draw(image)
    for thing in things:
        x, y, radius = (value * SUPERSAMPLING for value in (thing.x, thing.y, thing.radius))
        colour = COLOURS[thing.colour]
        if thing.shape == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        else:
            pen.polygon([(x + radius * px, y + radius * py) for px, py in outline(thing.shape)], fill=colour)
    return image.resize((CANVAS, CANVAS), Image.Resampling.LANCZOS)


def outline(shape: str) -> list[tuple[float, float]]:
    """A polygon's corners in units of the half side, y downwards."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]
    if shape == "cross":
        third = 0.33
        quarter = [(third, -1), (third, -third), (1, -third)]
        return [_turned(point, turn) for turn in range(4) for point in quarter]
    if shape == "star":
        angles = [-math.pi / 2 + index * math.pi / 5 for index in range(10)]
        return [
            ((0.42 if index % 2 else 1) * math.cos(angle), (0.42 if index % 2 else 1) * math.sin(angle))
            for index, angle in enumerate(angles)
        ]
    steps = [index / 40 * 2 * math.pi for index in range(40)]  # the heart's well-known curve
    curve = [
        (16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        for t in steps
    ]
    return [(x / 17, -y / 17) for x, y in curve]


def ask(things: list[Thing], random_source: random.Random) -> list[tuple[str, str]]:
    """Questions with answers of one word, of every kind that the scene allows."""
    turns = [("how many shapes are there?", NUMBERS[len(things)])]
    colours = Counter(thing.colour for thing in things)
    present = random_source.choice(sorted(colours))
    turns.append((f"how many {present} shapes are there?", NUMBERS[colours[present]]))
    turns += _existence(things, random_source)
    shapes = Counter(thing.shape for thing in things)
    single = [thing for thing in things if shapes[thing.shape] == 1]
    if single:
        thing = random_source.choice(single)
        turns.append((f"what color is the {thing.shape}?", thing.colour))
        other = random_source.choice(single)
        turns.append((f"is the {other.shape} small or large?", other.size))
    if len(single) >= 2:
        turns += _places(*random_source.sample(single, 2))
    random_source.shuffle(turns)
    return turns


def _existence(things: list[Thing], random_source: random.Random) -> list[tuple[str, str]]:
    """One thing that is there and one that is not, though its colour and its shape both are where that can be."""
    there = {(thing.colour, thing.shape) for thing in things}
    colour, shape = random_source.choice(sorted(there))
    mixed = sorted({(one, other) for one, _ in there for _, other in there} - there)
    every = [(one, other) for one in COLOURS for other in SHAPES if (one, other) not in there]
    false_colour, false_shape = random_source.choice(mixed or every)
    return [
        (f"is there a {colour} {shape}?", "yes"),
        (f"is there a {false_colour} {false_shape}?", "no"),
    ]


def _places(one: Thing, other: Thing) -> list[tuple[str, str]]:
    """Where one stands to the other, on the axes on which they are clearly apart."""
    turns = []
    clear = 40
    if abs(one.x - other.x) > clear:
        side = "left" if one.x < other.x else "right"
        turns.append((f"is the {one.shape} left or right of the {other.shape}?", side))
    if abs(one.y - other.y) > clear:
        side = "above" if one.y < other.y else "below"
        turns.append((f"is the {one.shape} above or below the {other.shape}?", side))
    return turns


def _turned(point: tuple[float, float], quarters: int) -> tuple[float, float]:
    x, y = point
    for _ in range(quarters):
        x, y = -y, x
    return x, y
