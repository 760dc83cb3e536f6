"""Attention as two plain bfloat16 matrix products, for training on a CPU.

PyTorch's fused attention keeps memory small, but on a processor with bfloat16 instructions it took 96 ms forward
and backward where these products took 41 (one core, 8 × 9 heads × 345 tokens of width 64).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dclocal_models.vlm import DenseConnectorModel

NAME = "matmul"


def prepare_for_cpu(model: DenseConnectorModel) -> None:
    """Let the language model and a transformers vision tower attend this way from now on, and lay the weights of
    convolutions out with the channels last, which is faster too."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    vision = getattr(model.vision, "vit", model.vision)
    for part in (model.base_llm, getattr(vision, "tower", None)):
        if part is not None:
            part.config._attn_implementation = NAME
    model.vision.to(memory_format=torch.channels_last)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: `query` `[batch, heads, length, width]`, `key` and `value` of as many heads
    or an equal share; `attention_mask` true where a token may look; the result `[batch, length, heads, width]`."""
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    query, key, value = (
        tensor.to(torch.bfloat16).repeat_interleave(repeats, dim=1).flatten(0, 1)
        for tensor, repeats in ((query, 1), (key, groups), (value, groups))
    )
    bias = torch.zeros(1, 1, length, length, dtype=torch.bfloat16)
    if attention_mask is not None:
        bias = torch.zeros_like(attention_mask, dtype=torch.bfloat16).masked_fill(~attention_mask, float("-inf"))
    bias = bias.expand(batch, heads, length, length).flatten(0, 1)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=width**-0.5 if scaling is None else scaling)
    attended = torch.bmm(scores.softmax(-1), value)
    return attended.unflatten(0, (batch, heads)).transpose(1, 2), None
