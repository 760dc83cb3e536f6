"""A test of videos: clips of two seconds that are asked what only several of their frames tell.

Clips come in pairs with one question text and, where it gives two choices, both answers, so that half of those are
right without looking.  Where something changes at once it does so before the middle in half of the pairs and after it
in the others, so that the middle frame alone tells no more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dclocal.eval_test import write_test
from dclocal_train.synthetic.backgrounds import CANVAS, plain
from dclocal_train.synthetic.clips import FRAMES, Placed, crossing, in_turn, still, write_clip
from dclocal_train.synthetic.concepts import Concepts, concepts_of
from dclocal_train.synthetic.emoji_concepts import VENDORS
from dclocal_train.synthetic.english import countable, number
from dclocal_train.synthetic.naming_tests import NO_OBJECTS
from dclocal_train.synthetic.sprites import Sprite, Wanted, contrast, draw_sprite
from dclocal_train.synthetic.things import Thing

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")  # that nobody takes for one another
COLOURS = ("red", "yellow", "green", "blue", "black", "white")
CONTRAST = 95.0
SMALL, LARGE = (70, 92), (90, 140)  # the longer side of a thing in pixels
MOST = 3
"""The largest number that is asked for."""
CELLS = tuple((x, y) for x in (60, 168, 276) for y in (60, 168, 276))
EARLY, LATE = (5, 6), (10, 11)
"""Frames that a change may happen at, before the middle one and after it."""


@dataclass(frozen=True)
class Told:
    """What a pair of clips has in common: things to draw with, chance, and the frame of a sudden change; `turn` counts
    the clips of their kind and decides which answer is the right one."""

    drawn: Concepts
    chance: random.Random
    change: int
    turn: int


@dataclass(frozen=True)
class Clip:
    """A clip with its question."""

    frames: list[Image.Image]
    question: str
    answers: tuple[str, ...]


def video_test(things: Sequence[Thing], folder: Path, count: int = 200, seed: int = 0) -> None:
    """Fill `folder` with `count` clips, one question each, kind after kind in pairs.

    Drawn are shapes and the most common things among the emoji that training draws with.
    """
    drawn = concepts_of(thing for thing in things if _is_common(thing))
    rows: list[dict[str, Any]] = []
    for index in range(count):
        pair = index // 2
        kind = tuple(KINDS)[pair % len(KINDS)]
        clip = _drawn(KINDS[kind], drawn, f"clips-{seed}-{pair}", pair // len(KINDS), index % 2)
        name = f"{index:05d}.avi"
        write_clip(folder / name, clip.frames)
        answers = list(clip.answers)
        rows.append({"video": name, "question": clip.question, "answers": answers, "match": "exact", "group": kind})
    write_test(folder, rows)


def _is_common(thing: Thing) -> bool:
    usual = thing.category not in NO_OBJECTS and countable(thing.name)
    return usual and thing.split == "train" and thing.style in VENDORS


def _drawn(kind: Callable[[Told], Clip | None], drawn: Concepts, seed: str, cycle: int, second: int) -> Clip:
    """The first attempt at the clip that can be seen well; both of a pair take the same."""
    for attempt in range(500):
        chance = random.Random(f"{seed}-{attempt}")
        change = chance.choice(LATE if cycle % 2 else EARLY)
        clip = kind(Told(drawn, chance, change, 2 * cycle + second))
        if clip is not None:
            return clip
    raise RuntimeError(f"no clip for {seed}")


def _moved(told: Told, directions: tuple[str, str], words: dict[str, str]) -> Clip | None:
    sprites, background = _things(told, 1, LARGE)
    across, asked = told.chance.random(), told.chance.sample(directions, 2)
    direction = directions[told.turn % 2]
    if not _seen(sprites, background):
        return None
    question = f"Did the {sprites[0].wanted.name} move {words[asked[0]]} or {words[asked[1]]}?"
    answers = tuple(dict.fromkeys((direction, words[direction])))
    return Clip(crossing(background, sprites[0], direction, across), question, answers)


def _sideways(told: Told) -> Clip | None:
    return _moved(told, ("left", "right"), {"left": "to the left", "right": "to the right"})


def _up_or_down(told: Told) -> Clip | None:
    return _moved(told, ("up", "down"), {"up": "up", "down": "down"})


def _appeared(told: Told) -> Clip | None:
    """One thing from the first frame, the other from the middle one on."""
    sprites, background = _things(told, 2, SMALL)
    placed, choice = _placed(sprites, told), _choice(sprites, told)
    before, new = placed if told.turn % 2 else placed[::-1]
    if not _seen(sprites, background):
        return None
    frames = in_turn([still(background, [before]), still(background, placed)], [FRAMES // 2])
    return Clip(frames, f"What appeared, {choice}?", _names(new[0]))


def _at_the_end(told: Told) -> Clip | None:
    sprites, background = _things(told, MOST, SMALL)
    placed, end = _placed(sprites, told), told.turn % MOST + 1
    start = told.chance.choice([count for count in range(1, MOST + 1) if count != end])
    if not _seen(sprites, background):
        return None
    frames = in_turn([still(background, placed[:count]) for count in (start, end)], [told.change])
    return Clip(frames, "How many things are there at the end, one, two or three?", (str(end), number(end)))


def _shown(told: Told) -> Clip | None:
    """One to MOST shapes of one colour at the same place, for as long each."""
    count, colour = told.turn % MOST + 1, told.chance.choice(COLOURS)
    side, place = told.chance.randint(*LARGE), _places(1, LARGE[1], told)[0]
    shapes = told.chance.sample(SHAPES, MOST)[:count]
    background = plain(told.chance).image
    sprites = [draw_sprite(Wanted(shape, colour=colour), side, told.chance) for shape in shapes]
    if not _seen(sprites, background):
        return None
    stills = [still(background, [(sprite, place)]) for sprite in sprites]
    frames = in_turn(stills, [FRAMES * turn // count for turn in range(1, count)])
    question = "How many different shapes were shown one after the other, one, two or three?"
    return Clip(frames, question, (str(count), number(count)))


def _first(told: Told) -> Clip | None:
    sprites, background = _things(told, 2, LARGE)
    places, choice = _places(2, LARGE[1], told), _choice(sprites, told)
    ordered = sprites if told.turn % 2 else sprites[::-1]
    if not _seen(sprites, background):
        return None
    stills = [still(background, [(sprite, place)]) for sprite, place in zip(ordered, places)]
    return Clip(in_turn(stills, [told.change]), f"What came first, {choice}?", _names(ordered[0]))


def _last_colour(told: Told) -> Clip | None:
    """A shape at rest that changes its colour."""
    shape, colours = told.chance.choice(SHAPES), told.chance.sample(COLOURS, 2)
    side, place, asked = told.chance.randint(*LARGE), _places(1, LARGE[1], told)[0], told.chance.sample(colours, 2)
    background, same = plain(told.chance).image, told.chance.random()
    sprites = [draw_sprite(Wanted(shape, colour=colour), side, random.Random(same)) for colour in colours]
    start, end = sprites if told.turn % 2 else sprites[::-1]
    if not _seen(sprites, background):
        return None
    frames = in_turn([still(background, [(sprite, place)]) for sprite in (start, end)], [told.change])
    question = f"What color is the {shape} at the end, {asked[0]} or {asked[1]}?"
    return Clip(frames, question, (str(end.colour),))


KINDS: dict[str, Callable[[Told], Clip | None]] = {
    "moved left or right": _sideways,
    "moved up or down": _up_or_down,
    "what appeared": _appeared,
    "how many at the end": _at_the_end,
    "how many shapes": _shown,
    "what came first": _first,
    "color at the end": _last_colour,
}


def _things(told: Told, count: int, sides: tuple[int, int]) -> tuple[list[Sprite], Image.Image]:
    """Things that cannot be taken for one another, half of them shapes, and a plain background."""
    chance, drawn, sprites = told.chance, told.drawn, list[Sprite]()
    while len(sprites) < count:
        if chance.random() < 0.5:
            wanted = Wanted(chance.choice(SHAPES), colour=chance.choice(COLOURS))
        else:
            name = chance.choice(drawn.everyday)
            wanted = Wanted(name, chance.choice(drawn.things[name]))
        if not any(drawn.alike(wanted.name, other.wanted.name) for other in sprites):
            sprites.append(draw_sprite(wanted, chance.randint(*sides), chance))
    return sprites, plain(chance).image


def _seen(sprites: Sequence[Sprite], background: Image.Image) -> bool:
    return all(contrast(sprite, background) >= CONTRAST for sprite in sprites)


def _placed(sprites: Sequence[Sprite], told: Told) -> list[Placed]:
    """Each thing in a cell of its own."""
    return list(zip(sprites, told.chance.sample(CELLS, len(sprites))))


def _places(count: int, side: int, told: Told) -> list[tuple[int, int]]:
    """Centres at which a thing of that side is whole."""
    least, most = side // 2 + 1, CANVAS - side // 2 - 1
    return [(told.chance.randint(least, most), told.chance.randint(least, most)) for _ in range(count)]


def _choice(sprites: Sequence[Sprite], told: Told) -> str:
    """ "the dog or the star", in either order."""
    one, other = told.chance.sample([sprite.wanted.name for sprite in sprites], 2)
    return f"the {one} or the {other}"


def _names(sprite: Sprite) -> tuple[str, ...]:
    """What the thing may be called."""
    thing = sprite.wanted.thing
    return tuple(dict.fromkeys((sprite.wanted.name, *(thing.names if thing else ()))))
