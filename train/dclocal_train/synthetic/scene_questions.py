"""Questions on a scene with answers that are exactly true of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from dclocal_train.synthetic.concepts import Concepts
from dclocal_train.synthetic.english import article, be, countable, counted, joined, plural, sentence
from dclocal_train.synthetic.phrases import (
    BACKGROUND_COLOUR,
    COLOUR,
    COUNTING,
    DESCRIBING,
    DETAIL,
    EXISTENCE,
    FULL_SENTENCE,
    LISTING,
    NAMING,
    ONE_WORD,
    RELATION,
    UNANSWERABLE,
    UNKNOWN,
    WHERE,
)
from dclocal_train.synthetic.scene_places import OPPOSITES, alone_in_name, place_of, related, relation, unique
from dclocal_train.synthetic.scenes import Placed, Scene

MOST_TURNS = 9
RELATION_FORMS = ("open", "choice", "yes", "no")
Turn = tuple[str, str]


def ask(scene: Scene, drawn: Concepts, random_source: random.Random) -> list[Turn]:
    """Six to MOST_TURNS turns that fit the scene, in random order, no question twice."""
    makers: list[Callable[[Scene, Concepts, random.Random], list[Turn]]] = [
        _naming,
        _existence,
        _counting,
        _colours,
        _relations,
        _sizes,
        _inside,
        _twins,
        _descriptions,
        _unanswerable,
    ]
    turns = [turn for make in makers for turn in make(scene, drawn, random_source)]
    random_source.shuffle(turns)
    kept = list(dict(reversed(turns)).items())
    random_source.shuffle(kept)
    return kept[:MOST_TURNS]


def caption(scene: Scene, random_source: random.Random) -> str:
    """What is there, in a few words: "a dog and two apples", sometimes with the background."""
    phrase = joined(_phrases(scene, colours=random_source.random() < 0.5))
    if scene.background.colour and random_source.random() < 0.4:
        return f"{phrase} on {article(f'{scene.background.colour} background')}"
    return phrase


def _phrases(scene: Scene, colours: bool = False) -> list[str]:
    """ "a red circle", "three dogs", by kind, in the order of drawing."""
    counts = Counter(placed.name for placed in scene.objects)
    phrases = []
    for name, count in counts.items():
        shades = {placed.colour for placed in scene.objects if placed.name == name}
        shade = next(iter(shades)) if len(shades) == 1 else None
        said = f"{shade} {name}" if shade and (colours or unique_shape(scene, name)) and shade not in name else name
        phrases.append(counted(said, count))
    return phrases


def unique_shape(scene: Scene, name: str) -> bool:
    """Whether the name is a geometric shape's, whose colour is always said."""
    return any(placed.thing is None and placed.name == name for placed in scene.objects)


def _naming(scene: Scene, drawn: Concepts, random_source: random.Random) -> list[Turn]:
    answer = joined(_phrases(scene))
    turns = [(random_source.choice(NAMING), answer)]
    if len(scene.objects) == 1:
        name = scene.objects[0].name
        turns.append((random_source.choice(ONE_WORD), name))
        turns.append((f"{random_source.choice(NAMING)} {random_source.choice(FULL_SENTENCE)}", f"This is {answer}."))
        return turns
    placed = random_source.choice(scene.objects)
    place = place_of(placed, scene)
    if place and sum(place_of(other, scene) == place for other in scene.objects) == 1:
        turns.append((random_source.choice(WHERE["what"]).format(place), article(_said(placed))))
    other = unique(scene, random_source)
    if other is not None:
        for neighbour in scene.objects:
            side = relation(neighbour, other)
            if side and sum(relation(one, other) == side for one in scene.objects if one is not other) == 1:
                phrase = {"left": "to the left of", "right": "to the right of"}.get(side, side)
                turns.append((f"What is {phrase} the {other.name}?", article(_said(neighbour))))
                break
    return turns


def _said(placed: Placed) -> str:
    return f"{placed.colour} {placed.name}" if placed.thing is None and placed.colour else placed.name


