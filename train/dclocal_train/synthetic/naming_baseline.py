"""How far naming gets without a language model: the name of the nearest training picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal_train.synthetic.naming_tests import CANVAS, SHARE, is_right, read_questions
from dclocal_train.synthetic.things import Thing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dclocal_models.efficientnet_lite import EfficientNetLite2

SIDE = 384  # pixels: the size that dc-tiny's convolutional branch sees
BATCH = 16


def nearest_neighbour_baseline(things: Sequence[Thing], test_folder: Path, weights: Path) -> float:
    """Share of a naming test answered rightly by the name of the nearest of `things` (the gallery).

    Nearest by the cosine of EfficientNet-Lite2's features, averaged over the map; `weights` is the published .pth
    ("conv" of `dclocal_train.sources`).  Only training drawings may be in the gallery: raises ValueError else.
    """
    import torch
    from PIL import Image

    from dclocal_models.efficientnet_lite import EfficientNetLite2, import_weights

    if not things or any(thing.split != "train" for thing in things):
        raise ValueError("the gallery must be training drawings, and one at least")
    network = EfficientNetLite2()
    network.load_state_dict(import_weights(weights))
    network.eval()
    rows = read_questions(test_folder)
    with torch.inference_mode():
        gallery = _features(network, [_on_white(thing.picture()) for thing in things])
        asked = _features(network, [Image.open(test_folder / str(row["image"])).convert("RGB") for row in rows])
        nearest = (asked @ gallery.T).argmax(dim=1)
    right = [is_right(things[index].name, list(row["answers"])) for index, row in zip(nearest.tolist(), rows)]  # type: ignore[call-overload]
    return sum(right) / len(right)


def _on_white(drawing: Image) -> Image:
    """As the tests show it: at the same share of a white canvas."""
    from PIL import Image as images

    scale = SHARE * CANVAS / max(drawing.size)
    width, height = (max(1, round(side * scale)) for side in drawing.size)
    drawing = drawing.resize((width, height), images.Resampling.LANCZOS)
    canvas = images.new("RGB", (CANVAS, CANVAS), "white")
    canvas.paste(drawing, ((CANVAS - width) // 2, (CANVAS - height) // 2), drawing)
    return canvas


def _features(network: EfficientNetLite2, pictures: Sequence[Image]) -> Tensor:
    """`[n, 1280]`, each of length one."""
    import numpy as np
    import torch

    batches = []
    for start in range(0, len(pictures), BATCH):
        resized = [picture.resize((SIDE, SIDE)) for picture in pictures[start : start + BATCH]]
        pixels = torch.from_numpy(np.stack([np.asarray(picture, dtype=np.float32) for picture in resized]))
        pooled = network((pixels.permute(0, 3, 1, 2) - 127) / 128).mean(dim=(2, 3))
        batches.append(torch.nn.functional.normalize(pooled, dim=1))
    return torch.cat(batches)
