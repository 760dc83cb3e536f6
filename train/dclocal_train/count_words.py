"""The network behind `dclocal_models.scene_words.CountWords`: trained on scenes whose things are known one by one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dclocal_models.layers import features_at
from dclocal_models.place_nets import CountNet
from dclocal_models.scene_words import NUMBERS, PLACES, SIDES
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import PlaceNetConfig
from dclocal_train.place_fit import Drawn, Pictures, fit, gather, named, spread, trained_once
from dclocal_train.synthetic.backgrounds import CANVAS
from dclocal_train.synthetic.materials import Materials, build_materials, load_materials
from dclocal_train.synthetic.scenes import draw_scene

FILE = "count_words.safetensors"
SHARES = {"single": 12, "pair": 14, "many": 22, "counting": 30, "shapes": 10, "mixed": 4, "containment": 3, "twins": 6}
TOTAL_WEIGHT, COUNT_WEIGHT = 0.2, 0.5


@dataclass(frozen=True)
class Centre:
    """A thing of a scene: its name and where its box's centre lies, in shares of the picture's sides."""

    name: str
    x: float
    y: float


def fit_count_words(
    model: DenseConnectorModel, tokenizer: Any, config: PlaceNetConfig, folder: Path, source_folder: Path | None
) -> None:
    """Give the model its count words: the network from `folder`, or trained now, or on, and kept there."""
    words = model.connector.count_words
    assert words is not None
    net, goes_on = words.net, bool(words.numbers.any())

    def train() -> None:
        materials = load_materials(build_materials(source_folder))
        pictures = gather(model, lambda index: _scene(materials, index), config, "scenes")
        fit_count_net(net, pictures, config, goes_on)

    trained_once(net, folder / FILE, train)
    embed = named(model, tokenizer)
    words.numbers.copy_(embed(NUMBERS))
    words.places.copy_(torch.stack([embed(place) for place in PLACES]))
    words.sides.copy_(torch.stack([embed(side) for side in SIDES]))
    words.length.fill_(model.base_llm.get_input_embeddings().weight.detach().norm(dim=1).median())
    if not goes_on:
        words.gain.data.fill_(config.gain)


def fit_count_net(net: CountNet, pictures: Pictures, config: PlaceNetConfig, goes_on: bool = False) -> None:
    """Densities as they are, pairs of things of one name told from others, and each thing's count of its kind; see
    `fit` for `goes_on`."""
    density = torch.stack([density_of(centres, net.grid) for centres in pictures.truths])
    rows, columns = net.token_grid
    places = [[_place(one, rows, columns) for one in centres] for centres in pictures.truths]

    def loss(dense: Tensor, conv_map: Tensor | None, chosen: Tensor) -> Tensor:
        told, wanted = net.density(dense, conv_map).float(), density[chosen]
        value = (told - wanted).square().sum((1, 2)).mean()
        value = value + TOTAL_WEIGHT * (told.sum((1, 2)) - wanted.sum((1, 2))).abs().mean()
        opinions = net.opinions(features_at(dense, conv_map, net.grid, net.token_grid)).float()
        picture, first, second, same, count = [], [], [], [], []
        for row, index in enumerate(chosen.tolist()):
            names = [one.name for one in pictures.truths[index]]
            amounts = Counter(names)
            for name, place in zip(names, places[index]):
                for other, elsewhere in zip(names, places[index]):
                    picture.append(row)
                    first.append(place)
                    second.append(elsewhere)
                    same.append(float(name == other))
                    count.append(float(amounts[name]))
        wanted_count = torch.tensor(count)
        told_count = net.of_a_kind(net.things(told), opinions.mean(1))[picture, first]
        value = value + COUNT_WEIGHT * ((told_count - wanted_count).abs() / wanted_count.sqrt()).mean()
        pairs, wanted_same = opinions[picture, :, first, second], torch.tensor(same)[:, None]
        return value + functional.binary_cross_entropy_with_logits(pairs, wanted_same.expand_as(pairs))

    fit(net, pictures, config, loss, goes_on)


def density_of(centres: list[Centre], grid: tuple[int, int]) -> Tensor:
    """Things a place, `[rows, columns]`: each sums to one."""
    density = torch.zeros(grid)
    for one in centres:
        spread(density, one.x * grid[1], one.y * grid[0])
    return density


def _place(one: Centre, rows: int, columns: int) -> int:
    """The visual token at a thing's centre."""
    return min(rows - 1, int(one.y * rows)) * columns + min(columns - 1, int(one.x * columns))


def _scene(materials: Materials, index: int) -> Drawn:
    random_source = random.Random(f"count words {index}")
    (kind,) = random_source.choices(list(SHARES), list(SHARES.values()))
    scene = draw_scene(materials.concepts, random_source, materials.photos, kinds=(kind,))
    centres = []
    for placed in scene.objects:
        x0, y0, x1, y1 = placed.box
        centres.append(Centre(placed.name, (x0 + x1) / 2 / CANVAS, (y0 + y1) / 2 / CANVAS))
    return scene.image, centres
