"""Pictures by the name that rows give them: from a folder, or from WebDataset-style tar shards.

Names come from rows, which nobody has vetted: one that leaves the folder is refused.  Links inside the folder are the
user's own, and are followed.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import warnings
from abc import ABC, abstractmethod
from pathlib import Path, PureWindowsPath
from typing import IO, cast

import numpy as np
from PIL import Image, TiffImagePlugin

from dclocal.errors import ImageError
from dclocal.files import MAX_FILE_BYTES
from dclocal.images import FORMATS, MAX_PIXELS, decode, load_image
from dclocal.progress import Progress, silent
from dclocal_train.byte_ranges import RangeReader, Window
from dclocal_train.shards import Members, ShardError, open_members, shards_at

ENDINGS = frozenset({"jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "avif", "mpo"})
"""Members of shards with these endings, in any case, are pictures."""

ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class Pictures(ABC):
    """Pictures by name; picklable, and safe in forked and spawned workers."""

    path: Path

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a picture of that name; False for a name that is refused."""

    @abstractmethod
    def load(self, name: str) -> Image.Image:
        """The picture as RGB and upright, within the bounds of `dclocal.images`; raises ImageError."""

    @abstractmethod
    def size(self, name: str) -> tuple[int, int]:
        """(width, height) in pixels after EXIF rotation, from the header alone; raises ImageError."""


def open_pictures(path: Path, progress: Progress = silent) -> Pictures:
    """The pictures at `path`: a .tar file, a folder that holds .tar files, or else a folder of pictures.

    Raises ImageError; ShardError for a damaged tar file, or for a name that two members share.
    """
    path = path.expanduser().absolute()
    if not path.exists():
        raise ImageError(f"{path} does not exist", "name the folder of the pictures, or a .tar file")
    shards = shards_at(path)
    if shards:
        return ShardPictures(path, open_members(shards, progress))
    if not path.is_dir():
        raise ImageError(f"{path} is neither a folder nor a .tar file", "name the folder of the pictures")
    return FolderPictures(path)


def is_picture(name: str) -> bool:
    """Whether a member of that name is taken for a picture."""
    return name.rpartition(".")[2].lower() in ENDINGS


def plain_name(name: object) -> str:
    """`name` without detours ("./", "a/../"), relative and within its folder; raises ImageError for any other."""
    if not isinstance(name, str) or not name:
        raise ImageError(f"{name!r:.80} names no picture", "give one relative file name")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ImageError(f"{name!r:.200} is not a file name", "give one relative file name") from error
    plain = posixpath.normpath(name)
    leaves = plain in (".", "..") or plain.startswith("../")
    foreign = PureWindowsPath(name)  # knows /etc, and what only some machines take for a way out: C:\x, ..\x
    if leaves or "\0" in name or foreign.drive or foreign.root or ("\\" in name and ".." in foreign.parts):
        raise ImageError(f"{name!r:.200} is not inside the folder of the pictures", "give a name relative to it")
    return plain


class FolderPictures(Pictures):
    """Pictures in a folder and the folders in it."""

    def __init__(self, path: Path):
        self.path = path.absolute()  # a relative one could start with ~, which the name would then complete

    def exists(self, name: str) -> bool:
        try:
            return (self.path / plain_name(name)).is_file()
        except (ImageError, OSError):
            return False

    def load(self, name: str) -> Image.Image:
        return load_image(self.path / plain_name(name))

    def size(self, name: str) -> tuple[int, int]:
        path = self.path / plain_name(name)
        try:
            if not path.is_file():
                raise ImageError(f"{path} does not exist or is no file", "check the path")
            with path.open("rb") as file:
                return _header_size(file, str(path))
        except OSError as error:
            raise ImageError(f"{path} cannot be read ({error.strerror})", "check its permissions") from error


class ShardPictures(Pictures):
    """Members of shards with a picture's ending.  A name may stand only once in all shards."""

    def __init__(self, path: Path, members: Members):
        self.path, self._members, self._reader = path, members, RangeReader()
        numbers = np.array([index for index in range(len(members)) if is_picture(members.name(index))], np.int64)
        hashes = np.array([_hash(members.name(int(index))) for index in numbers], np.uint64)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]
        self._refuse_doubles()

    def exists(self, name: str) -> bool:
        try:
            return self._find(plain_name(name)) is not None
        except ImageError:
            return False

    def load(self, name: str) -> Image.Image:
        shard, offset, length = self._range(name)
        try:
            data = self._reader.read(shard, offset, length)
        except (OSError, EOFError) as error:
            raise ImageError(f"{name} in {shard} cannot be read ({error})", "the shard was changed or moved") from error
        return decode(data, f"{name} in {shard}")

    def size(self, name: str) -> tuple[int, int]:
        shard, offset, length = self._range(name)
        try:
            with io.BufferedReader(Window(shard, offset, length)) as file:
                return _header_size(cast(IO[bytes], file), f"{name} in {shard}")
        except OSError as error:
            raise ImageError(f"{name} in {shard} cannot be read ({error})", "check its permissions") from error

    def _find(self, plain: str) -> int | None:
        """The member's number; names are found by 64-bit hash, so that a million of them take little memory."""
        place = int(np.searchsorted(self._hashes, np.uint64(_hash(plain))))
        if place < len(self._hashes):
            number = int(self._numbers[place])
            if self._members.name(number) == plain:
                return number
        return None

    def _range(self, name: str) -> tuple[Path, int, int]:
        number = self._find(plain_name(name))
        if number is None:
            remedy = "check the name; if the pictures lie unpacked, move the .tar files elsewhere"
            raise ImageError(f"{name} does not exist in the shards of {self.path}", remedy)
        shard, offset, length = self._members.range(number)
        if length > MAX_FILE_BYTES:
            raise ImageError(f"{name} in {shard} has {length:,} bytes", f"use at most {MAX_FILE_BYTES:,}")
        return shard, offset, length

    def _refuse_doubles(self) -> None:
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        if len(same):
            first, second = (int(self._numbers[same[0] + step]) for step in (0, 1))
            shards = " and ".join(str(self._members.range(number)[0]) for number in (first, second))
            name = self._members.name(second)
            raise ShardError(f"{name} stands twice, in {shards}", "give every picture a name of its own")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _header_size(file: IO[bytes], name: str) -> tuple[int, int]:
    """(width, height), upright.  A PNG's EXIF counts if it stands before the pixels, where writers put it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, looser bound on pixels; ours follows
            Image.init()
            image = Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])
            width, height = image.size
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size may be upright already
                width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
            turned = Image.Image.getexif(image).get(ORIENTATION) in TURNED  # PNG's own getexif decodes the pixels
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError) as error:
        raise ImageError(f"{name} is not a picture that can be read ({error})", "give the whole file") from error
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ImageError(f"{name} claims {width:,}×{height:,} pixels", f"use at most {MAX_PIXELS:,} in all")
    return (height, width) if turned else (width, height)
