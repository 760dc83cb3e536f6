"""Ranges of bytes out of large files: one handle a file, process and thread, so that workers never share a position."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

MAX_OPEN = 32
"""More files than this are not held open at once; the one opened first goes."""


class RangeReader:
    """Reads ranges; picklable, and safe in forked and spawned workers and in threads: handles are never handed on."""

    def __init__(self) -> None:
        self._local = threading.local()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; raises OSError, and EOFError if the file ends before."""
        file = self._handle(path)
        file.seek(offset)
        data = file.read(length)
        if len(data) < length:
            raise EOFError(f"{path} ends before byte {offset + length:,}")
        return data

    def _handle(self, path: Path) -> BinaryIO:
        if getattr(self._local, "process", None) != os.getpid():
            self._local.process, self._local.files = os.getpid(), {}
        files: dict[Path, BinaryIO] = self._local.files
        if path not in files:
            if len(files) >= MAX_OPEN:
                files.pop(next(iter(files))).close()
            files[path] = path.open("rb")
        return files[path]

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._local = threading.local()


class Window(io.RawIOBase):
    """A range of a file as a file of its own, for readers that need only a part of it."""

    def __init__(self, path: Path, offset: int, length: int):
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._offset, self._length, self._position = offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        wanted = min(len(view), max(0, self._length - self._position))
        self._file.seek(self._offset + self._position)
        count = self._file.readinto(view[:wanted]) or 0
        self._position += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
