"""EfficientNet-Lite2's convolutional features: the small branch that names things well.

Inverted bottlenecks without squeeze-and-excitation and with ReLU6 (Tan and Le, arXiv 1905.11946, in
the "lite" form published for mobile devices).  Batch norms are folded into the convolutions when weights
are imported, so a block is plain convolutions with bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

# (expansion, kernel, stride, output channels, repeats) of each stage at Lite2's width 1.1 and depth 1.2.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 3),
    (6, 5, 2, 48, 3),
    (6, 3, 2, 88, 4),
    (6, 5, 1, 120, 4),
    (6, 5, 2, 208, 5),
    (6, 3, 1, 352, 1),
)
STEM_CHANNELS = 32
FEATURE_CHANNELS = 1280
BATCH_NORM_EPSILON = 1e-3


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": the odd row and column go to the bottom and the right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = kernel - stride if stride > 1 else kernel - 1
        before = total // 2
        return super().forward(functional.pad(x, (before, total - before, before, total - before)))


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; with a residual where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        width = inputs * expansion
        self.expand = nn.Conv2d(inputs, width, 1) if expansion > 1 else None
        self.depthwise = SameConv(width, width, kernel, stride=stride, groups=width)
        self.project = nn.Conv2d(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else functional.relu6(self.expand(x))
        hidden = self.project(functional.relu6(_in_float32(self.depthwise, hidden))).float()
        return hidden + x if self.residual else hidden


class EfficientNetLite2(nn.Module):
    """Pixels float `[n, 3, H, W]`, normalised as (value·255 − 127)/128, to features `[n, 1280, H/32, W/32]`.

    H and W are multiples of 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, stride=2)
        blocks, channels = [], STEM_CHANNELS
        for expansion, kernel, stride, outputs, repeats in STAGES:
            for index in range(repeats):
                blocks.append(InvertedBottleneck(channels, outputs, expansion, kernel, stride if index == 0 else 1))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, FEATURE_CHANNELS, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu6(_in_float32(self.stem, pixels))
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self.head(x)).float()


def _in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output, without autocast: depthwise filters and sums of blocks lose 1 % of cosine in bfloat16,
    the pointwise convolutions, where nearly all the work is, 0.1 %."""
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = layer(x.float())
    return result


def import_weights(pth: Path) -> dict[str, Tensor]:
    """Weights of the published `efficientnet-lite2-*.pth`, batch norms folded, under this module's names."""
    source = torch.load(pth, map_location="cpu", weights_only=True)
    weights = _fold(source, "_conv_stem", "_bn0", "stem")
    for index in range(sum(stage[-1] for stage in STAGES)):
        theirs, ours = f"_blocks.{index}.", f"blocks.{index}."
        if f"{theirs}_expand_conv.weight" in source:
            weights |= _fold(source, f"{theirs}_expand_conv", f"{theirs}_bn0", f"{ours}expand")
        weights |= _fold(source, f"{theirs}_depthwise_conv", f"{theirs}_bn1", f"{ours}depthwise")
        weights |= _fold(source, f"{theirs}_project_conv", f"{theirs}_bn2", f"{ours}project")
    return weights | _fold(source, "_conv_head", "_bn1", "head")


def import_classifier(pth: Path) -> tuple[Tensor, Tensor]:
    """The published classifier of ImageNet's classes over the features' mean: weight `[1000, 1280]` and bias."""
    source = torch.load(pth, map_location="cpu", weights_only=True)
    return source["_fc.weight"], source["_fc.bias"]


def _fold(source: Mapping[str, Tensor], convolution: str, norm: str, name: str) -> dict[str, Tensor]:
    scale = source[f"{norm}.weight"] * torch.rsqrt(source[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
    return {
        f"{name}.weight": source[f"{convolution}.weight"] * scale[:, None, None, None],
        f"{name}.bias": source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * scale,
    }
