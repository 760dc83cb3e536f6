"""Bundles: one that was changed, cut short or made by a newer version must not be run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from dclocal.bundle import (
    MANIFEST,
    NEWLINE_FILE,
    Bundle,
    describe_files,
    parse_manifest,
    read_bundle,
    verify,
    write_manifest,
)
from dclocal.errors import BundleError
from dclocal.fake import fake_bundle
from dclocal.picture import save_newline

PROJECT = Path(__file__).parent.parent


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


def tiled(bundle: Bundle, **changes: object) -> None:
    """Make the manifest's pictures AnyRes's, with its newline embedding beside it; `changes` are of `vision`."""
    save_newline(np.arange(8), bundle.path / NEWLINE_FILE)
    vision = json.loads((bundle.path / MANIFEST).read_text())["vision"]
    image = {**vision["image"], "fit": "anyres", "pinpoints": [[32, 16], [16, 32]]} | changes.pop("image", {})  # type: ignore[operator]
    files = {name: dataclasses.asdict(entry) for name, entry in describe_files(bundle.path).items()}
    edit(bundle, files=files, vision={**vision, "newline": NEWLINE_FILE, "image": image, **changes})


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


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """The shipped schema, itself checked against the standard's."""
    text = (resources.files("dclocal") / "bundle.schema.json").read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(text))
    return Draft202012Validator(json.loads(text))


def changed(bundle: Bundle, path: str, value: object) -> dict[str, Any]:
    """The manifest with `value` at a dotted path, the key taken out where it is None."""
    data = json.loads((bundle.path / MANIFEST).read_text())
    *sections, key = path.split("/")
    inner = data
    for section in sections:
        inner = inner[section]
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    (bundle.path / MANIFEST).write_text(json.dumps(data))
    return data


GOOD_ADAPTER = {"name": "red", "file": "llm.gguf", "scale": 0.5}
ACCEPTED = [
    ("something_new", {"kept": [1]}),
    ("adapters", None),
    ("adapters", []),
    ("adapters", [GOOD_ADAPTER, {**GOOD_ADAPTER, "name": "blue", "scale": -2}]),
    ("vision/newline", None),
    ("vision/image/pinpoints", None),
    ("vision/layer_groups", [[1, 2, 3], [4]]),
    ("vision/image/fit", "stretch"),
    ("vision/image/mean", [0, 0, 0]),
    ("vision/image/std", [1, 1, 1]),
    ("prompt/answer_lead", None),
    ("sampling/temperature", 1),
    ("sampling/top_k", 0),
    ("licences", {"all of it": "Apache-2.0"}),
]
REFUSED = [
    *((key, None) for key in ("format_version", "name", "description", "vision", "prompt", "n_ctx", "files")),
    *((key, None) for key in ("licences", "provenance", "sampling", "video", "llm_quantization")),
    ("format_version", 2),
    ("format_version", 0),
    ("format_version", True),
    ("name", 7),
    ("n_ctx", True),
    ("n_ctx", "many"),
    ("n_ctx", 0),
    ("files", {}),
    ("files/..", {"size_bytes": 0, "sha256": "0" * 64}),
    ("files/a b", {"size_bytes": 0, "sha256": "0" * 64}),
    ("files/.hidden", {"size_bytes": 0, "sha256": "0" * 64}),
    ("files/bundle.json", {"size_bytes": 0, "sha256": "0" * 64}),
    ("files/llm.gguf/size_bytes", -1),
    ("files/llm.gguf/sha256", "0" * 63),
    ("files/llm.gguf/sha256", "A" * 64),
    ("licences", {"all of it": 7}),
    ("licences", []),
    ("provenance", []),
    *((f"sampling/{key}", None) for key in ("temperature", "top_k", "top_p", "repeat_penalty", "max_tokens")),
    ("sampling/temperature", -0.1),
    ("sampling/temperature", "0"),
    ("sampling/temperature", True),
    ("sampling/top_p", 1.5),
    ("sampling/top_k", 1 << 31),
    ("sampling/repeat_penalty", 0),
    ("video/frames", 0),
    ("vision/grid", [2, True]),
    ("vision/grid", [2]),
    ("vision/grid", [2, 0]),
    ("vision/image/std", [0.5, 0.0, 0.5]),
    ("vision/image/std", [0.5, -1, 0.5]),
    ("vision/image/std", [0.5, 0.5]),
    ("vision/image/mean", [0.5, True, 0.5]),
    ("vision/image/mean", [0.5, 1e300, 0.5]),
    ("vision/image/fit", "crop"),
    ("vision/image/fit", "anyres"),
    ("vision/image/pinpoints", [[32, 16]]),
    ("vision/newline", NEWLINE_FILE),
    ("vision/newline", "other.safetensors"),
    ("vision/layer_groups", [1, 2]),
    ("vision/layer_groups", [[1, "2"]]),
    ("vision/layer_groups", [[]]),
    ("vision/layer_groups", [[True]]),
    ("vision/layer_groups", {"a": [1]}),
    ("vision/layer_groups", [[[1]]]),
    ("prompt/bos", None),
    ("prompt/specials", [""]),
    ("prompt/specials", "<s>"),
    ("adapters", {}),
    ("adapters", [7]),
    ("adapters", [{**GOOD_ADAPTER, "name": "none"}]),
    ("adapters", [{**GOOD_ADAPTER, "name": "a=b"}]),
    ("adapters", [{**GOOD_ADAPTER, "file": "../llm.gguf"}]),
    ("adapters", [{**GOOD_ADAPTER, "scale": 1e9}]),
    ("adapters", [{"name": "red", "file": "llm.gguf"}]),
]
BEYOND = [
    ("adapters", [GOOD_ADAPTER, GOOD_ADAPTER]),
    ("adapters", [{**GOOD_ADAPTER, "file": "other.gguf"}]),
    ("files/LLM.gguf", {"size_bytes": 0, "sha256": "0" * 64}),
    ("n_ctx", 200.0),
]


