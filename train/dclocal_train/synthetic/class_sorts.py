"""What people who do not know the breed call ImageNet's classes: a collie is a dog, a jeep a car."""

from __future__ import annotations

from functools import lru_cache

ANIMALS = range(398)
"""The numbers of the classes that are animals; the others are things, plants, food and places."""
ANIMAL_SORTS: dict[str, tuple[range, ...]] = {
    "fish": (range(0, 7), range(389, 398)),
    "bird": (range(7, 25), range(80, 101), range(127, 147)),
    "frog": (range(30, 33),),
    "turtle": (range(33, 38),),
    "lizard": (range(38, 49),),
    "snake": (range(52, 69),),
    "spider": (range(72, 78),),
    "crab": (range(118, 122), range(125, 126)),
    "dog": (range(151, 269), range(273, 276)),
    "wolf": (range(269, 272),),
    "fox": (range(277, 281),),
    "cat": (range(281, 286),),
    "lion": (range(291, 292),),
    "tiger": (range(292, 293),),
    "bear": (range(294, 298),),
    "insect": (range(300, 327),),
    "rabbit": (range(330, 333),),
    "squirrel": (range(335, 336),),
    "horse": (range(339, 340),),
    "pig": (range(341, 344),),
    "sheep": (range(348, 350),),
    "monkey": (range(370, 383),),
    "elephant": (range(101, 102), range(385, 387)),
}
THING_SORTS: dict[str, tuple[range, ...]] = {
    "car": tuple(range(one, one + 1) for one in (436, 468, 511, 609, 627, 656, 661, 751, 817)),
    "truck": tuple(range(one, one + 1) for one in (555, 569, 675, 717, 864, 867)),
    "bus": (range(779, 780), range(874, 875)),
    "bicycle": (range(444, 445), range(671, 672)),
    "boat": tuple(range(one, one + 1) for one in (472, 484, 554, 576, 625, 780, 814, 871, 914)),
    "train": (range(466, 467), range(547, 548), range(565, 566), range(820, 821)),
    "airplane": (range(404, 405), range(895, 896)),
    "clock": (range(409, 410), range(530, 531), range(892, 893)),
    "guitar": (range(402, 403), range(546, 547)),
    "ball": tuple(range(one, one + 1) for one in (429, 430, 522, 574, 722, 768, 805, 852, 890)),
    "bottle": tuple(range(one, one + 1) for one in (440, 711, 720, 737, 898, 907)),
    "cup": (range(504, 505), range(967, 969)),
    "hat": tuple(range(one, one + 1) for one in (439, 452, 515, 667, 808)),
    "shoe": (range(502, 503), range(630, 631), range(770, 771)),
    "chair": tuple(range(one, one + 1) for one in (423, 559, 765, 857)),
    "phone": (range(487, 488), range(528, 529), range(707, 708)),
    "computer": (range(527, 528), range(620, 621), range(681, 682)),
    "bridge": (range(821, 822), range(839, 840), range(888, 889)),
    "flower": (range(985, 987),),
    "mushroom": (range(947, 948), range(991, 998)),
    "fruit": (range(948, 958),),
    "vegetable": (range(936, 947),),
}


@lru_cache(1)
def _sorts() -> dict[int, str]:
    both = ANIMAL_SORTS | THING_SORTS
    return {index: sort for sort, ranges in both.items() for each in ranges for index in each}


def sort_of(index: int) -> str | None:
    """What the class of that number is in a word that everyone knows, None where its own name is such a word."""
    return _sorts().get(index)
