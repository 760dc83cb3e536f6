"""Bundles as one file from strangers: what is not as its manifest says must not be there at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from dclocal.bundle import MANIFEST
from dclocal.errors import BundleError
from dclocal.pack import open_packed, unpack
from tests.packed_bundle import CONTENTS, members, nothing_there, packed, rewrite, small

__all__ = ["packed", "small"]


def refused(file: Path, expected: str) -> None:
    for action in (unpack, open_packed):
        with pytest.raises(BundleError, match=expected) as caught:
            action(file)
        assert str(caught.value).isprintable()
    assert nothing_there()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/etc/passwd", "leaves the bundle"),
        ("../evil", "leaves the bundle"),
        ("..", "leaves the bundle"),
        ("a\\b", "leaves the bundle"),
        ("folder/", "leaves the bundle"),
        ("a/b", "leaves the bundle"),
        ("C:evil", "leaves the bundle"),
        ("a\x1b[31m", "leaves the bundle"),
        ("ünï", "leaves the bundle"),
        ("stranger.bin", "not in the manifest"),
        ("llm.gguf", "twice"),
        ("LLM.gguf", "twice"),
        ("Bundle.json", "twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_strange_members(packed: Path, name: str, expected: str) -> None:
    refused(rewrite(packed, [*members(packed).items(), (name, b"llm" * 1000)]), expected)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"compress_type": zipfile.ZIP_DEFLATED}, "is compressed"),
        ({"compress_type": zipfile.ZIP_LZMA}, "is compressed"),
        ({"external_attr": (stat.S_IFLNK | 0o777) << 16}, "is a link"),
        ({"external_attr": (stat.S_IFIFO | 0o777) << 16}, "is a link"),
        ({"external_attr": (stat.S_IFDIR | 0o777) << 16}, "is a link"),
    ],
)
def test_members_that_are_no_plain_files(packed: Path, attributes: dict[str, object], expected: str) -> None:
    refused(rewrite(packed, list(members(packed).items()), **attributes), expected)


def test_what_is_not_as_the_manifest_says(packed: Path) -> None:
    contents = members(packed)
    for change, expected in (
        ({"llm.gguf": b"llM" * 1000}, "llm.gguf is not what the manifest says"),
        ({"llm.gguf": b"llm" * 1001}, "llm.gguf has 3003 bytes, the manifest says 3000"),
        ({"llm.gguf": b"llm" * 999}, "llm.gguf has 2997 bytes"),
        ({MANIFEST: contents[MANIFEST] + b" " * (1 << 20)}, "larger than 1048576 bytes"),
        ({MANIFEST: b"[]"}, "is not an object"),
        ({MANIFEST: contents[MANIFEST].replace(b'"format_version": 1', b'"format_version": 9')}, "upgrade"),
    ):
        refused(rewrite(packed, list({**contents, **change}.items())), expected)
    for name, expected in ((MANIFEST, "holds no bundle.json"), ("llm.gguf", "lacks llm.gguf")):
        refused(rewrite(packed, [item for item in contents.items() if item[0] != name]), expected)
    data = json.loads(contents[MANIFEST])
    del data["files"]["llm.gguf"]
    without = {**contents, MANIFEST: json.dumps(data).encode()}
    del without["llm.gguf"]
    refused(rewrite(packed, list(without.items())), "lists no llm.gguf")


def patched(data: bytes, name: str, kind: bytes, offset: int, new: bytes) -> bytes:
    """`data` with bytes of one member's header replaced; `kind` is the mark of local or central headers."""
    name_at = {b"PK\3\4": 30, b"PK\1\2": 46}[kind]
    start = next(
        at
        for at in range(len(data))
        if data[at : at + 4] == kind and data[at + name_at : at + name_at + len(name)] == name.encode()
    )
    return data[: start + offset] + new + data[start + offset + len(new) :]


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(CENTRAL, 8, b"\1\0"), (LOCAL, 6, b"\1\0")], "is encrypted"),
        ([(CENTRAL, 8, b"\x08\0"), (LOCAL, 6, b"\x08\0")], "has the flags 0x8"),
        ([(LOCAL, 6, b"\1\0")], "described in two ways"),
        ([(LOCAL, 8, b"\x08\0")], "described in two ways"),
        ([(LOCAL, 22, b"\0\0\0\0")], "described in two ways"),
        ([(LOCAL, 18, b"\xff" * 8)], "described in two ways"),
        ([(LOCAL, 30, b"LLM")], "described in two ways"),
        ([(CENTRAL, 20, b"\0\0\0\0")], "is compressed"),
        ([(CENTRAL, 24, b"\xff\xff\xff\xff")], "is compressed|that can be read"),
        ([(CENTRAL, 20, b"\xff" * 8)], "apart|two ways|that can be read|belong to no member"),
        ([(CENTRAL, 42, b"\0\0\0\0")], "lies over or apart"),
        ([(CENTRAL, 42, b"\xff\xff\xff\x7f")], "lies over or apart"),
        ([(CENTRAL, 42, b"\xff\xff\xff\xff")], "lies over or apart|that can be read"),
        ([(CENTRAL, 10, b"\x63\0"), (LOCAL, 8, b"\x63\0")], "is compressed"),
        ([(CENTRAL, 6, b"\xff\xff")], "not a zip that can be read"),
    ],
)
def test_headers_that_lie(packed: Path, changes: list[tuple[bytes, int, bytes]], expected: str) -> None:
    """Two tools that read the same zip differently: one checks it, the other runs it."""
    data = packed.read_bytes()
    for kind, offset, new in changes:
        data = patched(data, "llm.gguf", kind, offset, new)
    packed.write_bytes(data)
    refused(packed, expected)


