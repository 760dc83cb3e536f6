"""Where recipes lie: by path, or by bare name among those that come with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

from dclocal.errors import UserError

ENDING = ".yaml"
PACKAGE = Path(__file__).parent
FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "recipes")
"""In an installed wheel, and in a checkout of the sources."""


def known_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob(f"*{ENDING}"))}


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by bare name ("dc-tiny"); raises UserError listing the known ones."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = known_recipes()
    if name.removesuffix(ENDING) in known:
        return known[name.removesuffix(ENDING)]
    near = difflib.get_close_matches(path.stem, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"there is no recipe {name}", f"{meant}name a {ENDING} file, or one of: {', '.join(known)}")
