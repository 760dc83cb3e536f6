"""Functions of ours by which pictures are resized: what they do is in `kernels/pictures`, how they are called in
`resizing.py`.

They are compared with Pillow's before they are used: `resizing.difference`.
"""

from __future__ import annotations

from ctypes import CDLL
from pathlib import Path

from dclocal.compiled import Compiled, package_files


def library() -> CDLL | None:
    """The library that has them, where it is built."""
    return KERNELS.load()


def whose() -> str:
    """By whose functions pictures are resized, in words."""
    return "ours" if library() is not None else f"Pillow's ({KERNELS.why_not()})"


def _pillow_libraries() -> list[Path]:
    return [file for folder in package_files("PIL", "") for file in folder.glob("_imaging.*")]


def _difference(made: Path) -> str:
    from dclocal.resizing import difference  # with numpy and Pillow, which a start about a known picture does without

    return difference(made)


KERNELS = Compiled("pictures", _pillow_libraries, _difference)
