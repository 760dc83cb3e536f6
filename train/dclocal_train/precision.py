"""Whether bfloat16 is worth while on this machine."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

SIDES = (1024, 576, 1536)
"""Of the products that are timed, those of the embedded model."""
RUNS = 4
MARGIN = 1.2
"""By how much bfloat16 has to be quicker, so that processes that are timed apart do not decide apart."""


def has_quick_bf16(device: str | None = None) -> bool:
    """Whether `device` multiplies bfloat16 faster than float32; by default what trains, the GPU where there is one.

    Processors that lack it take a hundred times as long, and some that have it twice as long (AVX512-BF16 without AMX,
    on one of Intel's: 190 and 350 GFLOP/s), so both are timed, once.
    """
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _bf16_is_quicker()


def autocast(device: str = "cpu") -> torch.autocast:
    """bfloat16 products where they are quick."""
    return torch.autocast(device, torch.bfloat16, enabled=has_quick_bf16(device))


@lru_cache(1)
def _bf16_is_quicker() -> bool:
    return MARGIN * _seconds(torch.bfloat16) < _seconds(torch.float32)


def _seconds(dtype: torch.dtype) -> float:
    """The quickest of RUNS products."""
    rows, inner, columns = SIDES
    one, other = torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        one @ other
        taken.append(time.perf_counter() - started)
    return min(taken)
