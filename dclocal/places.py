"""Where things lie on this machine: the folder of everything kept, and a bundle's by its name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DEFAULT = "dc-tiny"
"""The embedded bundle, which is meant where none is named."""
LLM_FILE = "llm.gguf"
"""The language model in a bundle's folder."""


def home() -> Path:
    """The folder of everything kept: $DCLOCAL_HOME, else the user's cache folder."""
    if given := os.environ.get("DCLOCAL_HOME"):
        return Path(os.path.expanduser(given))  # which leaves ~name alone where there is no such user
    if sys.platform == "linux":  # as platformdirs has it, whose import takes as long as a command line's
        cache = os.environ.get("XDG_CACHE_HOME", "")
        return Path(cache if os.path.isabs(cache) else os.path.expanduser("~/.cache")) / "dclocal"
    from platformdirs import user_cache_path

    return user_cache_path("dclocal")


def bundles_folder() -> Path:
    """The folder that holds a folder per bundle."""
    return home() / "bundles"


def bundle_folder(name: str) -> Path:
    """Where the bundle of that name lies, if it is one, or the folder of that path."""
    return bundles_folder() / name if is_plain(name) else Path(os.path.expanduser(name))


def is_plain(name: str) -> bool:
    """Whether `name` can be a folder of the store's: no path, not hidden."""
    return bool(name) and not name.startswith(".") and Path(name).name == name and "\\" not in name
