"""Tests of scenes: existence, counting and relations, half with drawings of hands that training has seen, half with
those of a vendor that is held out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dclocal.eval_test import write_test
from dclocal_train.synthetic.backgrounds import load_photos
from dclocal_train.synthetic.concepts import Concepts, concepts_of
from dclocal_train.synthetic.emoji_concepts import TEST_VENDOR
from dclocal_train.synthetic.english import article, be, number, plural
from dclocal_train.synthetic.scene_kinds import counted_plan
from dclocal_train.synthetic.scene_places import OPPOSITES, relation
from dclocal_train.synthetic.scenes import Scene, compose, draw_scene, worn
from dclocal_train.synthetic.things import Thing

Row = dict[str, Any]
Ask = Callable[[int, Concepts, random.Random], tuple[Scene, Row] | None]
SEEN, HELD_OUT = "seen drawings", "held-out vendor"
MOST = 6
"""The largest number of things that is counted."""


def existence_test(things: Sequence[Thing], folder: Path, count: int, seed: int) -> None:
    """Is a thing there: as many yes as no, half of the absent ones of the same sort as what is there."""
    photos = load_photos()

    def draw(index: int, drawn: Concepts, random_source: random.Random) -> tuple[Scene, Row] | None:
        scene = draw_scene(drawn, random_source, photos, kinds=("single", "pair", "many"))
        present = [placed.name for placed in scene.objects]
        name = random_source.choice(present)
        if index % 2 == 0:
            return scene, _row(f"Is there {article(name)} in the picture?", ["yes"], "present")
        adversarial = index % 4 == 1
        among = drawn.categories.get(drawn.category(name), ()) if adversarial else drawn.everyday
        absent = drawn.absent(present, scene.background.contents, random_source, among=among)
        if absent is None or (adversarial and not among):
            return None
        kind = "absent, of the same sort" if adversarial else "absent, common"
        return scene, _row(f"Is there {article(absent)} in the picture?", ["no"], kind)

    _write(things, folder, count, seed, draw)


def counting_test(things: Sequence[Thing], folder: Path, count: int, seed: int) -> None:
    """How many of one thing, 1 to MOST equally often, beside up to two others."""

    def draw(index: int, drawn: Concepts, random_source: random.Random) -> tuple[Scene, Row] | None:
        wanted = index // 2 % MOST + 1
        plan = counted_plan(wanted, random_source.choice((0, 0, 1, 2)), drawn, random_source)
        scene = worn(compose(plan, "counting", random_source), random_source)
        name = scene.objects[0].name
        asked = f"How many {plural(name)} are there?"
        return scene, _row(asked, [str(wanted), number(wanted)], f"{wanted}")

    _write(things, folder, count, seed, draw)


def relations_test(things: Sequence[Thing], folder: Path, count: int, seed: int) -> None:
    """Left, right, above or below: half by yes and no, half by a choice of two; yes as often as no."""

    def draw(index: int, drawn: Concepts, random_source: random.Random) -> tuple[Scene, Row] | None:
        scene = draw_scene(drawn, random_source, kinds=("pair", "many"))
        first, second = random_source.sample(scene.objects, 2)
        side = relation(first, second)
        if side is None or first.name == second.name:
            return None
        verb, beside = be(first.name).capitalize(), side in ("left", "right")
        if index // 2 % 2:
            asked = side if index % 2 else OPPOSITES[side]
            words = f"to the {asked} of" if beside else asked
            answer = "yes" if asked == side else "no"
            return scene, _row(f"{verb} the {first.name} {words} the {second.name}?", [answer], "yes or no")
        choice = "to the left or to the right of" if beside else "above or below"
        return scene, _row(f"{verb} the {first.name} {choice} the {second.name}?", [side], "choice", "contains")

    _write(things, folder, count, seed, draw)


def _row(question: str, answers: list[str], group: str, match: str = "exact") -> Row:
    return {"question": question, "answers": answers, "match": match, "group": group}


def _write(things: Sequence[Thing], folder: Path, count: int, seed: int, draw: Ask) -> None:
    """`count` pictures with one question each, drawn in turn with seen and with held-out drawings."""
    sets = (
        (SEEN, concepts_of(thing for thing in things if thing.split == "train")),
        (HELD_OUT, concepts_of(thing for thing in things if thing.style == TEST_VENDOR)),
    )
    rows = []
    for index in range(count):
        group, drawn = sets[index % 2]
        scene, row = next(_drawn(index // 2, drawn, seed, draw))
        image = f"{index:05d}.png"
        scene.image.save(folder / image)
        rows.append({"image": image, **row, "group": f"{row['group']} ({group})"})
    write_test(folder, rows)


def _drawn(index: int, drawn: Concepts, seed: int, draw: Ask) -> Iterator[tuple[Scene, Row]]:
    """Attempts at the picture of that number that came to a question."""
    for attempt in range(200):
        made = draw(index, drawn, random.Random(f"test-{seed}-{index}-{attempt}"))
        if made is not None:
            yield made
