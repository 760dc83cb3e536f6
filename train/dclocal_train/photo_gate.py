"""The classifier behind `dclocal_models.class_words.PhotoGate`: photographs told from drawings.

There are few photographs to learn from, fifteen that come with packages, but many crops of them, and the features of a
transformer that has seen millions tell the two apart by a straight line.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import PhotoGateConfig
from dclocal_train.place_fit import BATCH, features_of
from dclocal_train.synthetic.build import draw
from dclocal_train.synthetic.materials import Materials, build_materials, load_materials
from dclocal_train.synthetic.photographs import part_of
from dclocal_train.trained import save_whole

FILE = "photo_gate.safetensors"
SEED = 1000
SHARES = (0.4, 1.0)
"""Of a photograph's sides that are seen."""
DRAWINGS = {"names": 14, "scenes": 4, "drills": 4, "words": 4, "charts": 2, "counts": 2}
"""How often a drawn picture is of each kind."""


def fit_photo_gate(
    model: DenseConnectorModel, config: PhotoGateConfig, folder: Path, source_folder: Path | None
) -> None:
    """Let the model tell photographs from drawings: by what lies in `folder`, or is trained now and kept there."""
    gate = model.connector.photo_gate
    assert gate is not None
    path = folder / FILE
    if not path.is_file():
        materials = load_materials(build_materials(source_folder))
        half = config.pictures // 2
        photographs = _means(model, lambda index: _photograph(index, materials), half, "photographs")
        drawings = _means(model, lambda index: _drawing(index, materials), half, "drawings")
        weight, bias = fit(drawings, photographs, config)
        folder.mkdir(parents=True, exist_ok=True)
        save_whole({"weight": weight, "bias": bias}, path)
    gate.load_state_dict(load_file(path))


def fit(drawings: Tensor, photographs: Tensor, config: PhotoGateConfig) -> tuple[Tensor, Tensor]:
    """Logistic regression of means of features, `[n, width]` each: weight `[width]` and bias `[1]`.

    The bias lets the share `allowed` of the drawings be taken for photographs: of these there are more kinds than those
    it has seen.
    """
    features = torch.cat([drawings, photographs])
    truth = torch.cat([torch.zeros(len(drawings)), torch.ones(len(photographs))])
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    normal = (features - mean) / deviation
    weight, bias = torch.zeros(features.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(normal @ weight + bias, truth)
        loss = loss + config.penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        told = weight / deviation
        scale = 4 / (photographs @ told).std()  # so that what is told is told clearly
        told = told * scale
        return told, -(drawings @ told).quantile(1 - config.allowed)[None]


def _picture(kind: str, index: int, materials: Materials) -> Image.Image:
    image = draw(kind, index, SEED, materials).image
    assert image is not None
    return image


def _photograph(index: int, materials: Materials) -> Image.Image:
    """A part of a photograph, also a small one."""
    return part_of(_picture("photographs", index, materials), SHARES, random.Random(f"part {index}"))


def _drawing(index: int, materials: Materials) -> Image.Image:
    (kind,) = random.Random(f"gate {index}").choices(list(DRAWINGS), list(DRAWINGS.values()))
    return _picture(kind, index, materials)


@torch.inference_mode()
def _means(model: DenseConnectorModel, picture: Callable[[int], Image.Image], count: int, title: str) -> Tensor:
    """The mean of each picture's integrated features, `[count, width]`."""
    from tqdm import trange

    means = []
    for start in trange(0, count, BATCH, desc=title, unit="batch", file=sys.stderr):
        dense, _ = features_of(model, [picture(index) for index in range(start, min(count, start + BATCH))])
        means.append(dense.float().mean(1))
    return torch.cat(means).clone()
