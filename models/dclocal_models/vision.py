"""Vision backbones: normalised pixels to the hidden states of every layer, patch tokens alone.

A backbone is frozen.  `hidden_states[0]` is the stem (patch embedding with positions) and
`hidden_states[depth]` the last layer, before the tower's final norm, as transformers counts them.
A fused backbone has a second, convolutional tower whose last map rides along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.efficientnet_lite import FEATURE_CHANNELS, EfficientNetLite2


@dataclass(frozen=True)
class VisionConfig:
    """Which backbone (a name in `registry.BACKBONES`), its square input size in pixels and, for the
    transformer, the keys of its transformers config that differ from that class's defaults."""

    backbone: str
    image_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    tower: dict[str, Any]


@dataclass(frozen=True)
class VisionOutput:
    """`hidden_states`: depth + 1 tensors `[n, tokens, width]`; `conv_map`: `[n, channels, rows, columns]` or None."""

    hidden_states: tuple[Tensor, ...]
    conv_map: Tensor | None = None


class Dinov2Backbone(nn.Module):
    """transformers' DINOv2 with its class token dropped; positions are those of `image_size`'s own grid."""

    conv_channels = 0

    def __init__(self, config: VisionConfig):
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        tower_config = Dinov2Config(**{**config.tower, "image_size": config.image_size})
        self.tower = Dinov2Model(tower_config)
        self.depth: int = tower_config.num_hidden_layers
        self.width: int = tower_config.hidden_size
        side = config.image_size // tower_config.patch_size
        self.grid = (side, side)

    def forward(self, pixels: Tensor) -> VisionOutput:
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        return VisionOutput(tuple(state[:, 1:] for state in states))


class Dinov2EfficientNetBackbone(nn.Module):
    """DINOv2 and EfficientNet-Lite2 on one image input.

    The convolutional branch sees the same pixels, brought to its own normalisation and to `CONV_SIZE`
    by bilinear interpolation, so that one graph with one input serves both.
    """

    CONV_SIZE = 384
    conv_channels = FEATURE_CHANNELS
    conv_scale: Tensor
    conv_shift: Tensor

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.vit = Dinov2Backbone(config)
        self.conv = EfficientNetLite2()
        self.depth, self.width, self.grid = self.vit.depth, self.vit.width, self.vit.grid
        mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
        # (value·255 − 127)/128, where value = pixel·std + mean.
        self.register_buffer("conv_scale", (std * 255 / 128)[:, None, None], persistent=False)
        self.register_buffer("conv_shift", ((mean * 255 - 127) / 128)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> VisionOutput:
        size = (self.CONV_SIZE, self.CONV_SIZE)
        enlarged = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        with torch.autocast(pixels.device.type, enabled=False):  # depthwise filters lose 1 % of cosine in bf16
            conv_map = self.conv(enlarged * self.conv_scale + self.conv_shift)
        return VisionOutput(self.vit(pixels).hidden_states, conv_map)
