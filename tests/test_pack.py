"""Bundles packed into one file: the same bytes for the same bundle, and nothing damaged goes into one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from dclocal.bundle import MANIFEST, Bundle, read_bundle
from dclocal.cli import run
from dclocal.errors import BundleError
from dclocal.pack import pack
from dclocal.stored_zip import add_member
from tests.packed_bundle import CONTENTS, members, packed, small

__all__ = ["packed", "small"]


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
