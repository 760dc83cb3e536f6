"""Where things are: places in the picture and relations of two things, told only where they are beyond dispute."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from dclocal_train.synthetic.backgrounds import CANVAS
from dclocal_train.synthetic.scenes import Placed, Scene

OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
CLEAR = 0.08  # of the canvas: nearer than this to the border of two places, neither is told


def centre(placed: Placed) -> tuple[float, float]:
    """The middle of its box, in pixels."""
    x0, y0, x1, y1 = placed.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def place_of(placed: Placed, scene: Scene) -> str | None:
    """One of nine places ("top left", "center", …), or None near a border of two or for what fills the picture."""
    if len(scene.objects) == 1 and max(placed.box[2] - placed.box[0], placed.box[3] - placed.box[1]) > CANVAS / 2:
        return None
    found = []
    for value in centre(placed):
        share = value / CANVAS
        if min(abs(share - 1 / 3), abs(share - 2 / 3)) < CLEAR / 2:
            return None
        found.append(min(2, int(share * 3)))
    words = f"{_ROWS[found[1]]} {_COLUMNS[found[0]]}".strip()
    return words or "center"


def relation(first: Placed, second: Placed) -> str | None:
    """Where the first is, seen from the second: left, right, above or below; None where no axis clearly dominates."""
    (ax, ay), (bx, by) = centre(first), centre(second)
    across, down = ax - bx, ay - by
    if max(abs(across), abs(down)) < 0.15 * CANVAS or min(abs(across), abs(down)) * 1.6 > max(abs(across), abs(down)):
        return None
    if abs(across) > abs(down):
        return "left" if across < 0 else "right"
    return "above" if down < 0 else "below"


def alone_in_name(scene: Scene) -> list[Placed]:
    """The objects whose name no other has."""
    names = Counter(placed.name for placed in scene.objects)
    return [placed for placed in scene.objects if names[placed.name] == 1]


def related(things: Sequence[Placed]) -> list[tuple[Placed, Placed]]:
    """The pairs that `relation` tells of, both ways round."""
    return [(one, other) for one in things for other in things if one is not other and relation(one, other)]


def unique(scene: Scene, random_source: random.Random) -> Placed | None:
    """One of the objects whose name no other has, or None."""
    alone = alone_in_name(scene)
    return random_source.choice(alone) if alone else None
