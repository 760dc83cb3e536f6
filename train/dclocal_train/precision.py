"""Whether bfloat16 is worth while on this machine."""

from __future__ import annotations

import torch


def has_quick_bf16() -> bool:
    """Whether there is a GPU, or a processor on which oneDNN multiplies bfloat16.

    On others PyTorch does it one number at a time: a hundredth of its speed in float32 was measured with AVX2 alone.
    """
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: str = "cpu") -> torch.autocast:
    """bfloat16 products where they are quick."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or has_quick_bf16())
