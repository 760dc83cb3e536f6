"""Bundles as one file: what comes from a stranger must be what its manifest says, or must not be there at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dclocal import pack as pack_module
from dclocal import store
from dclocal.bundle import MANIFEST, Bundle, describe_files, read_bundle, write_manifest
from dclocal.cli import run
from dclocal.errors import BundleError
from dclocal.fake import fake_bundle
from dclocal.pack import open_packed, pack, unpack
from dclocal.stored_zip import add_member

CONTENTS = {"vision.onnx": b"vision" * 100, "llm.gguf": b"llm" * 1000, "parity.json": b"{}", "README.md": b"# card"}


def make(folder: Path, **changes: Any) -> Bundle:
    folder.mkdir(parents=True)
    for name, data in CONTENTS.items():
        (folder / name).write_bytes(data)
    manifest = fake_bundle(folder).manifest
    return write_manifest(folder, dataclasses.replace(manifest, files=describe_files(folder), **changes))


@pytest.fixture
def small(tmp_path: Path, own_home: Path) -> Bundle:
    return make(tmp_path / "source")


@pytest.fixture
def packed(small: Bundle, tmp_path: Path) -> Path:
    pack(small, tmp_path / "fake.dcb")
    return tmp_path / "fake.dcb"


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(file: Path, contents: list[tuple[str, bytes]], **attributes: object) -> Path:
    """A zip by the standard library; `attributes` are those of the last member."""
    with zipfile.ZipFile(file, "w") as archive:
        for index, (name, data) in enumerate(contents):
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items() if index == len(contents) - 1 else ():
                setattr(info, key, value)
            archive.writestr(info, data)
    return file


def nothing_there() -> bool:
    folder = store.bundles_folder()
    return not folder.exists() or list(folder.iterdir()) == []


def refused(file: Path, expected: str) -> None:
    for action in (unpack, open_packed):
        with pytest.raises(BundleError, match=expected) as caught:
            action(file)
        assert str(caught.value).isprintable()
    assert nothing_there()


def test_the_same_bundle_gives_the_same_bytes(small: Bundle, packed: Path, tmp_path: Path) -> None:
    """So that a hash on a web page says which bundle it is; on every system and version of Python."""
    other = tmp_path / "elsewhere"
    shutil.copytree(small.path, other)
    for file in other.iterdir():
        os.utime(file, (1e9, 1e9))
        file.chmod(0o600)
    (other / "not in the manifest").write_text("left out")
    assert pack(read_bundle(other), tmp_path / "other.dcb") == packed.stat().st_size
    assert (tmp_path / "other.dcb").read_bytes() == packed.read_bytes()
    assert list(members(packed)) == [MANIFEST, "README.md", "llm.gguf", "parity.json", "vision.onnx"]
    with zipfile.ZipFile(packed) as archive:
        assert {(one.date_time, one.external_attr >> 16, one.compress_type) for one in archive.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), stat.S_IFREG | 0o644, zipfile.ZIP_STORED)
        }


def test_packing_is_as_it_was() -> None:
    """A golden record: another version of Python must not write other bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in CONTENTS.items():
            add_member(archive, name, len(data), [data])
    assert (
        hashlib.sha256(stream.getvalue()).hexdigest()
        == "ba840c4d101769dccd2df1f5a71d70ce6a173dda5602cb8b858846406b8dd8d1"
    )


