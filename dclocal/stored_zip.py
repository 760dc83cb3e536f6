"""A plain zip: members stored uncompressed, one directly after the other, nothing before, between or behind them.

Written to the same bytes whenever the members are the same; read with distrust, so that what is listed is what is
there, once.  What the members must contain is not known here.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from dclocal.errors import BundleError
from dclocal.manifest import FILE_NAME

MAX_MEMBERS = 4096
MAX_DIRECTORY_BYTES = 4 << 20
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
MODE = (stat.S_IFREG | 0o644) << 16
UNIX = 3
END, END64, LOCATOR, LOCAL = (struct.Struct(text) for text in ("<4s4H2LH", "<4sQ2H2L4Q", "<4sLQL", "<4s5H3L2H"))
ZIP64_EXTRA = 1
REMEDY = "get the file again; do not use this one"


def add_member(archive: zipfile.ZipFile, name: str, size: int, blocks: Iterable[bytes]) -> None:
    """Store one member of `size` bytes, with the same date and mode as every other."""
    info = zipfile.ZipInfo(name, FIRST_DAY)
    info.create_system, info.external_attr, info.file_size = UNIX, MODE, size
    with archive.open(info, "w") as stream:
        for block in blocks:
            stream.write(block)


def list_stored(stream: BinaryIO, where: str) -> dict[str, zipfile.ZipInfo]:
    """The members of such a zip by name; `read_blocks` reads them from the same stream.

    Raises BundleError, naming `where`, for whatever is not as this module's first line says.
    """
    try:
        directory = _directory_offset(stream, where)
        with zipfile.ZipFile(stream) as archive:
            members = _distinct(archive.infolist(), where)
            end = 0
            for info in sorted(members.values(), key=lambda one: one.header_offset):
                if info.header_offset != end:
                    raise BundleError(f"{where}: {info.filename} lies over or apart from the member before it", REMEDY)
                end = _data_offset(stream, info, where) + info.file_size
            if end != directory:
                raise BundleError(f"{where}: {directory - end} bytes that belong to no member", REMEDY)
            return members
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, EOFError) as error:
        raise BundleError(f"{where} is not a zip that can be read ({error})", REMEDY) from error


def read_blocks(stream: BinaryIO, info: zipfile.ZipInfo, where: str) -> Iterator[bytes]:
    """The member's bytes, in pieces of 1 MiB; raises BundleError where the file ends too early."""
    stream.seek(_data_offset(stream, info, where))
    left = info.file_size
    while left:
        block = stream.read(min(left, 1 << 20))
        if not block:
            raise BundleError(f"{where} ends within {info.filename}", REMEDY)
        left -= len(block)
        yield block


def _directory_offset(stream: BinaryIO, where: str) -> int:
    """Where the central directory starts, once the records at the file's end agree about it and it is small.

    Checked before `zipfile` reads it into memory.
    """
    size = stream.seek(0, os.SEEK_END)
    if size < END.size:
        raise BundleError(f"{where} is not a zip: {size} bytes", REMEDY)
    start = size - END.size
    mark, disk, first_disk, _, *narrow, comment = END.unpack(_read_at(stream, start, END.size))
    if mark != b"PK\5\6" or disk or first_disk or comment:
        raise BundleError(f"{where} is not a zip of ours: no end record in its last {END.size} bytes", REMEDY)
    wide = narrow
    if start >= END64.size + LOCATOR.size:
        at = start - LOCATOR.size
        locator, _, record, _ = LOCATOR.unpack(_read_at(stream, at, LOCATOR.size))
        if locator == b"PK\6\7":
            start = at - END64.size
            mark, length, _, _, disk, first_disk, _, *wide = END64.unpack(_read_at(stream, start, END64.size))
            if mark != b"PK\6\6" or length != END64.size - 12 or record != start or disk or first_disk:
                raise BundleError(f"{where}: its zip64 record is crooked", REMEDY)
    for small, large, most in zip(narrow, wide, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)):
        if small != large and small != most:
            raise BundleError(f"{where}: its two end records differ ({small} and {large})", REMEDY)
    count, directory_bytes, offset = wide
    if count > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        raise BundleError(f"{where} lists {count} members in {directory_bytes} bytes: too many", REMEDY)
    if offset + directory_bytes != start:
        raise BundleError(f"{where}: its list of members is not where it says", REMEDY)
    return int(offset)


def _distinct(infos: Iterable[zipfile.ZipInfo], where: str) -> dict[str, zipfile.ZipInfo]:
    """The members by name, each a plain, stored file with a name of its own."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name, mode = info.orig_filename, info.external_attr >> 16
        if not FILE_NAME.fullmatch(name):
            raise BundleError(f"{where}: the member {name!r:.100} leaves the bundle or is not portable", REMEDY)
        if name.casefold() in members:
            raise BundleError(f"{where} holds {name} twice", REMEDY)
        if info.flag_bits & 1:
            raise BundleError(f"{where}: {name} is encrypted", REMEDY)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise BundleError(f"{where}: {name} is compressed; a .dcb stores its members as they are", REMEDY)
        if info.flag_bits & ~0x800:
            raise BundleError(f"{where}: {name} has the flags {info.flag_bits:#x}, expected none", REMEDY)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BundleError(f"{where}: {name} is a link or another thing that is no plain file", REMEDY)
        members[name.casefold()] = info
    return {info.filename: info for info in members.values()}


def _data_offset(stream: BinaryIO, info: zipfile.ZipInfo, where: str) -> int:
    """Where the member's bytes start, once its own header says the same as the central directory."""
    header = _read_at(stream, info.header_offset, LOCAL.size)
    mark, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = LOCAL.unpack(header)
    rest = stream.read(name_length + extra_length)
    if 0xFFFFFFFF in (packed, size):
        packed, size = _zip64_sizes(rest[name_length:])
    found = (mark, flags, method, checksum, packed, size, rest[:name_length])
    name = info.filename.encode("ascii")
    expected = (b"PK\3\4", info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size, name)
    if found != expected:
        raise BundleError(f"{where}: {info.filename} is described in two ways", REMEDY)
    return info.header_offset + LOCAL.size + name_length + extra_length


def _zip64_sizes(extra: bytes) -> tuple[int, int]:
    """(packed, unpacked) out of a local header's extra fields; (-1, -1) where they hold none."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == ZIP64_EXTRA and length >= 16 and len(extra) >= 4 + 16:
            size, packed = struct.unpack_from("<2Q", extra, 4)
            return packed, size
        extra = extra[4 + length :]
    return -1, -1


def _read_at(stream: BinaryIO, offset: int, count: int) -> bytes:
    stream.seek(offset)
    return stream.read(count)
