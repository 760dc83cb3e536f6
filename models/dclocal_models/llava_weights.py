"""Tensors of a LLaVA-layout checkpoint: known by name and shape first, then read one at a time.

What a folder holds (`open_weights`), which tensor belongs to which part (`split_parts`), and putting them into a
module that has no memory yet (`load_part`), so that no part is twice in memory.  Files are untrusted: pickles
are opened for tensors alone, and nothing is read or allocated before its shape is the expected one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dclocal_models.checkpoint import CheckpointError, require_fit, some

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_SUFFIX = ".index.json"
MAX_JSON_BYTES = 64 << 20
MAX_HEADER_BYTES = 32 << 20
"""A safetensors header beyond this is refused: that of a 70B model has 100 KB."""
COPY_AGAIN = "it is truncated or damaged: copy it again"

PARTS = {
    "model.mm_projector.": "connector",
    "model.vlm_uni_": "connector",
    "model.image_newline": "newline",
    "model.vision_tower.": "tower",
    "model.vision_tower_aux.": "aux",
}
"""The first letters of a tensor's name and the part it belongs to; all others are the language model's."""
RECOMPUTED = re.compile(r".*(rotary_emb\.inv_freq|embeddings\.position_ids)")
"""Tensors that older versions of transformers stored and that are computed now."""

CONNECTOR_NAMES = {
    "projector.": "model.mm_projector.",
    "mining.query.": "model.vlm_uni_query_projector.",
    "mining.key.": "model.vlm_uni_aux_projector.",
    "mining.value.": "model.vlm_uni_val_projector.",
}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def brief(error: Exception) -> str:
    """A library's error as part of one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{file} has {file.stat().st_size:,} bytes", "it is no configuration: copy it again")
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({brief(error)})", COPY_AGAIN) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds {data!r:.40}, expected a JSON object", COPY_AGAIN)
    return data


def has_weights(folder: Path) -> bool:
    """Whether the folder holds a whole model's weights, single or sharded."""
    return any((folder / name).is_file() or (folder / (name + INDEX_SUFFIX)).is_file() for name in WEIGHT_FILES)


def open_weights(folder: Path) -> dict[str, Stored]:
    """All tensors of a model's folder, safetensors before pickles; raises CheckpointError."""
    for name in WEIGHT_FILES:
        if (folder / (name + INDEX_SUFFIX)).is_file():
            return _open_shards(folder, folder / (name + INDEX_SUFFIX))
        if (folder / name).is_file():
            return open_file(folder / name)
    known = ", ".join(f"{name}[{INDEX_SUFFIX}]" for name in WEIGHT_FILES)
    raise CheckpointError(f"{folder} holds no weights; expected one of {known}", "copy the whole folder")


def open_either(folder: Path, stem: str) -> dict[str, Stored]:
    """The tensors of `stem`.safetensors or `stem`.bin; raises CheckpointError."""
    for suffix in (".safetensors", ".bin"):
        if (folder / (stem + suffix)).is_file():
            return open_file(folder / (stem + suffix))
    raise CheckpointError(f"{folder} has neither {stem}.safetensors nor {stem}.bin", "copy the whole folder")


def open_file(file: Path) -> dict[str, Stored]:
    """The tensors of one file, those left out that are computed nowadays; raises CheckpointError."""
    opened = _open_safetensors(file) if file.suffix == ".safetensors" else _open_pickle(file)
    return {name: stored for name, stored in opened.items() if not RECOMPUTED.fullmatch(name)}


