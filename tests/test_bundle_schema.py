"""The schema of bundles: other programs write them by it, so it must say what is read and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dclocal.bundle import MANIFEST, NEWLINE_FILE, Bundle, parse_manifest, read_bundle, write_manifest
from dclocal.errors import BundleError
from tests.small_bundle import small, tiled

__all__ = ["small"]
PROJECT = Path(__file__).parent.parent


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
    ("text_llm", None),
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
    ("text_llm", "other.gguf"),
    ("text_llm", 7),
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
    ("text_llm", "text.gguf"),
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


def test_every_key_is_documented(schema: Draft202012Validator) -> None:
    text = (PROJECT / "docs" / "bundle-format.md").read_text(encoding="utf-8")

    def keys(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            yield from node.get("properties", {}) if isinstance(node.get("properties"), dict) else ()
            for value in node.values():
                yield from keys(value)

    assert [key for key in set(keys(schema.schema)) if f"`{key}`" not in text] == []
