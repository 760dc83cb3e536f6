"""Media of the history: small files copied by the hash of their content, once; others remembered by path and hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from dclocal.bundle import sha256_file
from dclocal.history_data import MediaFile

MAX_COPY_BYTES = 50 << 20


def keep_media(database: sqlite3.Connection, folder: Path | None, message: int, order: int, file: MediaFile) -> None:
    """Note that a message shows `file`, inside the caller's transaction; copy it to `folder` where it is small enough.

    A file that is gone, or a disk that is full, costs the copy alone.
    """
    source = file.source
    digest, copy = _hash(source) or file.hash or hashlib.sha256(file.preview).hexdigest(), ""
    if folder is not None and source is not None:
        with suppress(OSError):
            copy = _copy(source, folder, digest, file.name)
    database.execute(
        "INSERT INTO media (hash, kind, copy, preview) VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET "
        "copy = iif(excluded.copy = '', copy, excluded.copy), "
        "preview = iif(length(excluded.preview) = 0, preview, excluded.preview)",
        (digest, file.kind, copy, file.preview),
    )
    path = str(source.absolute()) if isinstance(source, Path) else ""
    database.execute("INSERT INTO shown VALUES (?, ?, ?, ?, ?)", (message, order, digest, file.name, path))


def forget_media(database: sqlite3.Connection, folder: Path | None) -> None:
    """Drop media that no message shows, and their copies, inside the caller's transaction."""
    gone = database.execute("DELETE FROM media WHERE hash NOT IN (SELECT hash FROM shown) RETURNING copy").fetchall()
    for (copy,) in gone:
        if copy and folder is not None:
            with suppress(OSError):
                (folder / copy).unlink()


def _hash(source: Path | bytes | None) -> str:
    """SHA-256 of the file in hex, "" where it cannot be read."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with suppress(OSError):
        return sha256_file(source) if source is not None else ""
    return ""


def _copy(source: Path | bytes, folder: Path, digest: str, name: str) -> str:
    """The name of the copy in `folder`, "" for a file that is too large; whole or not there."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MAX_COPY_BYTES:
        return ""
    suffix = Path(name).suffix or (source.suffix if isinstance(source, Path) else "")
    copy = digest + (suffix.lower() if re.fullmatch(r"\.\w{1,8}", suffix) else "")
    if (folder / copy).is_file():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{copy}.{os.getpid()}.part"
    try:
        if isinstance(source, bytes):
            part.write_bytes(source)
        else:
            shutil.copyfile(source, part)
        part.replace(folder / copy)
    finally:
        part.unlink(missing_ok=True)
    return copy
