"""The bundle: one folder that a laptop runs, described by `bundle.json`.  Reads, writes and verifies it.

A folder without a complete manifest is not a bundle.  The manifest as data is in `manifest.py`; its names are
handed on from here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.errors import BundleError
from dclocal.manifest import (
    FORMAT_VERSION,
    LLM_FILE,
    MANIFEST,
    NEWLINE_FILE,
    PARITY_FILE,
    PENALTY_WINDOW,
    TEXT_LLM_FILE,
    VISION_FILE,
    AdapterSpec,
    FileEntry,
    ImageSpec,
    Manifest,
    Sampling,
    VideoDefaults,
    VisionSpec,
    parse_manifest,
)
from dclocal.typed_json import REMEDY

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "FORMAT_VERSION",
    "LLM_FILE",
    "MANIFEST",
    "NEWLINE_FILE",
    "PARITY_FILE",
    "PENALTY_WINDOW",
    "TEXT_LLM_FILE",
    "VISION_FILE",
    "AdapterSpec",
    "Bundle",
    "FileEntry",
    "ImageSpec",
    "Manifest",
    "Sampling",
    "VideoDefaults",
    "VisionSpec",
    "check_required",
    "describe_files",
    "parse_manifest",
    "read_bundle",
    "sha256_file",
    "verify",
    "write_manifest",
]

MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A manifest and the folder that it describes."""

    path: Path
    manifest: Manifest

    @property
    def vision_path(self) -> Path:
        return self.path / VISION_FILE

    @property
    def llm_path(self) -> Path:
        return self.path / LLM_FILE

    @property
    def text_llm_path(self) -> Path:
        """Of the language model that answers where no picture was shown; mostly `llm_path`."""
        return self.path / (self.manifest.text_llm or LLM_FILE)

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.manifest.files.values())

    def read_newline(self) -> np.ndarray | None:
        """AnyRes's newline embedding, float32 `[n_embd]`; None where the model has none.  Raises BundleError."""
        vision = self.manifest.vision
        if vision.newline is None:
            return None
        from dclocal.picture import load_newline  # it needs numpy, which `bundle list` does not

        return load_newline(self.path / vision.newline, vision.n_embd)


def read_bundle(path: Path) -> Bundle:
    """Open the bundle in folder `path`: manifest read and typed, every member present with its size.

    Hashes are not computed here (see `verify`).  Raises BundleError.
    """
    manifest = parse_manifest(_read_manifest_text(path), where=str(path))
    check_required(manifest, str(path))
    for name, entry in manifest.files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.size_bytes:
            found = "missing" if size is None else f"{size} bytes"
            raise BundleError(f"{file} is {found}, the manifest says {entry.size_bytes} bytes", REMEDY)
    return Bundle(path, manifest)


def check_required(manifest: Manifest, where: str) -> None:
    """Raise BundleError for a manifest that lists no file for a part that every such bundle has."""
    for name in (VISION_FILE, LLM_FILE, manifest.vision.newline, manifest.text_llm):
        if name and name not in manifest.files:
            raise BundleError(f"the bundle {where} lists no {name}", "pull or export it again")


def verify(bundle: Bundle, on_bytes: Callable[[int], None] = lambda n: None) -> list[str]:
    """Hash every member; returns one line per file that differs from the manifest (empty: all is well).

    `on_bytes` is called with the count of bytes just read, for a progress bar.
    """
    return [
        f"{name}: SHA-256 differs from the manifest"
        for name, entry in bundle.manifest.files.items()
        if sha256_file(bundle.path / name, on_bytes) != entry.sha256
    ]


def sha256_file(path: Path, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """SHA-256 of a file in hex, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Entries for every file in `folder` except the manifest itself, sorted by name."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != MANIFEST)
    return {name: FileEntry((folder / name).stat().st_size, sha256_file(folder / name)) for name in names}


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Write `bundle.json` whole or not at all; the last step of making a bundle."""
    data = asdict(manifest)
    data.update(data.pop("extra"))
    data["prompt"] = manifest.prompt.to_dict()
    temporary = folder / f"{MANIFEST}.part"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(data, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)
    return Bundle(folder, manifest)


def _read_manifest_text(path: Path) -> str:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", "see `dclocal bundle list`")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST_BYTES} bytes", "it is not a manifest of ours")
    return file.read_text(encoding="utf-8", errors="replace")
