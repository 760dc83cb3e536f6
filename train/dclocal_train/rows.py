"""Rows in LLaVA's format by number, read from their file one at a time: a file of any length stays on the disk.

`open_rows` takes a JSON list, JSON lines, or WebDataset shards that carry a .json beside each picture.
"""

from __future__ import annotations

import operator
import posixpath
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from dclocal.progress import Progress, silent
from dclocal_train.byte_ranges import RangeReader
from dclocal_train.pictures import is_picture
from dclocal_train.row_scan import MAX_ROW_BYTES, SPANS, RowError, parse_row, scan_lines, scan_list
from dclocal_train.saved_index import Arrays, saved_index
from dclocal_train.shards import ENDING, Members, open_members, shards_at

ROW_ENDING = ".json"

Scan = Callable[[BinaryIO, Path, int, Progress], Arrays]

SCANS: dict[str, Scan] = {".json": scan_list, ".jsonl": scan_lines}
"""How rows are found, by the file's exact ending."""


class Rows(Sequence[dict[str, Any]], ABC):
    """Rows by number; picklable, and safe in forked and spawned workers.  Reading raises RowError."""

    path: Path

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def value(self, index: int) -> object:
        """The row at `index` (from 0), whatever JSON value it is."""

    @abstractmethod
    def line(self, index: int) -> int:
        """Where the row starts: its line in the file, from 1; in shards, its number, from 1."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The row's place in words, for messages."""

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = operator.index(index)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self.value(number)
        if not isinstance(row, dict):
            raise RowError(f"{self.where(number)} holds {type(row).__name__}", "give a JSON object with conversations")
        return row


def open_rows(path: Path, progress: Progress = silent) -> Rows:
    """The rows at `path`: .json (one list), .jsonl, .tar, or a folder of .tar.

    The first time, the file is read through and its index is kept.  Raises RowError, and ShardError for tar files.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise RowError(f"{path} does not exist", "check the path")
    shards = shards_at(path)
    if shards:
        return ShardRows(path, open_members(shards, progress))
    if path.is_dir() or path.suffix not in SCANS:
        kind = (
            "a folder without .tar files" if path.is_dir() else f"of an unknown format ({path.suffix or 'no ending'})"
        )
        raise RowError(f"{path} is {kind}", f"known: {', '.join((*SCANS, ENDING))}, or a folder of {ENDING}")
    return FileRows(path, progress)


class FileRows(Rows):
    """Rows of a JSON list or of JSON lines."""

    def __init__(self, path: Path, progress: Progress = silent):
        self.path = path
        try:
            arrays = saved_index(path, SPANS, lambda: _scan(path, progress))
        except OSError as error:
            raise RowError(f"{path} cannot be read ({error.strerror})", "check the path and its permissions") from error
        self._offsets, self._lengths, self._lines = (arrays[name] for name in SPANS)
        if not len(self._offsets):
            raise RowError(f"{path} is empty: it holds no rows", "give rows in LLaVA's format")
        self._reader = RangeReader()

    def __len__(self) -> int:
        return len(self._offsets)

    def line(self, index: int) -> int:
        return int(self._lines[index])

    def where(self, index: int) -> str:
        return f"{self.path}, line {self.line(index)}"

    def value(self, index: int) -> object:
        offset, length = int(self._offsets[index]), int(self._lengths[index])
        return _read(self._reader, self.path, offset, length, self.where(index))


class ShardRows(Rows):
    """The .json members of shards; "image" is the picture of the same key in the same shard where a row has none.

    A key is, as WebDataset has it, the member's name up to the first dot of its last part.
    """

    def __init__(self, path: Path, members: Members):
        self.path, self._members, self._reader = path, members, RangeReader()
        numbers, pictures = _paired(members)
        self._numbers, self._pictures = np.array(numbers, np.int64), np.array(pictures, np.int64)
        if not numbers:
            raise RowError(f"{path} carries no rows", f"put a {ROW_ENDING} beside each picture, or name the rows' file")

    def __len__(self) -> int:
        return len(self._numbers)

    def line(self, index: int) -> int:
        return index % len(self) + 1

    def where(self, index: int) -> str:
        number = int(self._numbers[index])
        return f"{self._members.range(number)[0]}, {self._members.name(number)}"

    def value(self, index: int) -> object:
        row = _read(self._reader, *self._members.range(int(self._numbers[index])), self.where(index))
        picture = int(self._pictures[index])
        if isinstance(row, dict) and "image" not in row and picture >= 0:
            row["image"] = self._members.name(picture)
        return row


def _scan(path: Path, progress: Progress) -> Arrays:
    with path.open("rb") as file:
        return SCANS[path.suffix](file, path, path.stat().st_size, progress)


def _read(reader: RangeReader, path: Path, offset: int, length: int, where: str) -> object:
    if length > MAX_ROW_BYTES:
        raise RowError(f"{where} has {length:,} bytes", f"use at most {MAX_ROW_BYTES:,}")
    try:
        data = reader.read(path, offset, length)
    except (OSError, EOFError) as error:
        raise RowError(f"{where} cannot be read ({error})", "the file was changed or moved; start again") from error
    return parse_row(data.removeprefix(b"\xef\xbb\xbf"), where)


def _paired(members: Members) -> tuple[list[int], list[int]]:
    """Numbers of the .json members, and of each one's picture (its first; −1 if there is none)."""
    numbers: list[int] = []
    pictures: list[int] = []
    of_key: dict[str, int] = {}
    shard = -1
    for index in range(len(members) + 1):
        if index == len(members) or members.shard[index] != shard:  # a shard is whole: look up what it left open
            for place in range(len(pictures), len(numbers)):
                pictures.append(of_key.get(_key(members.name(numbers[place])), -1))
            of_key = {}
        if index < len(members):
            shard, name = members.shard[index], members.name(index)
            if name.endswith(ROW_ENDING):
                numbers.append(index)
            elif is_picture(name):
                of_key.setdefault(_key(name), index)
    return numbers, pictures


def _key(name: str) -> str:
    folder, last = posixpath.split(name)
    return posixpath.join(folder, last.split(".")[0])