def test_zip64_that_lies(packed: Path, tmp_path: Path) -> None:
    """Sizes in the extra field of terabytes, or end records that name two lists of members."""
    contents = members(packed)
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in contents.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(data)
    good = packed.read_bytes()
    sizes = struct.pack("<2H2Q", 1, 16, 3000, 3000)
    assert sizes in good
    packed.write_bytes(good.replace(sizes, struct.pack("<2H2Q", 1, 16, 3000, 1 << 50)))
    refused(packed, "described in two ways")
    end = good[-22:]
    count, directory, offset = struct.unpack("<HLL", end[10:20])
    for wide in ((count, directory, offset - 5), (count, 1 << 40, offset), (1 << 40, directory, offset)):
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, wide[0], *wide)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(good) - 22, 1)
        packed.write_bytes(good[:-22] + record + locator + end)
        refused(packed, "two end records differ")
        blank = end[:8] + b"\xff" * 12 + end[20:]
        packed.write_bytes(good[:-22] + record + locator + blank)
        refused(packed, "not where it says|too many")
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, directory, offset)
    packed.write_bytes(good[:-22] + record + struct.pack("<4sLQL", b"PK\6\7", 0, 7, 1) + end)
    refused(packed, "zip64 record is crooked")
    packed.write_bytes(good[:-22] + record + struct.pack("<4sLQL", b"PK\6\7", 0, len(good) - 22, 1) + end)
    assert unpack(packed)


def test_bytes_that_belong_to_no_member(packed: Path) -> None:
    data = packed.read_bytes()
    start = data.index(CENTRAL)
    moved = struct.pack("<L", start + 7)
    for changed, expected in (
        (b"#!/bin/sh" + data, "not where it says"),
        (data + b"more", "no end record"),
        (data[:start] + b"between" + data[start:-6] + moved + data[-2:], "7 bytes that belong to no member"),
        (data[:-2] + b"\x07\x00comment", "no end record"),
        (data[: len(data) // 2], "no end record"),
        (data[:10], "is not a zip"),
        (b"", "is not a zip"),
        (b"text" * 1000, "no end record"),
    ):
        packed.write_bytes(changed)
        refused(packed, expected)


def test_too_many_members(packed: Path) -> None:
    contents = [*members(packed).items(), *((f"f{number}", b"") for number in range(5000))]
    refused(rewrite(packed, contents), "too many")


def test_every_flipped_byte_is_refused_or_harmless(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever single byte a disk or a stranger changes: what gets a name is the bundle, or nothing does."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which would take most of the time
    data, installed = packed.read_bytes(), 0
    for at in [*range(0, 60), *range(len(data) - 420, len(data), 2), *range(60, len(data) - 420, 97)]:
        packed.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            found = unpack(packed, "flipped")
        except BundleError as error:
            assert str(error).isprintable()
            assert nothing_there()
        else:  # a date, a mode, or a version of the tool
            installed += 1
            contents = {file.name: file.read_bytes() for file in found.path.iterdir()}
            assert {name: contents[name] for name in CONTENTS} == CONTENTS
            shutil.rmtree(found.path)
    assert installed < 120
