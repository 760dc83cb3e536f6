"""Bundles: one that was changed, cut short or made by a newer version must not be run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dclocal.bundle import (
    MANIFEST,
    NEWLINE_FILE,
    TEXT_LLM_FILE,
    Bundle,
    describe_files,
    parse_manifest,
    read_bundle,
    verify,
    write_manifest,
)
from dclocal.errors import BundleError
from tests.small_bundle import edit, small, tiled

__all__ = ["small"]


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


def test_tiled_pictures_travel_in_a_bundle(small: Bundle) -> None:
    tiled(small)
    again = read_bundle(small.path)
    assert again.manifest.vision.image.pinpoints == ((32, 16), (16, 32))
    assert again.read_newline().tolist() == list(range(8))  # type: ignore[union-attr]
    assert read_bundle(write_manifest(small.path, again.manifest).path) == again
    (small.path / NEWLINE_FILE).unlink()
    with pytest.raises(BundleError, match=r"newline.safetensors is missing"):
        read_bundle(small.path)


def test_bundles_from_before_tiles_still_open(small: Bundle) -> None:
    vision = json.loads((small.path / MANIFEST).read_text())["vision"]
    del vision["newline"], vision["image"]["pinpoints"]
    edit(small, vision=vision)
    again = read_bundle(small.path)
    assert again.manifest == small.manifest and again.read_newline() is None


def test_a_language_model_for_text_alone(small: Bundle) -> None:
    assert small.text_llm_path == small.llm_path
    edit(small, text_llm=TEXT_LLM_FILE)
    with pytest.raises(BundleError, match=r"lists no text.gguf"):
        read_bundle(small.path)
    (small.path / TEXT_LLM_FILE).write_text("another model")
    edit(small, files={name: dataclasses.asdict(entry) for name, entry in describe_files(small.path).items()})
    again = read_bundle(small.path)
    assert again.text_llm_path == small.path / TEXT_LLM_FILE
    assert read_bundle(write_manifest(small.path, again.manifest).path) == again


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image": {"pinpoints": []}}, "vision: image: image_grid_pinpoints"),
        ({"image": {"pinpoints": [[32, 17]]}}, "multiples of the tile's 16 pixels"),
        ({"image": {"pinpoints": [[16 * 65, 16]]}}, "at most 64 tiles"),
        ({"image": {"pinpoints": "[(32, 16)]"}}, "'pinpoints' is"),
        ({"image": {"fit": "pad"}}, "'pinpoints' with fit 'pad'"),
        ({"image": {"fit": "pad", "pinpoints": []}}, "'newline' with fit 'pad'"),
        ({"newline": "../newline.safetensors"}, "known: newline.safetensors"),
        ({"grid": [2, 3]}, "a token per cell"),
        ({"grid": [-2, -2]}, "2 whole numbers within 1"),
    ],
)
def test_crooked_tiles_are_named(small: Bundle, changes: dict[str, object], expected: str) -> None:
    tiled(small, **changes)
    with pytest.raises(BundleError, match=expected):
        read_bundle(small.path)


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000]


@pytest.mark.parametrize("text", [*NUMBERS, "[" * 40 + "]" * 40, "[" * 100_000, '{"a": 1, "a": 2}'])
@pytest.mark.parametrize("key", ["temperature", "something_new"])
def test_numbers_and_depths_that_json_has_not(small: Bundle, text: str, key: str) -> None:
    """A temperature of infinity answers noise; and such a manifest could not be written again."""
    file = small.path / MANIFEST
    data = json.loads(file.read_text())
    (data["sampling"] if key == "temperature" else data)[key] = "HERE"
    file.write_text(json.dumps(data).replace('"HERE"', text))
    with pytest.raises(BundleError, match="is not JSON|levels deep"):
        read_bundle(small.path)


def test_a_manifest_that_cannot_be_read_is_not_written(small: Bundle) -> None:
    before = (small.path / MANIFEST).read_bytes()
    with pytest.raises(ValueError):
        write_manifest(small.path, dataclasses.replace(small.manifest, provenance={"loss": float("nan")}))
    assert (small.path / MANIFEST).read_bytes() == before
