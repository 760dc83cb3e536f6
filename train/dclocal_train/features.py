"""Vision features on disk: the frozen backbone looks at each picture once, however many epochs follow.

One safetensors file a picture, named by the picture's content, in a folder named by the backbone's
weights; each is written whole or not at all, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from dclocal.errors import ImageError
from dclocal.images import image_key, to_pixels
from dclocal_models.vlm import DenseConnectorModel, image_spec
from dclocal_train.precision import autocast
from dclocal_train.trained import save_whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal_train.inputs import Pictures

BATCH = 8


class FeatureCache:
    """Integrated features and convolutional maps of pictures, kept as float16."""

    def __init__(self, folder: Path, model: DenseConnectorModel, pictures: Pictures):
        self.folder = folder / vision_fingerprint(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spec, self.pictures = image_spec(model), pictures
        self._keys: dict[str, str] = {}

    def fill(
        self, model: DenseConnectorModel, names: Sequence[str], on_images: Callable[[int], None] = lambda n: None
    ) -> None:
        """Compute what is missing, in bfloat16 where that is quick; pictures that cannot be read are left out."""
        waiting: dict[Path, Image] = {}
        for name in dict.fromkeys(names):
            try:
                image = self.pictures.load(name)
            except ImageError:
                continue  # the data set meets it again, counts it and says so
            file = self._file(name, image)
            if not file.exists():
                waiting[file] = image
            if len(waiting) == BATCH:
                self._compute(model, waiting)
                waiting = {}
            on_images(1)
        if waiting:
            self._compute(model, waiting)

    def load(self, name: str) -> dict[str, Tensor]:
        """`dense` `[dense_tokens, dense_width]` and, for a fused backbone, `conv_map` `[channels, r, c]`, float16.

        Raises ImageError for a picture that cannot be read.
        """
        key = self._keys.get(name)
        file = self.folder / f"{key}.safetensors" if key else self._file(name, self.pictures.load(name))
        return load_file(file)

    def _file(self, name: str, image: Image) -> Path:
        self._keys[name] = image_key(image)
        return self.folder / f"{self._keys[name]}.safetensors"

    @torch.no_grad()
    def _compute(self, model: DenseConnectorModel, images: dict[Path, Image]) -> None:
        device = next(model.vision.parameters()).device
        pixels = torch.from_numpy(to_pixels(list(images.values()), self.spec)).to(device)
        with autocast(device.type):
            dense, conv_map = model.vision_features(pixels)
        for index, file in enumerate(images):
            tensors = {"dense": dense[index].half().cpu()}
            if conv_map is not None:
                tensors["conv_map"] = conv_map[index].half().cpu()
            save_whole(tensors, file)


def vision_fingerprint(model: DenseConnectorModel) -> str:
    """A short hash of everything that decides the features: backbone weights, what is integrated, image size."""
    connector = model.connector
    digest = hashlib.sha256(repr((model.config.vision, type(connector).__name__, connector.final)).encode())
    digest.update(repr((connector.groups, connector.config.reduce)).encode())
    for name, tensor in sorted(model.vision.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
