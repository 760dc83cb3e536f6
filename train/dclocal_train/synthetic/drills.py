"""Many short questions on one scene: what is there, how many, where from what.

The picture's tokens cost as much with two questions as with twenty, and a language model learns to compare and to count
from many questions, not from many pictures.
"""

from __future__ import annotations

import random
from collections import Counter

from dclocal_train.synthetic.concepts import Concepts
from dclocal_train.synthetic.english import article, be, countable, plural
from dclocal_train.synthetic.phrases import COLOUR, COUNTING, EXISTENCE, WHERE
from dclocal_train.synthetic.scene_places import alone_in_name, place_of, related
from dclocal_train.synthetic.scene_questions import RELATION_FORMS, Turn, relation_turn
from dclocal_train.synthetic.scenes import Scene

KINDS = ("pair", "many", "counting")
RELATION_KINDS = ("pair", "many")
MOST_TURNS, MOST_RELATIONS, MOST_NAMES = 22, 10, 4
WAYS = 3
"""In which a pair is asked about, at most."""
ONES_ASKED = 0.1
"""Of the things that are there once, whose number is asked: of all of them, nine counts of ten would be one, and that
is what a language model then says of two."""


def drill(scene: Scene, drawn: Concepts, random_source: random.Random) -> list[Turn]:
    """Up to MOST_TURNS turns in random order, no question twice; as many absent things as present ones."""
    counts = Counter(placed.name for placed in scene.objects)
    names = random_source.sample(list(counts), min(MOST_NAMES, len(counts)))
    turns: list[Turn] = []
    for name in names:
        turns.append((random_source.choice(EXISTENCE).format(article(name)), "yes"))
        near = drawn.categories.get(drawn.category(name), ())
        among = random_source.choice((near, drawn.everyday, ()))
        absent = drawn.absent(list(counts), scene.background.contents, random_source, among=among)
        if absent is not None:
            turns.append((random_source.choice(EXISTENCE).format(article(absent)), "no"))
        if countable(name) and (counts[name] > 1 or random_source.random() < ONES_ASKED):
            turns.append((random_source.choice(COUNTING).format(plural(name)), str(counts[name])))
    if len(names) > 1 and all(map(countable, names[:2])):
        answer = "yes" if counts[names[0]] > counts[names[1]] else "no"
        turns.append((f"Are there more {plural(names[0])} than {plural(names[1])}?", answer))
    turns.append((random_source.choice(COUNTING).format("objects"), str(len(scene.objects))))
    alone = alone_in_name(scene)
    pairs = related(alone)
    random_source.shuffle(pairs)
    for pair in (pairs * WAYS)[:MOST_RELATIONS]:
        turns.append(relation_turn(*pair, random_source))
    for placed in alone[:2]:
        if place := place_of(placed, scene):
            turns.append((random_source.choice(WHERE["where"]).format(placed.name, be(placed.name)), place))
        if placed.colour and placed.colour not in placed.name:
            turns.append((random_source.choice(COLOUR).format(be(placed.name), placed.name), placed.colour))
    random_source.shuffle(turns)
    return list(dict(turns).items())[:MOST_TURNS]


def drill_relations(scene: Scene, random_source: random.Random) -> list[Turn]:
    """Up to MOST_TURNS turns in random order on who is where from whom; each pair is asked about in every form, so that
    its yes stands beside its no."""
    pairs = related(alone_in_name(scene))
    random_source.shuffle(pairs)
    turns = [relation_turn(*pair, random_source, form) for pair in pairs for form in RELATION_FORMS][:MOST_TURNS]
    random_source.shuffle(turns)
    return list(dict(turns).items())
