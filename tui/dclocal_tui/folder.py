"""A folder as the file browser lists it: its folders, its pictures and its videos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dclocal.errors import UserError
from dclocal.files import printable
from dclocal_tui.paths import MAX_ENTRIES, kind_of


class FolderError(UserError):
    """A folder that cannot be listed."""


@dataclass(frozen=True)
class Entry:
    """`kind` is folder, image or video; a folder's size is 0."""

    path: Path
    kind: str
    size_bytes: int = 0

    @property
    def name(self) -> str:
        """The path's last part, printable."""
        return printable(self.path.name)


@dataclass(frozen=True)
class Listing:
    """A folder's entries, folders first, each kind by name; `whole` is false where MAX_ENTRIES were not all of it."""

    folder: Path
    entries: tuple[Entry, ...]
    whole: bool = True


def list_folder(folder: Path, hidden: bool = False) -> Listing:
    """What `folder` holds, with `hidden` the names that begin with a dot, too.  Raises FolderError."""
    found: list[Entry] = []
    whole = True
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_ENTRIES:
                    whole = False
                    break
                if (hidden or not entry.name.startswith(".")) and (known := _entry(entry)) is not None:
                    found.append(known)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FolderError(f"{printable(str(folder))} cannot be listed ({reason})", "choose another folder") from error
    return Listing(folder, tuple(sorted(found, key=_order)), whole)


def matching(entries: Sequence[Entry], typed: str) -> list[Entry]:
    """Those whose names have every typed word in them, in any case."""
    words = typed.casefold().split()
    return [entry for entry in entries if all(word in entry.name.casefold() for word in words)]


def _entry(entry: os.DirEntry[str]) -> Entry | None:
    try:
        if entry.is_dir():
            return Entry(Path(entry.path), "folder")
        kind = kind_of(entry.name)
        return Entry(Path(entry.path), kind, entry.stat().st_size) if kind and entry.is_file() else None
    except OSError:  # a link to nothing, or gone meanwhile
        return None


def _order(entry: Entry) -> tuple[bool, str, str]:
    return entry.kind != "folder", entry.name.casefold(), entry.name
