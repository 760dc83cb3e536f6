"""Training against the four bits that will run: llama.cpp's quantization in the forward pass, as it were not there
backwards.

A LoRA layer's matrix W + scale·B·A is rounded as the export will round it; the gradient goes through the rounding as
it is (straight-through estimator, Bengio et al. 2013), so that the adapter settles where rounding costs least.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dclocal.gguf_merge import MIXTURES, MODULES
from dclocal_train.fake_q4_k import BLOCK, q4_k, q4_k_grid

LEVELS = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.float32)
"""IQ4_NL's values, of which each weight is one, times its block's scale."""
NEAREST = LEVELS[torch.bucketize(torch.arange(-256, 256) / 2, (LEVELS[1:] + LEVELS[:-1]) / 2, right=True)]
"""The level nearest to each half from −128 on: where one level ends and the next begins is a half."""
TRIES = 7
FRESH = 50
"""Steps for which the scales of IQ4_NL and Q4_K are kept: searching them costs more than all the rest."""


def q4_0(weight: Tensor) -> Tensor:
    """The values that llama.cpp's Q4_0 makes of a matrix `[outputs, inputs]`, whose rows are multiples of BLOCK: one
    scale for each BLOCK, in float16, by which its largest value, whatever its sign, becomes −8 of −8 to 7."""
    blocks, largest = _in_blocks(weight)
    scale = largest / -8
    steps = torch.where(scale == 0, 0, 1 / scale)
    whole = (blocks * steps + 8.5).trunc_().clamp_(max=15) - 8
    return (whole * scale.half().float()).flatten(1)


def q8_0(weight: Tensor) -> Tensor:
    """The values that llama.cpp's Q8_0 makes of such a matrix: one scale for each BLOCK, in float16, by which its
    largest value becomes 127 or −127."""
    blocks, largest = _in_blocks(weight)
    scale = largest.abs() / 127
    whole = blocks * torch.where(scale == 0, 0, 1 / scale)
    return ((whole + 0.5 * whole.sign()).trunc_() * scale.half().float()).flatten(1)


def iq4_nl(weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """The values that llama.cpp's IQ4_NL makes of a matrix `[outputs, inputs]`: the nearest of LEVELS, in the `scale`
    of their block (`iq4_nl_scale`, by default that of the matrix)."""
    scale = iq4_nl_scale(weight) if scale is None else scale
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    return (_nearest(blocks * torch.where(scale == 0, 0, 1 / scale)) * scale.half().float()).flatten(1)


def iq4_nl_scale(weight: Tensor) -> Tensor:
    """Each block's scale, `[outputs, blocks, 1]`: of those that bring the largest value to the first of LEVELS or near
    it, or to its opposite, the one whose best fit leaves the least error, values weighed by their squares."""
    blocks, largest = _in_blocks(weight)
    weighed = blocks.square()
    scale, best = torch.zeros_like(largest), torch.zeros_like(largest)
    for reach in (-LEVELS[0], *(LEVELS[0] + shift for shift in range(-TRIES, TRIES + 1))):
        steps = reach / largest
        values = _nearest(blocks * torch.where(largest == 0, 0, steps))
        along = (weighed * values * blocks).sum(2, keepdim=True)
        energy = (weighed * values.square()).sum(2, keepdim=True).clamp(min=1e-30)
        better = along.square() > best * energy
        scale = torch.where(better, along / energy, scale)
        best = torch.where(better, along.square() / energy, best)
    return scale


def _in_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[outputs, blocks, BLOCK]`, and of each block the value that is largest whatever its sign."""
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    return blocks, blocks.gather(2, blocks.abs().argmax(2, keepdim=True))


def _nearest(scaled: Tensor) -> Tensor:
    halves = (scaled * 2 + 256).clamp_(0, len(NEAREST) - 1).int()
    return NEAREST.to(scaled.device).index_select(0, halves.flatten()).view_as(scaled)


class RoundedLora(torch.autograd.Function):
    """`x` `[..., inputs]` times a rounded merged matrix `[outputs, inputs]`, W + scale·B·A. Gradients reach `x` through
    the rounded matrix, A and B as if nothing were rounded, by way of their rank: the whole matrix's gradient, as
    costly as the forward pass, is never made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, merged: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, merged, a, b)
        ctx.scale = scale
        return functional.linear(x, merged)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, merged, a, b = ctx.saved_tensors
        flat, steep = x.flatten(0, -2), gradient.flatten(0, -2)
        to_a = (steep @ b).T @ flat
        to_b = steep.T @ (flat @ a.T)
        return gradient @ merged, None, to_a * ctx.scale, to_b * ctx.scale, None


class _Kept:
    """A rounding of a matrix that moves slowly: what `search` finds for it is searched anew every FRESH times."""

    def __init__(self, search: Callable[[Tensor], Any], rounded: Callable[[Tensor, Any], Tensor]):
        self.search, self.rounded = search, rounded
        self.found: Any = None
        self.times = 0

    def __call__(self, weight: Tensor) -> Tensor:
        if self.times % FRESH == 0:
            self.found = self.search(weight)
        self.times += 1
        return self.rounded(weight, self.found)


ROUNDINGS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "q4_0": lambda: q4_0,
    "q8_0": lambda: q8_0,
    "iq4_nl": lambda: _Kept(iq4_nl_scale, iq4_nl),
    "q4_k": lambda: _Kept(q4_k_grid, q4_k),
}
"""How a LoRA layer's matrix is rounded, by the quantization's name; one made for each layer."""


def round_lora(model: torch.nn.Module, quantization: str) -> None:
    """Make every LoRA layer of `model` run on its rounded, merged matrix; `quantization` is a name in ROUNDINGS or
    `gguf_merge.MIXTURES`.

    Dropout of the adapter has no place here: raises ValueError where there is some.
    """
    from peft.tuners.lora import Linear

    for name, layer in [(name, module) for name, module in model.named_modules() if isinstance(module, Linear)]:
        (adapter,) = layer.active_adapters
        if not isinstance(layer.lora_dropout[adapter], torch.nn.Identity):
            raise ValueError("weights that are rounded are merged, so LoRA can have no dropout")
        rounded = ROUNDINGS[rounding_of(name, quantization)]()
        layer.forward = _Merged(layer, adapter, rounded)  # type: ignore[method-assign]


def rounding_of(layer: str, quantization: str) -> str:
    """The name in ROUNDINGS for a layer, by its name in transformers."""
    most, others = MIXTURES.get(quantization, (quantization, {}))
    tensor, _ = MODULES[".".join(layer.split(".")[-2:])]
    return next((kind.lower() for pattern, kind in others.items() if re.search(pattern, tensor)), most)


class _Merged:
    """The forward pass of a LoRA layer on W + scale·B·A, rounded; on W as it is while the adapter is disabled."""

    def __init__(self, layer: Any, adapter: str, rounded: Callable[[Tensor], Tensor]):
        self.layer, self.adapter, self.rounded = layer, adapter, rounded

    def __call__(self, x: Tensor) -> Tensor:
        layer, adapter = self.layer, self.adapter
        if layer.disable_adapters:
            return layer.base_layer(x)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        a, b, scale = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, layer.scaling[adapter]
        with torch.no_grad(), torch.autocast(device, enabled=False):
            merged = self.rounded(layer.base_layer.weight + scale * (b @ a)).to(dtype)
        y: Tensor = RoundedLora.apply(x.to(dtype), merged, a.to(dtype), b.to(dtype), scale)
        return y if layer.base_layer.bias is None else y + layer.base_layer.bias.to(dtype)
