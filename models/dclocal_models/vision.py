"""Vision backbones: normalised pixels to the hidden states of every layer, patch tokens alone.

`hidden_states[0]` is the stem (patch embedding with positions) and `hidden_states[depth]` the last layer,
before the tower's final norm, as transformers counts them.  A class attribute says which transformers
class a backbone is and how many tokens stand before its patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class VisionConfig:
    """Which backbone (a name in `registry.BACKBONES`), its square input size in pixels and, for the
    transformer, the keys of its transformers config that differ from that class's defaults.

    `conv` are the same for a convolutional tower, where the backbone has one out of transformers;
    `low_size` is the side in pixels at which the transformer sees the picture where that is not `image_size`.
    """

    backbone: str
    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    tower: dict[str, Any]
    conv: dict[str, Any] = field(default_factory=dict)
    low_size: int | None = None


@dataclass(frozen=True)
class VisionOutput:
    """`hidden_states`: depth + 1 tensors `[n, tokens, width]`; `conv_map`: `[n, channels, rows, columns]` or None."""

    hidden_states: tuple[Tensor, ...]
    conv_map: Tensor | None = None


class VitBackbone(nn.Module):
    """A vision transformer of transformers, its prefix tokens dropped.

    `tower` is the library's model, whose names its weights keep; `grid` is (rows, columns) of patches.
    """

    config_class: ClassVar[str]
    model_class: ClassVar[str]
    prefix_tokens: ClassVar[int]
    fixed: ClassVar[dict[str, Any]] = {}
    conv_channels = 0

    def __init__(self, config: VisionConfig):
        super().__init__()
        import transformers

        size = config.low_size or config.image_size
        settings = {**config.tower, **self.fixed, "image_size": size}
        tower_config = getattr(transformers, self.config_class)(**settings)
        self.tower = getattr(transformers, self.model_class)(tower_config)
        self.depth: int = tower_config.num_hidden_layers
        self.width: int = tower_config.hidden_size
        side = size // tower_config.patch_size
        self.grid = (side, side)

    def forward(self, pixels: Tensor) -> VisionOutput:
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return VisionOutput(tuple(state[:, self.prefix_tokens :] for state in states))


class ClipBackbone(VitBackbone):
    """CLIP's image tower; its stem includes the norm before the first layer."""

    config_class, model_class, prefix_tokens = "CLIPVisionConfig", "CLIPVisionModel", 1


class SiglipBackbone(VitBackbone):
    """SigLIP's image tower, without its pooling head."""

    config_class, model_class, prefix_tokens = "SiglipVisionConfig", "SiglipVisionModel", 0
    fixed: ClassVar[dict[str, Any]] = {"vision_use_head": False}


class Dinov2Backbone(VitBackbone):
    """DINOv2; positions are those of `image_size`'s own grid."""

    config_class, model_class, prefix_tokens = "Dinov2Config", "Dinov2Model", 1
