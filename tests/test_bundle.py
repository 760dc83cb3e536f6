"""Bundles: one that was changed, cut short or made by a newer version must not be run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dclocal.bundle import MANIFEST, Bundle, describe_files, parse_manifest, read_bundle, verify, write_manifest
from dclocal.errors import BundleError
from dclocal.fake import fake_bundle


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    for name in ("vision.onnx", "llm.gguf", "parity.json"):
        (tmp_path / name).write_text(f"contents of {name}")
    manifest = dataclasses.replace(fake_bundle(tmp_path).manifest, files=describe_files(tmp_path))
    return write_manifest(tmp_path, manifest)


def edit(bundle: Bundle, **changes: object) -> None:
    file = bundle.path / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_round_trip_keeps_everything(small: Bundle) -> None:
    edit(small, something_new={"kept": True})
    again = read_bundle(small.path)
    assert again.manifest.extra == {"something_new": {"kept": True}}
    assert dataclasses.replace(again.manifest, extra={}) == small.manifest
    write_manifest(small.path, again.manifest)
    assert read_bundle(small.path).manifest == again.manifest


def test_a_changed_byte_is_found(small: Bundle) -> None:
    assert verify(small) == []
    (small.path / "llm.gguf").write_text("contents of llm.gguF")
    assert read_bundle(small.path)  # the same size: opening does not hash
    assert verify(small) == ["llm.gguf: SHA-256 differs from the manifest"]


def test_what_is_missing_or_cut_is_found(small: Bundle) -> None:
    (small.path / "llm.gguf").write_text("cut")
    with pytest.raises(BundleError, match="3 bytes, the manifest says 20"):
        read_bundle(small.path)
    (small.path / "llm.gguf").unlink()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(small.path)
    (small.path / MANIFEST).unlink()
    with pytest.raises(BundleError, match="not a bundle"):
        read_bundle(small.path)


def test_a_newer_format_is_refused(small: Bundle) -> None:
    edit(small, format_version=99)
    with pytest.raises(BundleError, match="format 99.*upgrade"):
        read_bundle(small.path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_ctx": "many"}, "n_ctx"),
        ({"n_ctx": -1}, "n_ctx"),
        ({"files": {"../../etc/passwd": {"size_bytes": 1, "sha256": ""}}}, "leaves the bundle"),
        ({"files": {}}, "lists no vision.onnx"),
        ({"vision": None}, "vision"),
        ({"prompt": {}}, "prompt"),
    ],
)
def test_a_crooked_manifest_is_named(small: Bundle, changes: dict[str, object], expected: str) -> None:
    edit(small, **changes)
    with pytest.raises(BundleError, match=expected):
        read_bundle(small.path)


def test_garbage_is_no_manifest() -> None:
    for text in ("", "[]", "{", "null"):
        with pytest.raises(BundleError):
            parse_manifest(text, "here")


def test_half_a_manifest_is_no_bundle(small: Bundle) -> None:
    """The manifest is written under another name and renamed."""
    text = (small.path / MANIFEST).read_text()
    (small.path / MANIFEST).rename(small.path / f"{MANIFEST}.part")
    with pytest.raises(BundleError, match="not a bundle"):
        read_bundle(small.path)
    (small.path / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match="not JSON"):
        read_bundle(small.path)
