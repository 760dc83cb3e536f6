"""What the model is given of a picture: its features out of a cache, or its pixels, read as the run goes."""

from __future__ import annotations

from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from dclocal.anyres import token_order
from dclocal.picture import squares
from dclocal_models.answer import vision_spec
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.features import FeatureCache


class Pictures(Protocol):
    """A place that pictures come from, by name."""

    def load(self, name: str) -> Image: ...


class VisionInputs(Protocol):
    """Names of pictures to tensors of one picture each, and how many visual tokens they become."""

    def prepare(self, name: str) -> dict[str, Tensor]: ...
    def tokens(self, vision: dict[str, Tensor]) -> int: ...


class CachedFeatures:
    """`dense` `[1, dense_tokens, dense_width]` and `conv_map` `[1, channels, r, c]` out of a FeatureCache.

    For a frozen backbone whose connector integrates without parameters.
    """

    def __init__(self, cache: FeatureCache, tokens: int):
        self.cache, self._tokens = cache, tokens

    def prepare(self, name: str) -> dict[str, Tensor]:
        return {key: tensor[None] for key, tensor in self.cache.load(name).items()}

    def tokens(self, vision: dict[str, Tensor]) -> int:
        return self._tokens


class Pixels:
    """`pixels` `[tiles, 3, H, W]` and, for AnyRes, `token_order` `[length]`."""

    def __init__(self, model: DenseConnectorModel, pictures: Pictures):
        self.pictures, self.spec = pictures, vision_spec(model)

    def prepare(self, name: str) -> dict[str, Tensor]:
        image, spec = self.pictures.load(name), self.spec.image
        vision = {"pixels": torch.from_numpy(squares(image, spec))}
        if spec.fit == "anyres":
            order = token_order(image.size, spec.pinpoints, spec.size, self.spec.grid)
            vision["token_order"] = torch.from_numpy(order)
        return vision

    def tokens(self, vision: dict[str, Tensor]) -> int:
        if "token_order" in vision:
            return len(vision["token_order"])
        return self.spec.tokens
