"""The bundle: one folder that a laptop runs, described by `bundle.json`.  Reads, writes and verifies it.

Nothing is trusted before it is checked: the manifest is bounded in size and typed field by field, file
names may not leave the folder, and a folder without a complete manifest is not a bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.errors import BundleError
from dclocal.formats import PromptFormat
from dclocal.typed_json import Reader

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
VISION_FILE = "vision.onnx"
LLM_FILE = "llm.gguf"
PARITY_FILE = "parity.json"
NEWLINE_FILE = "newline.safetensors"
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """What a member file must be: its size in bytes and its SHA-256 in hex."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes pixels `[3, size, size]`: `fit` is pad (mean colour to a square), stretch or anyres.

    "anyres" makes several such tiles, on the one of `pinpoints` that fits best: (width, height) of canvases in
    pixels, multiples of `size`; empty for the other two.
    """

    size: int
    fit: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pinpoints: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class VisionSpec:
    """What `vision.onnx` takes and gives: pixels by `image`, embeddings `[n, tokens, n_embd]`.

    `grid` is (rows, columns) of the tokens; `connector` and `layer_groups` say how they were made.  With AnyRes
    both are of one tile, and `newline` names the file of the embedding that ends a row; None where there is none.
    """

    image: ImageSpec
    tokens: int
    grid: tuple[int, int]
    n_embd: int
    backbone: str
    connector: str
    layer_groups: tuple[tuple[int, ...], ...] = ()
    precision: str = "fp32"
    newline: str | None = None


@dataclass(frozen=True)
class Sampling:
    """Defaults for generation; temperature 0 takes the most likely token each time."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    repeat_penalty: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True)
class VideoDefaults:
    """Frames sampled from a video and tokens kept for each."""

    frames: int = 8
    tokens_per_frame: int = 36


@dataclass(frozen=True)
class Manifest:
    """`bundle.json` as typed data; keys that this version does not know are kept in `extra`."""

    name: str
    description: str
    vision: VisionSpec
    prompt: PromptFormat
    n_ctx: int
    files: Mapping[str, FileEntry]
    licences: Mapping[str, str]
    provenance: Mapping[str, Any]
    sampling: Sampling = Sampling()
    video: VideoDefaults = VideoDefaults()
    llm_quantization: str = "f16"
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    newline = manifest.vision.newline
    for name in (VISION_FILE, LLM_FILE, *([newline] if newline else [])):
        if name not in manifest.files:
            raise BundleError(f"the bundle {path} lists no {name}", "pull or export it again")
    for name, entry in manifest.files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.size_bytes:
            found = "missing" if size is None else f"{size} bytes"
            raise BundleError(
                f"{file} is {found}, the manifest says {entry.size_bytes} bytes", "remove the bundle and pull it again"
            )
    return Bundle(path, manifest)


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
        json.dump(data, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)
    return Bundle(folder, manifest)


def parse_manifest(text: str, where: str) -> Manifest:
    """Typed manifest from JSON text; raises BundleError naming the first key that does not fit."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(
            f"{where}: {MANIFEST} is not JSON ({error})", "remove the bundle and pull it again"
        ) from error
    reader = Reader(data, where)
    version = reader.take("format_version", int)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where} has bundle format {version}, this dclocal reads up to {FORMAT_VERSION}", "upgrade dclocal"
        )
    sampling, video = reader.section("sampling"), reader.section("video")
    return Manifest(
        name=reader.take("name", str),
        description=reader.take("description", str),
        vision=_vision_spec(reader.section("vision")),
        prompt=PromptFormat.from_dict(reader.take("prompt", dict)),
        n_ctx=reader.bounded("n_ctx", 1, 1 << 22),
        files={name: _file_entry(reader, name) for name in reader.peek("files", dict)},
        licences=reader.take("licences", dict),
        provenance=reader.take("provenance", dict),
        sampling=Sampling(
            temperature=float(sampling.take("temperature", (int, float))),
            top_k=sampling.take("top_k", int),
            top_p=float(sampling.take("top_p", (int, float))),
            repeat_penalty=float(sampling.take("repeat_penalty", (int, float))),
            max_tokens=sampling.bounded("max_tokens", 1, 1 << 20),
        ),
        video=VideoDefaults(video.bounded("frames", 1, 4096), video.bounded("tokens_per_frame", 1, 65536)),
        llm_quantization=reader.take("llm_quantization", str),
        format_version=version,
        extra=reader.rest("files"),
    )


def _vision_spec(vision: Reader) -> VisionSpec:
    image = vision.section("image")
    size, fit = image.bounded("size", 1, 4096), image.choice("fit", ("pad", "stretch", "anyres"))
    spec = VisionSpec(
        image=ImageSpec(size, fit, image.triple("mean"), image.triple("std"), _pinpoints(image, size, fit)),
        tokens=vision.bounded("tokens", 1, 65536),
        grid=vision.pair("grid"),
        n_embd=vision.bounded("n_embd", 1, 65536),
        backbone=vision.take("backbone", str),
        connector=vision.take("connector", str),
        layer_groups=tuple(tuple(group) for group in vision.take("layer_groups", list)),
        precision=vision.take("precision", str),
        newline=vision.choice("newline", (NEWLINE_FILE,)) if vision.data.get("newline") is not None else None,
    )
    if fit != "anyres" and spec.newline is not None:
        raise BundleError(f"{vision.where}: 'newline' with fit {fit!r}", "it belongs to anyres: export it again")
    if fit == "anyres" and (min(spec.grid) < 1 or spec.grid[0] * spec.grid[1] != spec.tokens):
        raise BundleError(
            f"{vision.where}: {spec.tokens} tokens on a grid of {spec.grid}", "anyres needs a token per cell"
        )
    return spec


def _pinpoints(image: Reader, size: int, fit: str) -> tuple[tuple[int, int], ...]:
    """The canvases of AnyRes; bundles from before it have no such key."""
    found = image.take("pinpoints", list) if "pinpoints" in image.data else []
    if fit != "anyres":
        if found:
            raise BundleError(f"{image.where}: 'pinpoints' with fit {fit!r}", "they belong to anyres: export it again")
        return ()
    from dclocal.anyres import parse_pinpoints  # it needs numpy and Pillow, which `bundle list` does not

    try:
        return parse_pinpoints(found, size)
    except BundleError as error:
        raise BundleError(f"{image.where}: {error.problem}", error.remedy) from error


def _read_manifest_text(path: Path) -> str:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}", "see `dclocal bundle list`")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST_BYTES} bytes", "it is not a manifest of ours")
    return file.read_text(encoding="utf-8", errors="replace")


def _file_entry(reader: Reader, name: str) -> FileEntry:
    if name != Path(name).name or name in ("", ".", "..", MANIFEST) or "\\" in name:
        raise BundleError(f"{reader.where}: the file name {name!r} leaves the bundle", "do not use this bundle")
    entry = Reader(reader.data["files"][name], f"{reader.where}: files.{name}")
    return FileEntry(entry.bounded("size_bytes", 0, 1 << 44), entry.take("sha256", str))