@pytest.mark.parametrize(("path", "value"), ACCEPTED)
def test_the_schema_accepts_what_is_read(small: Bundle, schema: Draft202012Validator, path: str, value: object) -> None:
    """Other programs write bundles by the schema: what it says must be what is read."""
    schema.validate(json.loads((small.path / MANIFEST).read_text()))
    data = changed(small, path, value)
    assert read_bundle(small.path)
    schema.validate(data)


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_the_schema_refuses_what_is_refused(
    small: Bundle, schema: Draft202012Validator, path: str, value: object
) -> None:
    data = changed(small, path, value)
    with pytest.raises(BundleError) as caught:
        read_bundle(small.path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
    assert not schema.is_valid(data)


@pytest.mark.parametrize(("path", "value"), BEYOND)
def test_rules_that_no_schema_says(small: Bundle, schema: Draft202012Validator, path: str, value: object) -> None:
    """Listed in docs/bundle-format.md."""
    data = changed(small, path, value)
    with pytest.raises(BundleError):
        read_bundle(small.path)
    assert schema.is_valid(data)


def test_the_schema_accepts_tiles_and_the_embedded_bundle(small: Bundle, schema: Draft202012Validator) -> None:
    parts = json.loads((PROJECT / "models" / "dc-tiny" / "parts.json").read_text())["manifest"]
    parts["files"] = json.loads((small.path / MANIFEST).read_text())["files"]  # assembly fills them in
    schema.validate(parts)
    assert parse_manifest(json.dumps(parts), "here").name == "dc-tiny"
    tiled(small)
    schema.validate(json.loads((small.path / MANIFEST).read_text()))
    schema.validate(
        json.loads((write_manifest(small.path, read_bundle(small.path).manifest).path / MANIFEST).read_text())
    )


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


def test_every_key_is_documented(schema: Draft202012Validator) -> None:
    text = (PROJECT / "docs" / "bundle-format.md").read_text(encoding="utf-8")

    def keys(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from node.get("properties", {}) if isinstance(node.get("properties"), dict) else ()
            for value in node.values():
                yield from keys(value)

    assert [key for key in set(keys(schema.schema)) if f"`{key}`" not in text] == []


def test_a_manifest_that_cannot_be_read_is_not_written(small: Bundle) -> None:
    before = (small.path / MANIFEST).read_bytes()
    with pytest.raises(ValueError):
        write_manifest(small.path, dataclasses.replace(small.manifest, provenance={"loss": float("nan")}))
    assert (small.path / MANIFEST).read_bytes() == before