def split_parts(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    """Tensors by part: "llm", "connector", "newline", "tower", "aux"."""
    parts: dict[str, dict[str, Stored]] = {part: {} for part in ("llm", *PARTS.values())}
    for name, stored in tensors.items():
        part = next((part for prefix, part in PARTS.items() if name.startswith(prefix)), "llm")
        parts[part][name] = stored
    return parts


def full_name(name: str) -> str:
    """A tensor's name in a full checkpoint, for one out of `mm_projector.bin` or `non_lora_trainables.bin`."""
    name = name.removeprefix("base_model.")
    if name.startswith(("model.model.", "model.lm_head.")):
        name = name.removeprefix("model.")
    return name if name.startswith(("model.", "lm_head.")) else f"model.{name}"


def connector_name(ours: str) -> str:
    """What the layout calls a parameter of our connector."""
    prefix = next((prefix for prefix in CONNECTOR_NAMES if ours.startswith(prefix)), "")
    return CONNECTOR_NAMES.get(prefix, "") + ours.removeprefix(prefix)


def load_part(
    module: nn.Module,
    tensors: Mapping[str, Stored],
    where: str,
    *,
    name_of: Callable[[str], str] = str,
    dtype: torch.dtype = torch.float32,
    without: Mapping[str, Tensor] | None = None,
    finite: bool = False,
) -> None:
    """Read `tensors` into `module`, whose parameters may be on the meta device.

    `name_of` says what the file calls a parameter of ours; `without` holds values of parameters that no file has;
    `finite` refuses NaN and infinity.  Raises CheckpointError.
    """
    given = dict(without or {})
    wanted = {name_of(name): value for name, value in module.state_dict().items() if name not in given}
    require_fit(wanted, tensors, where)
    for name in module.state_dict():
        if name not in given:
            given[name] = read_tensor(tensors[name_of(name)], name_of(name), dtype, finite)
    module.load_state_dict(given, assign=True)


def read_tensor(stored: Stored, name: str, dtype: torch.dtype, finite: bool = False) -> Tensor:
    """A tensor's own copy in memory; raises CheckpointError where it is no plain number array."""
    try:
        tensor = stored.read()
    except Exception as error:  # safetensors has an exception class of its own
        raise CheckpointError(f"{name} cannot be read ({brief(error)})", COPY_AGAIN) from error
    if not tensor.is_floating_point():
        raise CheckpointError(f"{name} is {tensor.dtype}", "quantized weights cannot be opened: give those in 16 bits")
    if finite and not torch.isfinite(tensor).all():
        raise CheckpointError(f"{name} holds NaN or infinity", "its training failed: take an earlier checkpoint")
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _open_shards(folder: Path, index_file: Path) -> dict[str, Stored]:
    """The tensors that an index spreads over shards beside it."""
    index = read_json(index_file).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
        raise CheckpointError(f"{index_file} has no weight_map of names to files", COPY_AGAIN)
    shards = sorted(set(index.values()))
    outside = [shard for shard in shards if not shard or re.search(r"[/\\:\0]", shard) or shard in (".", "..")]
    if outside:
        raise CheckpointError(f"{index_file} names files outside of its folder: {some(outside)}", "do not trust it")
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {some(absent)}, which {index_file.name} names", "copy them too")
    tensors: dict[str, Stored] = {}
    for shard in shards:
        opened = open_file(folder / shard)
        expected = [name for name, place in index.items() if place == shard and not RECOMPUTED.fullmatch(name)]
        lost = sorted(name for name in expected if name not in opened)
        if lost:
            raise CheckpointError(f"{folder / shard} lacks {some(lost)}, which {index_file.name} names", COPY_AGAIN)
        tensors |= {name: stored for name, stored in opened.items() if index.get(name, shard) == shard}
    return tensors


def _open_safetensors(file: Path) -> dict[str, Stored]:
    from safetensors import safe_open

    try:
        with file.open("rb") as head:
            size = int.from_bytes(head.read(8), "little")
        if size > min(MAX_HEADER_BYTES, file.stat().st_size):
            raise ValueError(f"its header claims {size:,} bytes")
        handle = safe_open(file, "pt")
        return {
            name: Stored(tuple(handle.get_slice(name).get_shape()), partial(handle.get_tensor, name))
            for name in handle.keys()  # noqa: SIM118 — no mapping
        }
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read ({brief(error)})", COPY_AGAIN) from error


def _open_pickle(file: Path) -> dict[str, Stored]:
    try:
        data = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        remedy = "it is damaged, of an old format, or holds more than tensors: get it as safetensors"
        raise CheckpointError(f"{file} was refused ({brief(error)})", remedy) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds a {type(data).__name__}, expected tensors by name", COPY_AGAIN)
    for name, value in data.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{file}: {name!r:.60} is no plain tensor", "get it as safetensors")
    return {name: Stored(tuple(value.shape), value.detach) for name, value in data.items()}
