"""llama.cpp's products, attention and norms, by functions of ours; what they do: `kernels/llama`.

A library that is loaded before llama.cpp's, for all to see, has the dynamic linker take its functions where llama.cpp's
have the same names.  They are compared first: `llama_kernels_check.py`.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from pathlib import Path

from dclocal.compiled import Compiled, package_files

LLAMA = "llama_cpp.llama_cpp"
"""The module that loads llama.cpp's library."""


def load() -> bool:
    """Have llama.cpp's library take these functions; whether it does, as it cannot where it was loaded before."""
    return _loaded() is not None


def attention_declined() -> bool:
    """Whether there was a model in this process whose attention ours is not made for, so that it is llama.cpp's own."""
    library = _loaded()
    return library is not None and bool(ctypes.c_int.in_dll(library, "attention_declined").value)


@lru_cache(1)
def _loaded() -> ctypes.CDLL | None:
    return None if LLAMA in sys.modules else KERNELS.load(ctypes.RTLD_GLOBAL)


def whose() -> str:
    """Whose kernels llama.cpp has, in words."""
    return "ours" if load() else f"its own ({KERNELS.why_not() or 'it was loaded before ours'})"


def ggml_libraries() -> list[Path]:
    """The libraries that have these functions, each after what it needs."""
    return package_files("llama_cpp", "lib/libggml-base.so", "lib/libggml-cpu.so")


def _difference(made: Path) -> str:
    from dclocal.llama_kernels_check import difference

    return difference(made, *ggml_libraries())


KERNELS = Compiled("llama", ggml_libraries, _difference)
