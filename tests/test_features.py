"""Vision features on disk: what a training run would lose is its first hour, on a processor with quick bfloat16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dclocal_train.features import FeatureCache, vision_fingerprint
from dclocal_train.pictures import open_pictures
from tests.tiny import tiny_model


def test_the_layout_of_convolutions_changes_neither_the_features_nor_their_name(tmp_path: Path) -> None:
    """`prepare_for_cpu` lays them out with the channels last, so that what is cut from a batch is not contiguous."""
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    model = tiny_model("dinov2+efficientnet_lite2").eval()
    name, kept = vision_fingerprint(model), []
    for folder in ("first", "last"):
        cache = FeatureCache(tmp_path / folder, model, open_pictures(tmp_path))
        cache.fill(model, ["noise.png"])
        kept.append(cache.load("noise.png"))
        model.vision.to(memory_format=torch.channels_last)
    assert vision_fingerprint(model) == name
    for key in ("dense", "conv_map"):
        torch.testing.assert_close(kept[0][key], kept[1][key], atol=1e-2, rtol=1e-2)
