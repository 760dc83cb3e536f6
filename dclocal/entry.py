"""Where the command `dclocal` starts: what is certain to be needed is begun, then the command line is read.

Importing what reads it takes as long as loading a language model, and one has no use for the other.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dclocal.background import Begun
from dclocal.places import DEFAULT, LLM_FILE, bundle_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OBJECTS = 100_000
"""Made before Python looks for garbage: modules are 60,000 objects and hardly any of it, and were looked through for
10 ms of a start."""
NEED_NONE = ("-h", "--help", "--checkpoint")


class Ahead:
    """The language model of `file`, whose weights are being loaded from now on."""

    def __init__(self, file: Path):
        self._file, self._was = file, _status(file)
        self._model: Begun[Any] = Begun(_load, file)

    def of(self, file: Path | None) -> Begun[Any] | None:
        """The model, if it is that of `file` as that is now; else it is given back, and there is none."""
        if file == self._file and _status(file) == self._was:
            return self._model
        _free(self._model)
        return None


def main() -> None:
    """Run the command and exit."""
    gc.set_threshold(OBJECTS)
    try:
        ahead = begin(sys.argv[1:])
        from dclocal.cli import main  # which takes its time
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    main(ahead=ahead)


def begin(arguments: Sequence[str]) -> Ahead | None:
    """Begin to load the language model that `dclocal chat` will ask; None where none is sure to be asked."""
    if arguments[:1] != ["chat"] or any(argument.partition("=")[0] in NEED_NONE for argument in arguments):
        return None
    file = bundle_folder(_named_bundle(arguments)) / LLM_FILE
    if not _status(file):
        return None
    with suppress(Exception):  # it is raised again where the model is asked for
        import dclocal.llama_model  # noqa: F401  (before the thread begins: two that import wait for one another)
    return Ahead(file)


def _named_bundle(arguments: Sequence[str]) -> str:
    """What stands behind the last --bundle."""
    name = DEFAULT
    for argument, following in zip(arguments, (*arguments[1:], "")):
        if argument == "--bundle" and following:
            name = following
        elif argument.startswith("--bundle="):
            name = argument.partition("=")[2]
    return name


def _status(file: Path) -> tuple[int, ...]:
    """Which file this is, and how it was last changed; empty where there is none."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # the latter: a NUL character
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _free(model: Begun[Any]) -> None:
    from dclocal.errors import BundleError

    try:
        model.result().close()
    except BundleError:  # it could not be loaded
        return


def _load(file: Path) -> Any:
    from dclocal.llama_model import load_model

    return load_model(file)