def _existence(scene: Scene, drawn: Concepts, random_source: random.Random) -> list[Turn]:
    """As many yes as no; what is absent is of the same sort as what is there, common, or anything."""
    present = [placed.name for placed in scene.objects]
    name = random_source.choice(present)
    near = drawn.categories.get(drawn.category(name), ())
    among = random_source.choice((near, near, drawn.everyday, ()))
    turns = [(random_source.choice(EXISTENCE).format(article(name)), "yes")]
    absent = drawn.absent(present, scene.background.contents, random_source, among=among)
    if absent is not None:
        turns.append((random_source.choice(EXISTENCE).format(article(absent)), "no"))
        if random_source.random() < 0.15:
            said = f"No, there {be(absent)} no {absent} in the picture."
            turns.append(
                (f"{random_source.choice(EXISTENCE).format(article(absent))} Answer in a full sentence.", said)
            )
    return turns


def _counting(scene: Scene, drawn: Concepts, random_source: random.Random) -> list[Turn]:
    counts = Counter(placed.name for placed in scene.objects)
    names = [name for name in counts if countable(name)]
    turns = []
    if names and (scene.kind == "counting" or random_source.random() < 0.1):
        name = names[0] if scene.kind == "counting" else random_source.choice(names)
        turns.append((random_source.choice(COUNTING).format(plural(name)), str(counts[name])))
        if scene.kind == "counting" and random_source.random() < 0.4:
            verb = "is" if counts[name] == 1 else "are"
            turns.append(
                (
                    f"How many {plural(name)} are there? Answer in a full sentence.",
                    sentence(f"there {verb} {counted(name, counts[name])}"),
                )
            )
    if len(scene.objects) > 1 and not scene.inside and random_source.random() < 0.5:
        turns.append((random_source.choice(COUNTING).format("objects"), str(len(scene.objects))))
    if len(names) == 2:
        first, second = random_source.sample(names, 2)
        answer = "yes" if counts[first] > counts[second] else "no"
        turns.append((f"Are there more {plural(first)} than {plural(second)}?", answer))
    if names and random_source.random() < 0.12:
        absent = drawn.absent(list(counts), scene.background.contents, random_source)
        if absent and countable(absent):
            turns.append((random_source.choice(COUNTING).format(plural(absent)), "0"))
    return turns


def _colours(scene: Scene, _: Concepts, random_source: random.Random) -> list[Turn]:
    turns = []
    placed = unique(scene, random_source)
    if placed is not None and placed.colour and placed.colour not in placed.name:
        turns.append((random_source.choice(COLOUR).format(be(placed.name), placed.name), placed.colour))
        wrong = random_source.choice(
            [colour for colour in ("red", "blue", "green", "yellow") if colour != placed.colour]
        )
        asked, answer = random_source.choice(((placed.colour, "yes"), (wrong, "no")))
        turns.append((f"{be(placed.name).capitalize()} the {placed.name} {asked}?", answer))
    if scene.background.colour and random_source.random() < 0.7:
        turns.append((random_source.choice(BACKGROUND_COLOUR), scene.background.colour))
    return turns


def _relations(scene: Scene, _: Concepts, random_source: random.Random) -> list[Turn]:
    """Left, right, above and below of pairs of unique names where one axis clearly dominates."""
    alone = alone_in_name(scene)
    pairs = related(alone)
    turns = [relation_turn(*pair, random_source) for pair in random_source.sample(pairs, min(2, len(pairs)))]
    if alone and random_source.random() < 0.5:
        placed = random_source.choice(alone)
        place = place_of(placed, scene)
        if place:
            turns.append((random_source.choice(WHERE["where"]).format(placed.name, be(placed.name)), place))
    return turns


def relation_turn(first: Placed, second: Placed, random_source: random.Random, form: str | None = None) -> Turn:
    """Where the first is, seen from the second, in one of RELATION_FORMS: asked openly, as a choice of two, or so that
    the answer is yes or no."""
    side = relation(first, second)
    assert side is not None
    phrase = {"left": "to the left", "right": "to the right"}.get(side, side)
    form = form or random_source.choice(RELATION_FORMS)
    if form == "open":
        return random_source.choice(WHERE["relative"]).format(first.name, second.name, be(first.name)), phrase
    if form == "choice":
        options = [side, OPPOSITES[side]]
        random_source.shuffle(options)
        said = ["to the " + one if one in ("left", "right") else one for one in options]
        link = " of" if side in ("left", "right") else ""
        return f"{be(first.name).capitalize()} the {first.name} {said[0]} or {said[1]}{link} the {second.name}?", phrase
    asked = side if form == "yes" else OPPOSITES[side]
    return random_source.choice(RELATION[asked]).format(first.name, second.name, be(first.name).capitalize()), form


