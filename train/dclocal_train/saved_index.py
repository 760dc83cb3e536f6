"""Indexes of large files, kept under dclocal's home: built once, read back as long as the file is the same.

An index is a few one-dimensional numpy arrays.  It is written whole or not at all; a damaged one is built again,
and a home that cannot be written only means that nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from dclocal.places import home

Arrays = dict[str, np.ndarray]
"""Array by name; int64, or uint8 for text."""

LAYOUT = 1
"""Part of every index's name: raised when what is kept changes."""


def folder() -> Path:
    """Where indexes are kept."""
    return home() / "row-index"


def saved_index(path: Path, names: tuple[str, ...], build: Callable[[], Arrays]) -> Arrays:
    """The arrays `names` that `build()` gives for the file at `path`, from the last time if it has not changed.

    A file is the same if its resolved path, size and modification time are.  Raises what `build` raises.
    """
    status = path.stat()
    whose = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    place = folder() / f"{whose}-{LAYOUT}-{status.st_size}-{status.st_mtime_ns}.npz"
    found = _read(place, names)
    if found is not None:
        return found
    built = build()
    _write(place, built, outdated=f"{whose}-*.npz")
    return built


def _read(place: Path, names: tuple[str, ...]) -> Arrays | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    sound = all(array.ndim == 1 and array.dtype in (np.int64, np.uint8) for array in arrays.values())
    return arrays if sound else None


def _write(place: Path, arrays: Arrays, outdated: str) -> None:
    """Keep `arrays`, and drop what was kept of the same file when it was another."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=".npz", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            old = [other for other in place.parent.glob(outdated) if other != place]
            os.replace(name, place)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        for other in old:
            other.unlink(missing_ok=True)
