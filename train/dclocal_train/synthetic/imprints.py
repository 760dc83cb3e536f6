"""Rows that name classes of which there is no picture: a background, a class imprinted on it, questions on that.

The convolutional tower knows ImageNet's classes from photographs that nobody here has; see
`dclocal_models.class_words`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

from dclocal_models.embedded import class_names
from dclocal_train.synthetic.class_sorts import ANIMAL_SORTS, ANIMALS, THING_SORTS, sort_of
from dclocal_train.synthetic.concepts import words_of
from dclocal_train.synthetic.english import article, plural
from dclocal_train.synthetic.phrases import UNANSWERABLE, UNKNOWN
from dclocal_train.synthetic.rows import Sample

if TYPE_CHECKING:
    from PIL.Image import Image

NAMING = (
    "What is this?",
    "What is in the picture?",
    "What's in this image?",
    "What do you see?",
    "What does the photo show?",
    "what is that",
    "Name the object.",
    "Identify what is shown.",
    "Which animal or thing is this?",
    "Can you tell what this is?",
)
DESCRIBING = ("Describe the picture.", "Describe this photo in one sentence.", "Give a short description of the image.")
ONE_WORD = "{} Answer with the name alone."
EXISTENCE = (
    "Is there {} in the picture?",
    "Is there {} in this image?",
    "Does this photo show {}?",
    "Can you see {} here?",
    "Do you see {}?",
    "Is {} shown?",
)
WHICH_ANIMAL = ("What animal is this?", "Which animal is in the picture?", "What kind of animal do you see?")


@lru_cache(1)
def named_classes() -> dict[str, tuple[int, ...]]:
    """Everyday name to the classes that it is said of."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(class_names()):
        found[name].append(index)
    return {name: tuple(indices) for name, indices in found.items()}


def draw_imprint(background: Image, random_source: random.Random) -> Sample:
    """One class, every name as likely as any other, on `background`, a picture without objects.

    What is asked for and absent is of another sort, of animals another animal, so that the answer needs the name.
    """
    names = sorted(named_classes())
    name = random_source.choice(names)
    index = random_source.choice(named_classes()[name])
    sort = sort_of(index)
    naming = random_source.sample(NAMING, 3)
    turns = [
        (naming[0], article(name)),
        (naming[1], f"This is {article(name)}."),
        (ONE_WORD.format(naming[2]), name),
        (random_source.choice(DESCRIBING), f"A photo of {article(name)}."),
        (random_source.choice(UNANSWERABLE).format(name), random_source.choice(UNKNOWN)),
        *((_asked_for(there, random_source), "yes") for there in (name, sort or name)),
    ]
    *absent, several = _absent(name, index, random_source)
    turns += [(_asked_for(other, random_source), "no") for other in absent]
    turns.append((f"Are there any {plural(several)} in the photo?", "no"))
    if index in ANIMALS:
        turns.append((random_source.choice(WHICH_ANIMAL), article(sort or name)))
    if index in ANIMALS or random_source.random() < 0.5:
        turns.append((_asked_for("animal", random_source), "yes" if index in ANIMALS else "no"))
    random_source.shuffle(turns)
    return Sample(background, f"a photo of {article(name)}", list(dict(turns).items()), {"imprint": index})


def _asked_for(name: str, random_source: random.Random) -> str:
    return random_source.choice(EXISTENCE).format(article(name))


def _absent(name: str, index: int, random_source: random.Random) -> list[str]:
    """Names that are not said of the class: another class, where one is found, and two sorts, of animals where it is
    one."""
    words = words_of((name, sort_of(index) or name))
    sorts = ANIMAL_SORTS if index in ANIMALS else (*ANIMAL_SORTS, *THING_SORTS)
    others = [other for other in sorts if words.isdisjoint(words_of((other,)))]
    classes = [
        other
        for other in random_source.sample(sorted(named_classes()), 12)
        if words.isdisjoint(words_of((other, sort_of(named_classes()[other][0]) or other)))
    ]
    return [*classes[:1], *random_source.sample(others, 2)]