def _sizes(scene: Scene, _: Concepts, random_source: random.Random) -> list[Turn]:
    areas = [max(p.box[2] - p.box[0], p.box[3] - p.box[1]) for p in scene.objects]
    if len(areas) < 2 or scene.inside:
        return []
    order = sorted(range(len(areas)), key=lambda index: areas[index])
    turns = []
    if areas[order[-1]] > 1.35 * areas[order[-2]]:
        asked = random_source.choice(("What is the largest object?", "Which object is the biggest?"))
        turns.append((asked, article(_said(scene.objects[order[-1]]))))
    if areas[order[0]] * 1.35 < areas[order[1]]:
        asked = random_source.choice(("What is the smallest object?", "Which thing is smallest?"))
        turns.append((asked, article(_said(scene.objects[order[0]]))))
    return turns


def _inside(scene: Scene, _: Concepts, random_source: random.Random) -> list[Turn]:
    turns = []
    for inner, outer in scene.inside:
        inside, container = scene.objects[inner], scene.objects[outer]
        turns.append((f"What is inside the {container.name}?", article(_said(inside))))
        outside = [placed for index, placed in enumerate(scene.objects) if index not in (inner, outer)]
        asked, answer = random_source.choice([(inside, "yes")] + [(placed, "no") for placed in outside[:1]])
        turns.append((f"{be(asked.name).capitalize()} the {asked.name} inside the {container.name}?", answer))
    return turns


def _twins(scene: Scene, _: Concepts, random_source: random.Random) -> list[Turn]:
    if scene.kind not in ("twins", "pair") or len(scene.objects) != 2:
        return []
    same = scene.objects[0].name == scene.objects[1].name
    asked = random_source.choice(
        ("Are the two things the same or different?", "Do both pictures show the same thing, or different things?")
    )
    return [(asked, "the same" if same else "different")] if random_source.random() < 0.8 else []


def _descriptions(scene: Scene, _: Concepts, random_source: random.Random) -> list[Turn]:
    phrases = _phrases(scene, colours=random_source.random() < 0.3)
    where = f" on {article(f'{scene.background.colour} background')}" if scene.background.colour else ""
    turns = []
    if random_source.random() < 0.6:
        turns.append((random_source.choice(DESCRIBING), sentence(joined(phrases) + where)))
    if len(phrases) > 1 and random_source.random() < 0.35:
        turns.append((random_source.choice(LISTING), joined(phrases)))
    if random_source.random() < 0.25:
        turns.append((random_source.choice(DETAIL), paragraph(scene)))
    return turns


def paragraph(scene: Scene) -> str:
    """Two to five sentences: what is there, where, of which colour, and before which background."""
    phrases = _phrases(scene)
    sentences = [f"The picture shows {joined(phrases)}."]
    names = Counter(placed.name for placed in scene.objects)
    for placed in scene.objects[:4]:
        place = place_of(placed, scene)
        if names[placed.name] == 1 and place and len(scene.objects) > 1:
            sentences.append(f"The {placed.name} {be(placed.name)} {at(place)}.")
        elif len(scene.objects) == 1 and placed.colour and placed.colour not in placed.name:
            sentences.append(f"The {placed.name} {be(placed.name)} {placed.colour}.")
    if scene.background.colour:
        sentences.append(f"The background is {scene.background.colour}.")
    return " ".join(sentences)


def at(place: str) -> str:
    """ "at the top left", "in the center"."""
    return f"in the {place}" if place == "center" else f"{'on' if place in ('left', 'right') else 'at'} the {place}"


def _unanswerable(scene: Scene, drawn: Concepts, random_source: random.Random) -> list[Turn]:
    if random_source.random() > 0.45:
        return []
    name = random_source.choice(scene.objects).name
    if random_source.random() < 0.4:
        absent = drawn.absent([p.name for p in scene.objects], scene.background.contents, random_source)
        if absent is not None:
            asked = random_source.choice(("What color {1} the {0}?", "Where {1} the {0}?", "How big {1} the {0}?"))
            return [(asked.format(absent, be(absent)), f"There {be(absent)} no {absent} in the picture.")]
    return [(random_source.choice(UNANSWERABLE).format(name), random_source.choice(UNKNOWN))]
