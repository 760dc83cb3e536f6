"""Small models for tests of the llama.cpp projector, and how far what it sees is from what they see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from dclocal.images import to_pixels
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig, image_spec
from tests.tiny import CONVNEXT, tiny_llm

WIDTH, BOS = 32, 1  # of the tiny GGUF
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CASES: dict[str, dict[str, Any]] = {
    "baseline": {"kind": "baseline"},
    "baseline last": {"kind": "baseline", "final_layer": -1},
    "sci": {"kind": "sci", "layers": (1, 3)},
    "sci with the stem": {"kind": "sci", "layers": (0, 2, 4), "final_layer": -1},
    "dci 2": {"kind": "dci"},
    "dci 3": {"kind": "dci", "groups": 3},
    "dci 2 sum": {"kind": "dci", "reduce": "sum"},
    "dci 3 sum last": {"kind": "dci", "groups": 3, "reduce": "sum", "final_layer": -1},
    "dci 2 last": {"kind": "dci", "final_layer": -1, "first_layer": 1},
    "efficient": {"kind": "dci", "token_grid": (12, 12), "image_size": 96, "patch_size": 4},
}


def small_model(
    backbone: str, *, image_size: int = 56, patch_size: int = 14, vision: Any = None, fit: str = "pad", **connector: Any
) -> DenseConnectorModel:
    """Six layers of width 64 that differ enough for a wrong one to show; every token kept unless said otherwise."""
    torch.manual_seed(0)
    tower: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    tower |= {"patch_size": patch_size, "mlp_ratio": 2} if "dinov2" in backbone else {"patch_size": patch_size}
    tower |= {} if "dinov2" in backbone else {"intermediate_size": 128}
    base = VisionConfig(backbone, image_size, CLIP_MEAN, (0.27, 0.26, 0.28), tower | (vision or {}))
    if backbone == "clip+convnext":
        base = replace(base, image_size=128, low_size=56, conv=CONVNEXT)
    config = ModelConfig(
        base,
        ConnectorConfig(**{"token_grid": (0, 0), **connector}),
        fit=fit,
        pinpoints=((2 * image_size, image_size),) if fit == "anyres" else (),
    )
    model = DenseConnectorModel(config, tiny_llm(hidden_size=WIDTH, num_hidden_layers=1)).eval()
    with torch.no_grad():
        for parameter in model.vision.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def seen(model: DenseConnectorModel, image: Image.Image) -> np.ndarray:
    """The PyTorch model's embeddings of a picture, `[tokens, n_embd]`."""
    with torch.no_grad():
        return model.encode_images(torch.from_numpy(to_pixels([image], image_spec(model))))[0].numpy()


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
