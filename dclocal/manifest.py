"""The manifest, `bundle.json`, as typed data.

Nothing is trusted before it is checked: every field is typed and bounded, numbers are finite, and file names may
not leave the folder.  `docs/bundle-format.md` says what each key means, `bundle.schema.json` the same to machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dclocal.errors import BundleError
from dclocal.formats import PromptFormat
from dclocal.places import LLM_FILE as LLM_FILE
from dclocal.typed_json import REMEDY, Reader, parse_json

FORMAT_VERSION = 1
MANIFEST = "bundle.json"
VISION_FILE = "vision.onnx"
TEXT_LLM_FILE = "text.gguf"
PARITY_FILE = "parity.json"
NEWLINE_FILE = "newline.safetensors"
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
ADAPTER_NAME = re.compile(r"(?!none$)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_SCALE = 1000.0
MAX_LAYER = 4096


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


PENALTY_WINDOW = 64
"""How many of the last tokens `Sampling.repeat_penalty` counts."""


@dataclass(frozen=True)
class Sampling:
    """Defaults for generation; temperature 0 takes the most likely token each time."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    repeat_penalty: float = 1.0
    max_tokens: int = 256


POOLS = ("area", "bilinear", "max")


@dataclass(frozen=True)
class VideoDefaults:
    """Frames sampled from a video, tokens kept of each and how (one of POOLS), and whether its time precedes each."""

    frames: int = 8
    tokens_per_frame: int = 36
    pool: str = "area"
    times: bool = False


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA adapter beside the language model: its name, its GGUF file, and the scale that it has by default."""

    name: str
    file: str
    scale: float = 1.0


@dataclass(frozen=True)
class Manifest:
    """`bundle.json` as typed data; keys that this version does not know are kept in `extra`.

    `text_llm` names the file of the language model that answers where no picture was shown; None where that is the one
    that answers about pictures, too.
    """

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
    text_llm: str | None = None
    adapters: tuple[AdapterSpec, ...] = ()
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_manifest(text: str, where: str) -> Manifest:
    """Typed manifest from JSON text; raises BundleError naming the first key that does not fit."""
    reader = Reader(parse_json(text, f"{where}: {MANIFEST}"), where)
    version = reader.take("format_version", int)
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{where} has bundle format {version}, this dclocal reads up to {FORMAT_VERSION}", "upgrade dclocal"
        )
    reader.bounded("format_version", 1, FORMAT_VERSION)
    files = _files(reader)
    return Manifest(
        name=reader.take("name", str),
        description=reader.take("description", str),
        vision=_vision_spec(reader.section("vision")),
        prompt=PromptFormat.from_dict(reader.take("prompt", dict)),
        n_ctx=reader.bounded("n_ctx", 1, 1 << 22),
        files=files,
        licences=reader.texts("licences"),
        provenance=reader.take("provenance", dict),
        sampling=_sampling(reader.section("sampling")),
        video=_video(reader.section("video")),
        llm_quantization=reader.take("llm_quantization", str),
        text_llm=reader.optional_choice("text_llm", (TEXT_LLM_FILE,)),
        adapters=_adapters(reader, files),
        format_version=version,
        extra=reader.rest(),
    )


def _sampling(sampling: Reader) -> Sampling:
    return Sampling(
        temperature=sampling.number("temperature", 0, 100),
        top_k=sampling.bounded("top_k", -1, (1 << 31) - 1),
        top_p=sampling.number("top_p", 0, 1),
        repeat_penalty=sampling.number("repeat_penalty", 0.01, 100),
        max_tokens=sampling.bounded("max_tokens", 1, 1 << 20),
    )


def _video(video: Reader) -> VideoDefaults:
    """Bundles from before them have neither `pool` nor `times`."""
    frames, tokens = video.bounded("frames", 1, 4096), video.bounded("tokens_per_frame", 1, 65536)
    pool = video.choice("pool", POOLS) if "pool" in video.data else VideoDefaults.pool
    times = video.data.get("times", VideoDefaults.times)
    if not isinstance(times, bool):
        raise BundleError(f"{video.where}: 'times' is {times!r:.60}, expected true or false", REMEDY)
    return VideoDefaults(frames, tokens, pool, times)


def _vision_spec(vision: Reader) -> VisionSpec:
    spec = VisionSpec(
        image=_image_spec(vision.section("image")),
        tokens=vision.bounded("tokens", 1, 65536),
        grid=vision.pair("grid", 1, 65536),
        n_embd=vision.bounded("n_embd", 1, 65536),
        backbone=vision.take("backbone", str),
        connector=vision.take("connector", str),
        layer_groups=vision.groups("layer_groups", -MAX_LAYER, MAX_LAYER),
        precision=vision.take("precision", str),
        newline=vision.optional_choice("newline", (NEWLINE_FILE,)),
    )
    fit = spec.image.fit
    if fit != "anyres" and spec.newline is not None:
        raise BundleError(f"{vision.where}: 'newline' with fit {fit!r}", "it belongs to anyres: export it again")
    if fit == "anyres" and spec.grid[0] * spec.grid[1] != spec.tokens:
        raise BundleError(
            f"{vision.where}: {spec.tokens} tokens on a grid of {spec.grid}", "anyres needs a token per cell"
        )
    return spec


def _image_spec(image: Reader) -> ImageSpec:
    size, fit = image.bounded("size", 1, 4096), image.choice("fit", ("pad", "stretch", "anyres"))
    mean, std = image.triple("mean", -1e6, 1e6), image.triple("std", 1e-6, 1e6)
    return ImageSpec(size, fit, mean, std, _pinpoints(image, size, fit))


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


def _files(reader: Reader) -> dict[str, FileEntry]:
    """The members; raises BundleError for names that leave the folder or that some disks take for the same."""
    entries, seen = {}, {MANIFEST}
    for name, value in reader.take("files", dict).items():
        if not FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise BundleError(
                f"{reader.where}: the file name {name!r:.100} leaves the bundle or is not portable",
                "do not use this bundle",
            )
        if name.casefold() in seen:
            raise BundleError(f"{reader.where}: two files are named {name!r}", "do not use this bundle")
        seen.add(name.casefold())
        entry = Reader(value, f"{reader.where}: files.{name}")
        size_bytes, sha256 = entry.bounded("size_bytes", 0, 1 << 44), entry.take("sha256", str)
        if not SHA256.fullmatch(sha256):
            raise BundleError(f"{entry.where}: 'sha256' is {sha256!r:.80}, expected 64 hex digits", REMEDY)
        entries[name] = FileEntry(size_bytes, sha256)
    return entries


def _adapters(reader: Reader, files: Mapping[str, FileEntry]) -> tuple[AdapterSpec, ...]:
    """The LoRA adapters; bundles from before them have no such key."""
    if "adapters" not in reader.data:
        return ()
    found: dict[str, AdapterSpec] = {}
    for adapter in reader.sections("adapters"):
        name, file = adapter.take("name", str), adapter.take("file", str)
        if not ADAPTER_NAME.fullmatch(name) or name in found:
            raise BundleError(
                f"{adapter.where}: the name {name!r:.80} is taken or not plain letters and digits", REMEDY
            )
        if file not in files:
            raise BundleError(f"{adapter.where}: 'files' lists no {file!r:.100}", REMEDY)
        found[name] = AdapterSpec(name, file, adapter.number("scale", -MAX_SCALE, MAX_SCALE))
    return tuple(found.values())
