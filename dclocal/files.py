"""The bytes of a picture's file, bounded before they are read, and names as errors may print them.

Apart from `images`, so that a file that is known by its bytes needs no reader of pictures.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dclocal.errors import ImageError

MAX_FILE_BYTES = 256 << 20


def read_source(source: str | Path) -> tuple[bytes, str]:
    """The bytes of a file, or of what an http(s) URL gives, and what errors call it.  Raises ImageError."""
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        from dclocal.fetch import fetch_url

        return fetch_url(source), source
    path = os.path.expanduser(source)  # which leaves ~name alone where there is no such user
    return read_file(path), path


def read_file(path: str) -> bytes:
    """The bytes of a regular file, MAX_FILE_BYTES and one at most; what stands there is checked again once it is open.

    Raises ImageError.
    """
    name = printable(path)
    try:
        _check_file(os.stat(path), name)
        with open(path, "rb", opener=_open_without_waiting) as stream:
            _check_file(os.fstat(stream.fileno()), name)
            return stream.read(MAX_FILE_BYTES + 1)  # it may still grow; who decodes it counts
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist", "check the path") from error
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({error.strerror})", "check the path and its permissions") from error
    except ValueError as error:  # a NUL character, or one that the file system cannot encode
        raise ImageError(f"{name} cannot be a file's name ({printable(str(error))})", "check the path") from error


def printable(text: str) -> str:
    """`text` on one line: line breaks, control characters and undecodable bytes as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _open_without_waiting(path: str, flags: int) -> int:
    """A pipe put there meanwhile must not hold us up."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_file(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name} is a folder", "name a picture in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name} is not a regular file", "name a picture, or pipe it in as -")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(f"{name} has {status.st_size:,} bytes", f"use at most {MAX_FILE_BYTES:,}")
