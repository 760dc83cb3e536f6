"""What the tests of bundles as one file share: a small bundle, its file, and files by other hands."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dclocal import store
from dclocal.bundle import Bundle, describe_files, write_manifest
from dclocal.fake import fake_bundle
from dclocal.pack import pack

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
