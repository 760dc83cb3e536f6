"""What the model is given of a picture: its features out of a cache, or its pixels, read as the run goes."""

from __future__ import annotations

from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from dclocal.images import to_pixels
from dclocal_models.vlm import DenseConnectorModel, image_spec
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
        self.pictures, self.spec, self.config = pictures, image_spec(model), model.config
        self.per_tile, self.token_grid = model.connector.tokens, model.connector.token_grid

    def prepare(self, name: str) -> dict[str, Tensor]:
        image = self.pictures.load(name)
        if self.config.fit != "anyres":
            return {"pixels": torch.from_numpy(to_pixels([image], self.spec))}
        from dclocal.anyres import to_tiles, token_order

        size = self.spec.size
        tiles = to_tiles(image, self.config.pinpoints, size)
        order = token_order(image.size, self.config.pinpoints, size, self.token_grid)
        return {"pixels": torch.from_numpy(to_pixels(tiles, self.spec)), "token_order": torch.from_numpy(order)}

    def tokens(self, vision: dict[str, Tensor]) -> int:
        if "token_order" in vision:
            return len(vision["token_order"])
        return self.per_tile
