"""Training against the four bits that will run: llama.cpp's Q4_0 in the forward pass, as it were not there backwards.

A LoRA layer's matrix W + scale·B·A is rounded as the export will round it; the gradient goes through the rounding as
it is (straight-through estimator, Bengio et al. 2013), so that the adapter settles where rounding costs least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 32


def q4_0(weight: Tensor) -> Tensor:
    """The values that llama.cpp's Q4_0 makes of a matrix `[outputs, inputs]`, whose rows are multiples of BLOCK: one
    scale for each BLOCK, in float16, by which its largest value, whatever its sign, becomes −8 of −8 to 7."""
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    largest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
    scale = largest / -8
    steps = torch.where(scale == 0, 0, 1 / scale)
    whole = (blocks * steps + 8.5).trunc_().clamp_(max=15) - 8
    return (whole * scale.half().float()).flatten(1)


class Rounded(torch.autograd.Function):
    """`q4_0`, through which gradients pass unchanged."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return q4_0(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_lora(model: torch.nn.Module) -> None:
    """Make every LoRA layer of `model` run on its rounded, merged matrix.

    Dropout of the adapter has no place here: raises ValueError where there is some.
    """
    from peft.tuners.lora import Linear

    for layer in [module for module in model.modules() if isinstance(module, Linear)]:
        (adapter,) = layer.active_adapters
        if not isinstance(layer.lora_dropout[adapter], torch.nn.Identity):
            raise ValueError("weights that are rounded are merged, so LoRA can have no dropout")
        layer.forward = _Merged(layer, adapter)  # type: ignore[method-assign]


class _Merged:
    """The forward pass of a LoRA layer on W + scale·B·A, rounded."""

    def __init__(self, layer: Any, adapter: str):
        self.layer, self.adapter = layer, adapter

    def __call__(self, x: Tensor) -> Tensor:
        layer, adapter = self.layer, self.adapter
        with torch.autocast(x.device.type, enabled=False):
            change = layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight
            merged = Rounded.apply(layer.base_layer.weight + layer.scaling[adapter] * change)
        return functional.linear(x, merged.to(x.dtype), layer.base_layer.bias)