def test_there_and_back(packed: Path, small: Bundle, own_home: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    installed = unpack(packed, progress=lambda *step: steps.append(step))
    assert installed.path == own_home / "bundles" / "fake" and installed.manifest == small.manifest
    assert members(packed) == {file.name: file.read_bytes() for file in installed.path.iterdir()}
    assert steps[0][1] == 0 and steps[-1] == ("unpacking fake.dcb", small.size_bytes, small.size_bytes)
    assert [path.name for path in installed.path.parent.iterdir()] == ["fake"]
    assert store.open_bundle("fake").manifest == small.manifest


def test_a_zip_by_another_tool_is_read(packed: Path, tmp_path: Path) -> None:
    """The standard library's, in another order and with dates; big members' zip64 fields, too."""
    contents = members(packed)
    assert unpack(rewrite(tmp_path / "a.dcb", list(contents.items())[::-1]), "one")
    with zipfile.ZipFile(tmp_path / "b.dcb", "w") as archive:
        for name, data in contents.items():
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(data)
    assert unpack(tmp_path / "b.dcb", "two")


def test_names(packed: Path, small: Bundle, tmp_path: Path) -> None:
    first = unpack(packed)
    (first.path / "README.md").touch()
    assert unpack(packed).path == first.path  # the same content: nothing is done
    other = make(tmp_path / "other", description="another")
    pack(other, tmp_path / "other.dcb")
    with pytest.raises(BundleError, match="another bundle is named fake — add --name"):
        unpack(tmp_path / "other.dcb")
    assert read_bundle(first.path).manifest == small.manifest
    assert unpack(tmp_path / "other.dcb", "other").manifest.description == "another"
    for name in ("", ".", "..", "a/b", "../x", ".hidden", "a\0b", "a\nb", "x" * 200):
        with pytest.raises(BundleError, match="cannot be a bundle's name"):
            unpack(packed, name)


def test_a_manifest_names_no_path_and_not_the_default(tmp_path: Path, own_home: Path) -> None:
    """A stranger's file must not become what `dclocal chat` runs by default."""
    for index, (name, expected) in enumerate((("../../x", "cannot be a bundle's name"), ("dc-tiny", "add --name"))):
        pack(make(tmp_path / f"named{index}", name=name), tmp_path / f"{index}.dcb")
        with pytest.raises(BundleError, match=expected):
            unpack(tmp_path / f"{index}.dcb")
        assert nothing_there()
    assert unpack(tmp_path / "1.dcb", "dc-tiny").path.name == "dc-tiny"
    assert open_packed(tmp_path / "0.dcb").path.name.startswith("bundle-")


def test_chat_unpacks_once(packed: Path, small: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    digest = hashlib.sha256((small.path / MANIFEST).read_bytes()).hexdigest()
    first = store.open_bundle(str(packed), lambda step, *_: steps.append(step))
    assert first.path.name == f"fake-{digest[:16]}"
    assert set(steps) == {f"unpacking fake.dcb into the store as {first.path.name}"}
    steps.clear()
    monkeypatch.setattr(pack_module, "_extract", None)
    assert store.open_bundle(str(packed), lambda step, *_: steps.append(step)) == first and steps == []


def test_chat_takes_what_is_installed(packed: Path) -> None:
    assert unpack(packed).path == store.open_bundle(str(packed)).path


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


def test_a_full_disk_is_said_before(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 << 20 >> 3))
    with pytest.raises(BundleError, match=r"has 0 MB free, fake.dcb takes 1 MB — free some"):
        unpack(packed)
    assert nothing_there()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_a_stop_at_any_point_leaves_nothing(
    packed: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ["write", "read_bundle", "progress", "replace"]
    for point in points:

        def fail(*_: object, **__: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            if point == "write":
                patch.setattr(os, "fsync", fail)
            elif point == "read_bundle":
                patch.setattr(pack_module, "read_bundle", fail)
            elif point == "replace":
                patch.setattr(Path, "replace", fail)
            with pytest.raises((BundleError, type(error))):
                unpack(packed, None, fail if point == "progress" else lambda *_: None)
        assert nothing_there(), point
    assert unpack(packed)


CHILD = """
import os, sys, time
from dclocal import pack
from pathlib import Path
def slow(descriptor):
    print("writing", flush=True)
    time.sleep(60)
os.fsync = slow
pack.unpack(Path(sys.argv[1]))
"""


def test_a_killed_unpack_is_swept(packed: Path, own_home: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(packed)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert store.installed() == [] and not nothing_there()
    assert unpack(packed)
    assert [path.name for path in (own_home / "bundles").iterdir()] == ["fake"]


def test_two_at_once_install_one(packed: Path, own_home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dclocal.pack import unpack; print(unpack(Path(sys.argv[1])).path)"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(packed)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = {child.communicate(timeout=60)[0].strip() for child in children}
    assert answers == {str(own_home / "bundles" / "fake")}


def test_packing_refuses_what_is_damaged(small: Bundle, tmp_path: Path) -> None:
    """Else the damage travels, and is found by everyone else."""
    before = (tmp_path / "out.dcb").write_bytes(b"the file from before")
    (small.path / "llm.gguf").write_bytes(b"llM" * 1000)
    with pytest.raises(BundleError, match=r"llm.gguf is not what the manifest says"):
        pack(small, tmp_path / "out.dcb")
    assert before == (tmp_path / "out.dcb").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.dcb", "source"]
    for out, expected in (
        (tmp_path / "photo.jpg", "does not end in .dcb"),
        (tmp_path / "no" / "x.dcb", "cannot be packed"),
    ):
        with pytest.raises(BundleError, match=expected):
            pack(small, out)


def test_the_commands(small: Bundle, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.dcb"
    assert run(["bundle", "pack", str(small.path), str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "size_bytes": file.stat().st_size}
    assert run(["bundle", "unpack", str(file), "--name", "mine"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{own_home / 'bundles' / 'mine'}\n" and captured.err == "dclocal: unpacking out.dcb\n"
    assert run(["bundle", "unpack", str(file), "--name", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mine"
    for arguments in (["pack", "none", str(file)], ["unpack", "none.dcb"], ["pack", "mine", str(tmp_path / "x.zip")]):
        assert run(["bundle", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert run(["chat", "--bundle", str(file), "-p", "hm?"]) == 2  # its parts are no models: said after the unpacking
