"""WebDataset-style tar shards: where each member's bytes lie, found once and kept.

Only regular members with names are taken up.  Shards are uncompressed, since members are read in any order.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dclocal.errors import UserError
from dclocal.progress import Progress, silent
from dclocal_train.saved_index import Arrays, saved_index

ENDING = ".tar"
INDEX = ("offsets", "sizes", "names", "ends")


class ShardError(UserError):
    """A tar file that is damaged, compressed, or no tar file."""


@dataclass(frozen=True)
class Members:
    """The members of some shards in order: arrays `[members]` of shard number, first byte and size, and the names
    as UTF-8 one after the other, name i being `names[ends[i - 1]:ends[i]]`."""

    shards: tuple[Path, ...]
    shard: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    names: bytes
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        """The member's name, without a leading "./"."""
        start = int(self.ends[index - 1]) if index else 0
        return self.names[start : int(self.ends[index])].decode("utf-8", "surrogateescape")

    def range(self, index: int) -> tuple[Path, int, int]:
        """(shard, first byte, number of bytes)."""
        return self.shards[int(self.shard[index])], int(self.offsets[index]), int(self.sizes[index])


def shards_at(path: Path) -> tuple[Path, ...]:
    """The shards that `path` means: itself if it ends in .tar, those in it, by name, if it is a folder; else none."""
    if path.is_dir():
        with os.scandir(path) as entries:
            return tuple(sorted(Path(entry.path) for entry in entries if _is_shard(entry.name)))
    return (path,) if _is_shard(path.name) else ()


def open_members(shards: Sequence[Path], progress: Progress = silent) -> Members:
    """The members of all shards; raises ShardError."""
    parts: list[Arrays] = []
    for done, shard in enumerate(shards):
        progress("indexing shards", done, len(shards))
        try:
            parts.append(saved_index(shard, INDEX, lambda shard=shard: _scan(shard)))  # type: ignore[misc]
        except (OSError, tarfile.TarError, ValueError) as error:
            advice = "give whole, uncompressed .tar files"
            raise ShardError(f"{shard} cannot be read as a tar file ({error})", advice) from error
    progress("indexing shards", len(shards), len(shards))
    bases = np.cumsum([0] + [len(part["names"]) for part in parts])
    counts = [len(part["offsets"]) for part in parts]
    return Members(
        tuple(shards),
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([part["offsets"] for part in parts]),
        np.concatenate([part["sizes"] for part in parts]),
        b"".join(part["names"].tobytes() for part in parts),
        np.concatenate([part["ends"] + base for part, base in zip(parts, bases)]),
    )


def _is_shard(name: str) -> bool:
    return name.endswith(ENDING) and not name.startswith(".")


def _scan(shard: Path) -> Arrays:
    offsets, sizes, names = [], [], []
    with tarfile.open(shard, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every one
            if not member.isreg() or member.issparse():
                continue
            offsets.append(member.offset_data)
            sizes.append(member.size)
            names.append(posixpath.normpath(member.name).encode("utf-8", "surrogateescape"))
        end = tar.offset
    with shard.open("rb") as file:  # tarfile takes a damaged header for the end
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"the header at byte {end:,} is damaged")
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    text = np.frombuffer(b"".join(names), np.uint8)
    return {"offsets": np.array(offsets, np.int64), "sizes": np.array(sizes, np.int64), "names": text, "ends": ends}
