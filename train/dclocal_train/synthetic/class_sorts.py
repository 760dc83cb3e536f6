"""What people who do not know the breed call ImageNet's classes: a collie is a dog, a jeep a car."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

ANIMALS = range(398)
"""The numbers of the classes that are animals; the others are things, plants, food and places."""
ANIMAL_SORTS: dict[str, Sequence[int]] = {
    "fish": (*range(0, 7), *range(389, 398)),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "frog": range(30, 33),
    "turtle": range(33, 38),
    "lizard": range(38, 49),
    "snake": range(52, 69),
    "spider": range(72, 78),
    "crab": (*range(118, 122), 125),
    "dog": (*range(151, 269), *range(273, 276)),
    "wolf": range(269, 272),
    "fox": range(277, 281),
    "cat": range(281, 286),
    "lion": (291,),
    "tiger": (292,),
    "bear": range(294, 298),
    "insect": range(300, 327),
    "rabbit": range(330, 333),
    "squirrel": (335,),
    "horse": (339,),
    "pig": range(341, 344),
    "sheep": range(348, 350),
    "monkey": range(370, 383),
    "elephant": (101, *range(385, 387)),
}
THING_SORTS: dict[str, Sequence[int]] = {
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "truck": (555, 569, 675, 717, 864, 867),
    "bus": (779, 874),
    "bicycle": (444, 671),
    "boat": (472, 484, 554, 576, 625, 780, 814, 871, 914),
    "train": (466, 547, 565, 820),
    "airplane": (404, 895),
    "clock": (409, 530, 892),
    "guitar": (402, 546),
    "ball": (429, 430, 522, 574, 722, 768, 805, 852, 890),
    "bottle": (440, 711, 720, 737, 898, 907),
    "cup": (504, *range(967, 969)),
    "hat": (439, 452, 515, 667, 808),
    "shoe": (502, 630, 770),
    "chair": (423, 559, 765, 857),
    "phone": (487, 528, 707),
    "computer": (527, 620, 681),
    "bridge": (821, 839, 888),
    "flower": range(985, 987),
    "mushroom": (947, *range(991, 998)),
    "fruit": range(948, 958),
    "vegetable": range(936, 947),
}


@lru_cache(1)
def _sorts() -> dict[int, str]:
    return {index: sort for sort, indices in (ANIMAL_SORTS | THING_SORTS).items() for index in indices}


def sort_of(index: int) -> str | None:
    """What the class of that number is in a word that everyone knows, None where its own name is such a word."""
    return _sorts().get(index)
