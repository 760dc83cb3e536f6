"""Vision features on disk: the frozen backbone looks at each picture once, however many epochs follow.

One safetensors file a picture, named by the picture's content, in a folder named by the backbone's
weights; each is written whole or not at all, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dclocal.images import load_image, to_pixels
from dclocal_models.vlm import DenseConnectorModel, image_spec

BATCH = 8


class FeatureCache:
    """Dense features and convolutional maps of pictures, kept as float16."""

    def __init__(self, folder: Path, model: DenseConnectorModel):
        self.folder = folder / vision_fingerprint(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spec = image_spec(model)

    def file_for(self, image: Path) -> Path:
        """Where the features of this picture lie; named by the file's bytes."""
        return self.folder / f"{hashlib.sha256(image.read_bytes()).hexdigest()[:32]}.safetensors"

    def fill(
        self, model: DenseConnectorModel, images: Sequence[Path], on_images: Callable[[int], None] = lambda n: None
    ) -> None:
        """Compute what is missing; the transformer under bf16 autocast where the machine is fast at it."""
        missing = [image for image in dict.fromkeys(images) if not self.file_for(image).exists()]
        on_images(len(images) - len(missing))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            pixels = torch.from_numpy(to_pixels([load_image(image) for image in batch], self.spec))
            with torch.autocast("cpu", torch.bfloat16):
                dense, conv_map = model.vision_features(pixels)
            for index, image in enumerate(batch):
                tensors = {"dense": dense[index].half()}
                if conv_map is not None:
                    tensors["conv_map"] = conv_map[index].half()
                _save_whole(tensors, self.file_for(image))
            on_images(len(batch))

    def load(self, image: Path) -> tuple[Tensor, Tensor | None]:
        """(dense `[N, dense_width]`, convolutional map `[channels, r, c]` or None), float16."""
        tensors = load_file(self.file_for(image))
        return tensors["dense"], tensors.get("conv_map")


def vision_fingerprint(model: DenseConnectorModel) -> str:
    """A short hash of everything that decides the features: backbone weights, connector grouping, image size."""
    digest = hashlib.sha256(repr((model.config.vision, model.config.connector)).encode())
    for name, tensor in sorted(model.vision.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _save_whole(tensors: dict[str, Tensor], file: Path) -> None:
    part = file.with_suffix(".part")
    save_file(tensors, part)
    part.replace(file)
