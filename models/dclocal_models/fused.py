"""Backbones of two towers on one image input: a vision transformer and a convolutional network beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.efficientnet_lite import FEATURE_CHANNELS, EfficientNetLite2
from dclocal_models.vision import ClipBackbone, Dinov2Backbone, VisionConfig, VisionOutput


class Dinov2EfficientNetBackbone(nn.Module):
    """DINOv2 and EfficientNet-Lite2.

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
        conv_map = self.conv(enlarged * self.conv_scale + self.conv_shift)
        return VisionOutput(self.vit(pixels).hidden_states, conv_map)


class ClipConvNextBackbone(nn.Module):
    """Mini-Gemini's dual encoder: CLIP on the picture made small, ConvNeXt on the picture as it is.

    The convolutional map is all four stages, each brought to the first one's resolution (a quarter of the
    picture's sides) and concatenated on the channel axis.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        from transformers import ConvNextConfig, ConvNextModel

        if config.low_size is None:
            raise ValueError("clip+convnext needs low_size, the side at which CLIP sees the picture (336)")
        self.low_size = config.low_size
        self.vit = ClipBackbone(config)
        conv_config = ConvNextConfig(**config.conv)
        self.conv = ConvNextModel(conv_config)
        self.depth, self.width, self.grid = self.vit.depth, self.vit.width, self.vit.grid
        self.conv_channels = sum(conv_config.hidden_sizes)
        if (config.image_size // conv_config.patch_size) % self.grid[0]:
            raise ValueError(
                f"{config.image_size} pixels give {config.image_size // conv_config.patch_size} columns of "
                f"convolutional features, which {self.grid[0]} columns of tokens do not divide"
            )

    def forward(self, pixels: Tensor) -> VisionOutput:
        low = functional.interpolate(pixels, size=(self.low_size, self.low_size), mode="bilinear", align_corners=False)
        stages = self.conv(pixels, output_hidden_states=True).hidden_states[1:]
        size = stages[0].shape[-2:]
        resized = [functional.interpolate(stage, size=size, mode="bilinear", align_corners=False) for stage in stages]
        return VisionOutput(self.vit(low).hidden_states, torch.cat(resized, dim=1))
