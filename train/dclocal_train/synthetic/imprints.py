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
from dclocal_train.synthetic.english import article, plural
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
EXISTENCE = ("Is there {} in the picture?", "Does this photo show {}?", "Can you see {} here?", "Do you see {}?")


@lru_cache(1)
def named_classes() -> dict[str, tuple[int, ...]]:
    """Everyday name to the classes that it is said of."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(class_names()):
        found[name].append(index)
    return {name: tuple(indices) for name, indices in found.items()}


def draw_imprint(background: Image, random_source: random.Random) -> Sample:
    """One class, every name as likely as any other, on `background`, a picture without objects."""
    names = sorted(named_classes())
    name = random_source.choice(names)
    index = random_source.choice(named_classes()[name])
    kind = name.split()[-1]
    akin = [other for other in names if other != name and other.split()[-1] == kind]
    absent = [other for other in random_source.sample(names, 8) if not set(other.split()) & set(name.split())]
    naming = random_source.sample(NAMING, 3)
    turns = [
        (naming[0], article(name)),
        (naming[1], f"This is {article(name)}."),
        (ONE_WORD.format(naming[2]), name),
        (random_source.choice(DESCRIBING), f"A photo of {article(name)}."),
        *((random_source.choice(EXISTENCE).format(article(other)), "no") for other in absent[:2]),
        *((random_source.choice(EXISTENCE).format(article(said)), "yes") for said in {name, kind if akin else name}),
    ]
    if not akin:
        turns.append((f"Are there any {plural(absent[-1])} in the photo?", "no"))
    random_source.shuffle(turns)
    return Sample(background, f"a photo of {article(name)}", turns, {"imprint": index})
