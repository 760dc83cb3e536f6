"""A small bundle for tests, whose files are a few words each, and changes to its manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from dclocal.bundle import MANIFEST, NEWLINE_FILE, Bundle, describe_files, write_manifest
from dclocal.fake import fake_bundle
from dclocal.picture import save_newline


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    for name in ("vision.onnx", "llm.gguf", "parity.json"):
        (tmp_path / name).write_text(f"contents of {name}")
    manifest = dataclasses.replace(fake_bundle(tmp_path).manifest, files=describe_files(tmp_path))
    return write_manifest(tmp_path, manifest)


def edit(bundle: Bundle, **changes: object) -> None:
    file = bundle.path / MANIFEST
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def tiled(bundle: Bundle, **changes: object) -> None:
    """Make the manifest's pictures AnyRes's, with its newline embedding beside it; `changes` are of `vision`."""
    save_newline(np.arange(8), bundle.path / NEWLINE_FILE)
    vision = json.loads((bundle.path / MANIFEST).read_text())["vision"]
    image = {**vision["image"], "fit": "anyres", "pinpoints": [[32, 16], [16, 32]]} | changes.pop("image", {})  # type: ignore[operator]
    files = {name: dataclasses.asdict(entry) for name, entry in describe_files(bundle.path).items()}
    edit(bundle, files=files, vision={**vision, "newline": NEWLINE_FILE, "image": image, **changes})
