"""Operators of ours in the place of ONNX Runtime's, for vision encoders: what they do is in `kernels/vision`.

ONNX Runtime takes an operator that a session registers before one of its own that has the same name.  They are compared
first: `vision_kernels_check.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.compiled import Compiled, package_files

if TYPE_CHECKING:
    from onnxruntime import SessionOptions


def register(options: SessionOptions) -> bool:
    """Have sessions with these options take them; whether they do."""
    library = KERNELS.ready()
    if library is None:
        return False
    try:
        options.register_custom_ops_library(str(library))
    except Exception:  # ONNX Runtime's errors share no base class of their own
        return False
    return True


def whose() -> str:
    """Whose operators a session would have, in words."""
    return "ours" if KERNELS.ready() else f"its own ({KERNELS.why_not()})"


def _onnxruntime_libraries() -> list[Path]:
    folders = package_files("onnxruntime", "capi")
    return [file for folder in folders for file in folder.glob("onnxruntime_pybind11_state*")]


def _difference(made: Path) -> str:
    from dclocal.vision_kernels_check import difference

    return difference(made)


KERNELS = Compiled("vision", _onnxruntime_libraries, _difference)
