"""Whether bfloat16 is worth while on this machine."""

from __future__ import annotations

import torch


def has_quick_bf16(device: str | None = None) -> bool:
    """Whether `device` multiplies bfloat16 itself; by default that which trains, the GPU where there is one.

    On other processors PyTorch does it one number at a time: a hundredth of its speed in float32 was measured with AVX2
    alone.
    """
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: str = "cpu") -> torch.autocast:
    """bfloat16 products where they are quick."""
    return torch.autocast(device, torch.bfloat16, enabled=has_quick_bf16(device))
