"""Rows that show a class of which there is no picture: where on the map it is imprinted, and how strongly.

A row's `imprint` is the class's number; see `dclocal_models.class_words.ClassWords.imprint`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

GRID = 12
STRENGTH = (8.0, 45.0)
"""Lengths of features where EfficientNet-Lite2 sees a class in a photograph: about 5 for background, 30 to 50 there."""
NOTHING = -1


def imprint_tensors(class_index: int, random_source: random.Random) -> dict[str, Tensor]:
    """`imprint_class` `[1]` and `imprint_strength` `[1, GRID, GRID]`: a soft-edged ellipse somewhere in the picture."""
    centre = [random_source.uniform(0.3, 0.7) for _ in range(2)]
    radius = [random_source.uniform(0.18, 0.6) for _ in range(2)]
    places = (torch.arange(GRID) + 0.5) / GRID
    distance = ((places[:, None] - centre[0]) / radius[0]) ** 2 + ((places[None] - centre[1]) / radius[1]) ** 2
    shape = (1.5 - distance).clamp(0, 1)
    strength = shape * random_source.uniform(*STRENGTH)
    return {"imprint_class": torch.tensor([class_index]), "imprint_strength": strength[None]}


def join_imprints(pictures: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch's imprints, NOTHING for pictures without; empty where no picture has one."""
    if not any("imprint_class" in picture for picture in pictures):
        return {}
    nothing = {"imprint_class": torch.tensor([NOTHING]), "imprint_strength": torch.zeros(1, GRID, GRID)}
    return {key: torch.cat([picture.get(key, value) for picture in pictures]) for key, value in nothing.items()}
