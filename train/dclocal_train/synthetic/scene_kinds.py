"""The kinds of scene: each picks what to draw, how large and where."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dclocal_train.synthetic.backgrounds import CANVAS
from dclocal_train.synthetic.colours import NAMED, decoded, mean_colour
from dclocal_train.synthetic.concepts import Concepts
from dclocal_train.synthetic.english import countable
from dclocal_train.synthetic.figures import CONTAINERS, SHAPES
from dclocal_train.synthetic.sprites import Wanted

MARGIN = 4  # pixels at the picture's edge
# The longer side of an object as a share of the canvas, by how many there are.
SIDES = {1: (0.45, 0.95), 2: (0.24, 0.46), 3: (0.2, 0.4), 4: (0.18, 0.36), 5: (0.16, 0.31), 6: (0.15, 0.28)}
MOST_SIDES = (0.14, 0.24)


@dataclass(frozen=True)
class Spot:
    """An object, the centre of its place and its longer side, in pixels."""

    wanted: Wanted
    x: float
    y: float
    side: int


@dataclass(frozen=True)
class Plan:
    """What to draw, in order; `inside` as of a scene; `hollow`: what is inside stands on the background itself."""

    spots: tuple[Spot, ...]
    inside: tuple[tuple[int, int], ...] = ()
    hollow: bool = False


def single(drawn: Concepts, random_source: random.Random) -> Plan:
    """One large thing."""
    return _scattered([_thing(random_source.choice(drawn.names), drawn, random_source)], random_source)


def pair(drawn: Concepts, random_source: random.Random) -> Plan:
    """Two different things."""
    return _scattered(_different(2, drawn, random_source), random_source)


def many(drawn: Concepts, random_source: random.Random) -> Plan:
    """Three to six different things."""
    return _scattered(_different(random_source.randint(3, 6), drawn, random_source), random_source)


def counting(drawn: Concepts, random_source: random.Random) -> Plan:
    """One to six, sometimes eight, of one thing, and up to three of another; eight objects at most."""
    count = random_source.randint(7, 8) if random_source.random() < 0.12 else random_source.randint(1, 6)
    return counted_plan(count, random_source.choice((0, 0, 1, 2, 3)), drawn, random_source)


def counted_plan(count: int, others: int, drawn: Concepts, random_source: random.Random) -> Plan:
    """`count` of one countable thing (or shape), and `others` of another as far as eight allow."""
    if random_source.random() < 0.2:
        first, second = random_source.sample(SHAPES, 2)
        wanted = [Wanted(first, colour=random_source.choice(tuple(NAMED)))] * count
        wanted += [Wanted(second, colour=random_source.choice(tuple(NAMED)))] * min(others, 8 - count)
    else:
        first = _pick(drawn, random_source, countable)
        second = _partner([first], drawn, random_source, countable)
        alternating = random_source.random() < 0.4
        wanted = _copies(first, count, alternating, drawn, random_source)
        wanted += _copies(second, min(others, 8 - count), alternating, drawn, random_source)
    return _scattered(wanted, random_source, alone=(0.3, 0.8), apart=True)


def shapes(_: Concepts, random_source: random.Random) -> Plan:
    """One to six shapes in named colours."""
    return _scattered([_shape(random_source) for _ in range(random_source.randint(1, 6))], random_source)


def mixed(drawn: Concepts, random_source: random.Random) -> Plan:
    """One or two shapes among one to three things."""
    things = _different(random_source.randint(1, 3), drawn, random_source)
    names = [one.name for one in things]
    free = [shape for shape in SHAPES if not any(drawn.alike(shape, name) for name in names)]
    figures = [_shape(random_source, (shape,)) for shape in random_source.sample(free, random_source.randint(1, 2))]
    return _scattered([*things, *figures], random_source)


def containment(drawn: Concepts, random_source: random.Random) -> Plan:
    """A thing or a shape inside a filled or hollow shape, and up to two things outside."""
    shape, outside_count = random_source.choice(CONTAINERS), random_source.choice((0, 1, 1, 2))
    outline = random_source.choice((0.0, 0.0, 0.03, 0.05))
    side = int(CANVAS * (random_source.uniform(0.5, 0.85) if not outside_count else random_source.uniform(0.42, 0.58)))
    things = _different(1 + outside_count, drawn, random_source, avoid=[shape])
    container = Wanted(shape, colour=_unlike(things[0], random_source), outline=outline)
    sides = [side, *(int(CANVAS * random_source.uniform(0.2, 0.32)) for _ in range(outside_count))]
    boxes = place(sides, random_source, apart=True)
    x, y, outer_side = boxes[0]
    share = 0.32 if container.name == "rectangle" else 0.5
    inner = Spot(things[0], x, y, int(outer_side * random_source.uniform(share - 0.06, share)))
    outside = [Spot(wanted, *box) for wanted, box in zip(things[1:], boxes[1:])]
    return Plan((Spot(container, x, y, outer_side), inner, *outside), ((1, 0),), hollow=outline > 0)


def twins(drawn: Concepts, random_source: random.Random) -> Plan:
    """Two drawings side by side: half the time of one thing, in two styles or sizes."""
    first = _pick(drawn, random_source, countable)
    second = first if random_source.random() < 0.5 else _partner([first], drawn, random_source, countable)
    if second == first:
        wanted = _copies(first, 2, random_source.random() < 0.6, drawn, random_source)
    else:
        wanted = [_thing(first, drawn, random_source), _thing(second, drawn, random_source)]
    return _side_by_side(wanted, random_source, alike=random_source.random() < 0.4)


def sizes(drawn: Concepts, random_source: random.Random) -> Plan:
    """A large thing beside a small one."""
    return _side_by_side(_different(2, drawn, random_source), random_source, alike=False)


def place(sides: Sequence[int], random_source: random.Random, apart: bool = False) -> list[tuple[float, float, int]]:
    """(x, y, side) of squares that hardly overlap, or not at all where `apart`; smaller ones where these do not fit."""
    sides = list(sides)
    while True:
        found = _try_to_place(sides, random_source, 1.08 if apart else 0.94)
        if found:
            return found
        sides = [int(side * 0.9) for side in sides]


def _try_to_place(
    sides: Sequence[int], random_source: random.Random, reach: float
) -> list[tuple[float, float, int]] | None:
    found: dict[int, tuple[float, float, int]] = {}
    for index in sorted(range(len(sides)), key=lambda index: -sides[index]):
        side = sides[index]
        for _ in range(60):
            x, y = (random_source.uniform(side / 2 + MARGIN, CANVAS - side / 2 - MARGIN) for _ in range(2))
            if all(max(abs(x - a), abs(y - b)) > reach * (side + c) / 2 for a, b, c in found.values()):
                found[index] = (x, y, side)
                break
        else:
            return None
    return [found[index] for index in range(len(sides))]


def _scattered(
    wanted: Sequence[Wanted],
    random_source: random.Random,
    alone: tuple[float, float] = SIDES[1],
    apart: bool = False,
) -> Plan:
    low, high = alone if len(wanted) == 1 else SIDES.get(len(wanted), MOST_SIDES)
    sides = [int(CANVAS * random_source.uniform(low, high)) for _ in wanted]
    return Plan(tuple(Spot(one, *box) for one, box in zip(wanted, place(sides, random_source, apart))))


def _side_by_side(wanted: Sequence[Wanted], random_source: random.Random, alike: bool) -> Plan:
    """Two objects in two halves of the canvas; `alike` in size, else one of them clearly larger."""
    half = CANVAS // 2
    large = random_source.uniform(0.7, 0.95) * half
    sides = [int(large), int(large * (1 if alike else random_source.uniform(0.35, 0.55)))]
    random_source.shuffle(sides)
    across = random_source.random() < 0.7
    spots = []
    for index, (one, side) in enumerate(zip(wanted, sides)):
        along = half * (index + 0.5)
        other = random_source.uniform(side / 2 + MARGIN, CANVAS - side / 2 - MARGIN)
        spots.append(Spot(one, along if across else other, other if across else along, side))
    return Plan(tuple(spots))


def _thing(name: str, drawn: Concepts, random_source: random.Random) -> Wanted:
    return Wanted(name, random_source.choice(drawn.things[name]))


def _shape(random_source: random.Random, among: Sequence[str] = SHAPES) -> Wanted:
    return Wanted(random_source.choice(among), colour=random_source.choice(tuple(NAMED)))


def _unlike(wanted: Wanted, random_source: random.Random) -> str:
    """The name of a colour that sets the thing off, or the one that does so best."""
    assert wanted.thing is not None
    mean = mean_colour(decoded(wanted.thing.file))
    far = {name: math.dist(mean, colour) for name, colour in NAMED.items()}
    return random_source.choice([name for name in far if far[name] > 110] or [max(far, key=lambda name: far[name])])


def _copies(name: str, count: int, alternating: bool, drawn: Concepts, random_source: random.Random) -> list[Wanted]:
    """The same thing `count` times, of one hand or of several."""
    one = _thing(name, drawn, random_source)
    return [_thing(name, drawn, random_source) if alternating else one for _ in range(count)]


def _pick(drawn: Concepts, random_source: random.Random, fits: Callable[[str], bool]) -> str:
    for _ in range(200):
        name = random_source.choice(drawn.names)
        if fits(name):
            return name
    raise ValueError("none of the drawings' names can be counted")


def _partner(
    names: Sequence[str], drawn: Concepts, random_source: random.Random, fits: Callable[[str], bool] = bool
) -> str:
    """A name that none of `names` could be taken for; two times in five of the first one's category."""
    category = drawn.category(names[0])
    for attempt in range(300):
        near = attempt < 60 and category and random_source.random() < 0.4
        name = random_source.choice(drawn.categories[category] if near else drawn.names)
        if fits(name) and not any(drawn.alike(name, other) for other in names):
            return name
    raise ValueError(f"the drawings have too few names that differ from {', '.join(names)}")


def _different(count: int, drawn: Concepts, random_source: random.Random, avoid: Sequence[str] = ()) -> list[Wanted]:
    names: list[str] = []
    for _ in range(count):
        names.append(
            _partner([*names, *avoid], drawn, random_source) if names or avoid else random_source.choice(drawn.names)
        )
    return [_thing(name, drawn, random_source) for name in names]
