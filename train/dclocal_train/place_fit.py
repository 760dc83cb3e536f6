"""What the trainings of place networks share: features of drawn pictures, computed once, and the loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dclocal.images import to_pixels
from dclocal_models.answer import tokenize_with
from dclocal_models.place_nets import Norm, PlaceNet
from dclocal_models.vlm import DenseConnectorModel, image_spec
from dclocal_train.config import PlaceNetConfig
from dclocal_train.precision import autocast
from dclocal_train.trained import save_whole

BATCH = 8
Drawn = tuple[Image.Image, Any]


@dataclass(frozen=True)
class Pictures:
    """Features of drawn pictures, float16: `dense` `[n, places, width]`, `conv_map` `[n, channels, r, c]` or None, and
    what each of them shows."""

    dense: Tensor
    conv_map: Tensor | None
    truths: list[Any]


@torch.inference_mode()
def gather(model: DenseConnectorModel, draw: Callable[[int], Drawn], config: PlaceNetConfig, title: str) -> Pictures:
    """Features of the pictures that `draw` makes of the numbers that `config` names, and their truths."""
    from tqdm import trange

    dense, conv_maps, truths = [], [], []
    end = config.first + config.pictures
    for start in trange(config.first, end, BATCH, desc=title, unit="batch", file=sys.stderr):
        drawn = [draw(index) for index in range(start, min(end, start + BATCH))]
        features, conv_map = features_of(model, [picture for picture, _ in drawn])
        dense.append(features.half())
        if conv_map is not None:
            conv_maps.append(conv_map.half())
        truths += [truth for _, truth in drawn]
    return Pictures(torch.cat(dense), torch.cat(conv_maps) if conv_maps else None, truths)


def features_of(model: DenseConnectorModel, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor | None]:
    """What `DenseConnectorModel.vision_features` gives of pictures, in bfloat16 where that is quick."""
    pixels = torch.from_numpy(to_pixels(pictures, image_spec(model)))
    with autocast():
        return model.vision_features(pixels)


def trained_once(net: PlaceNet, file: Path, train: Callable[[], None]) -> None:
    """The network's weights out of `file`, where they are kept once `train` has made them."""
    if not file.is_file():
        train()
        file.parent.mkdir(parents=True, exist_ok=True)
        save_whole(net.state_dict(), file)
    net.load_state_dict(load_file(file))


def named(model: DenseConnectorModel, tokenizer: Any) -> Callable[[Sequence[str]], Tensor]:
    """Words to the embeddings of their last tokens in the language model's vocabulary, `[words, n_embd]`: most words
    are one token, and figures have the space before them as another."""
    tokenize, embeddings = tokenize_with(tokenizer), model.base_llm.get_input_embeddings().weight
    return lambda words: torch.stack([embeddings[tokenize(f" {word}", False)[-1]].detach() for word in words])


def fit(
    net: PlaceNet,
    pictures: Pictures,
    config: PlaceNetConfig,
    loss: Callable[[Tensor, Tensor | None, Tensor], Tensor],
    goes_on: bool = False,
) -> None:
    """Train the network on features brought to mean 0 and deviation 1, which its first layers then take over.

    `loss` gets a batch's dense features and map (None where the network takes none) and the pictures' numbers.  With
    `goes_on` the network was trained before, and takes features as they are.
    """
    from tqdm import trange

    conv_maps = pictures.conv_map if net.enter_conv is not None else None
    dense_norm = _norm(pictures.dense)
    conv_norm = None if conv_maps is None else _norm(conv_maps.flatten(2).transpose(1, 2))
    if goes_on:
        net.absorb(_inverse(dense_norm), None if conv_norm is None else _inverse(conv_norm))
    steps = math.ceil(config.epochs * len(pictures.dense) / config.batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps + 1)
    net.train()
    for _ in trange(steps, desc=type(net).__name__, unit="step", file=sys.stderr):
        rows = torch.randint(len(pictures.dense), (config.batch_size,))
        dense = _dropped((pictures.dense[rows].float() - dense_norm[0]) / dense_norm[1], config.dropout)
        conv_map = None
        if conv_maps is not None and conv_norm is not None:
            mean, deviation = (each[:, None, None] for each in conv_norm)
            conv_map = _dropped((conv_maps[rows].float() - mean) / deviation, config.dropout)
        with autocast():
            value = loss(dense, conv_map, rows)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    net.eval()
    net.absorb(dense_norm, conv_norm)


def spread(map_: Tensor, x: float, y: float) -> list[tuple[int, int, float]]:
    """Add one at a point of `map_` `[rows, columns]`, given in cells from its corner, shared among the four
    nearest cells; returns (row, column, share) of those within the map."""
    shares = []
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < map_.shape[0] and 0 <= column < map_.shape[1]:
                share = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
                map_[row, column] += share
                shares.append((row, column, share))
    return shares


def _norm(features: Tensor) -> Norm:
    """Mean and deviation of channels `[n, places, channels]`, of a part of the pictures where they are many."""
    some = features[:: max(1, len(features) // 200)].float().flatten(0, 1)
    return some.mean(0), some.std(0) + 1e-2


def _inverse(norm: Norm) -> Norm:
    """Mean and deviation by which features of mean 0 and deviation 1 become what they were."""
    mean, deviation = norm
    return -mean / deviation, 1 / deviation


def _dropped(features: Tensor, share: float) -> Tensor:
    return nn.functional.dropout(features, share)
