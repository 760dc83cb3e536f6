"""A checkpoint's language model as a plain Hugging Face folder, streamed: never more than one shard in memory.

Weights go through in pieces of PIECE elements, so beyond the pages of the shard that is being read, and the LoRA
matrices, the work takes WORKING_BYTES at most.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dclocal.errors import UserError
from dclocal.progress import Progress
from dclocal_export.adapter import LowRank, read_adapter, require_targets
from dclocal_export.llm_source import SIDE_FILES, LlmSource, find_llm, is_stray, plain_config
from dclocal_models.checkpoint import ADAPTER_FOLDER, CheckpointError
from dclocal_models.llava_weights import COPY_AGAIN, Stored, brief, open_file, split_parts

PIECE = 1 << 21
WORKING_BYTES = 128 << 20
"""A piece as float32, as the product B·A, as their sum and as bytes, and what torch keeps."""
FLOAT16_MAX = 65504.0
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
STEP = "writing the language model"


@dataclass(frozen=True)
class LlmFolder:
    """What was made: the folder, `adapter` where LoRA was kept apart, and how many weights it was merged into.

    `in_place`: the folder is the checkpoint's own (or base's), which nothing was written to.
    """

    path: Path
    adapter: Path | None
    kind: str
    model_type: str
    in_place: bool
    merged: int
    tensors: int


@dataclass
class _Job:
    """What is done to each tensor, and how far it is."""

    source: LlmSource
    changes: Mapping[str, LowRank]
    progress: Progress
    total: int = 0
    done: int = 0
    placed: dict[str, str] = field(default_factory=dict)


def write_llm_folder(
    checkpoint: Path, out: Path, *, base: Path | None = None, merge_lora: bool = True, progress: Progress
) -> LlmFolder:
    """The language model as transformers would have saved it, LoRA merged as W + scale·B·A in float32 or kept apart.

    Where nothing changes, no file is written and the folder that is there is named.  Tied embeddings stay tied.
    Raises CheckpointError for tensors that are missing, damaged, not finite or beyond float16; UserError where
    `out` cannot be written.
    """
    source = find_llm(Path(checkpoint), Path(base) if base is not None else None)
    changes = read_adapter(source.adapter) if source.adapter is not None and merge_lora else {}
    adapter = None if merge_lora else source.adapter
    job = _Job(source, changes, progress)
    shapes = _survey(job)
    require_targets(changes, shapes, str(source.weights))
    in_place = source.plain and not changes
    if in_place:
        for file in source.files():
            _pass(job, file, None)
    else:
        _write_all(job, out)
    return LlmFolder(
        source.weights if in_place else out,
        adapter,
        source.kind,
        source.config.model_type,
        in_place,
        len(changes),
        len(shapes),
    )


def separate_adapter(checkpoint: Path) -> Path | None:
    """The folder of a checkpoint's LoRA, or None where it has none."""
    for folder in (checkpoint / ADAPTER_FOLDER, checkpoint):
        if (folder / "adapter_config.json").is_file():
            return folder
    return None


def free_space(folder: Path, wanted: int, what: str) -> None:
    """Refuse to start what the disk cannot hold; raises UserError."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise UserError(f"{what} takes {wanted >> 20:,} MiB, {folder} has {free >> 20:,} MiB free", "free some")


def _survey(job: _Job) -> dict[str, tuple[int, ...]]:
    """Shapes by name; counts the elements to come."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in job.source.files():
        for name, stored in _wanted(job.source, file).items():
            shapes[name] = stored.shape
            job.total += _count(stored.shape)
    return shapes


def _write_all(job: _Job, out: Path) -> None:
    """Every shard, then the config and the tokenizer, under a temporary name."""
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        free_space(part, sum(file.stat().st_size for file in job.source.files()), STEP)
        files = job.source.files()
        for number, file in enumerate(files, 1):
            _pass(job, file, part / f"model-{number:05}-of-{len(files):05}.safetensors")
        index = {"metadata": {}, "weight_map": dict(sorted(job.placed.items()))}
        (part / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (part / "config.json").write_text(plain_config(job.source), encoding="utf-8")
        for name in SIDE_FILES:
            file = job.source.tokenizer / name
            if file.is_file() and not is_stray(file):
                shutil.copyfile(file, part / name)
        if out.exists():
            out.rmdir()
        part.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}", "name another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _pass(job: _Job, file: Path, out: Path | None) -> None:
    """One file's tensors checked and, with `out`, written; its memory is given back before the next."""
    tensors = _wanted(job.source, file)
    if out is None:
        for name, stored in tensors.items():
            for _ in _pieces(job, name, stored):
                pass
        return
    if not tensors:
        return
    with out.open("wb") as target:
        target.write(_header(tensors))
        for name, stored in tensors.items():
            for piece in _pieces(job, name, stored):
                target.write(piece.contiguous().view(torch.uint8).numpy().data)
        target.flush()
        os.fsync(target.fileno())
    job.placed.update(dict.fromkeys(tensors, out.name))


def _wanted(source: LlmSource, file: Path) -> dict[str, Stored]:
    """The language model's tensors of one file, sorted, tied ones left out, changed ones in their place."""
    tensors = {**split_parts(open_file(file))["llm"], **source.changed_in(file)}
    return {name: tensors[name] for name in sorted(tensors) if name not in source.tied}


def _header(tensors: Mapping[str, Stored]) -> bytes:
    """The head of a safetensors file: 8 bytes of length, then JSON, padded to 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, stored in tensors.items():
        dtype = _read(name, stored).dtype
        end = position + _count(stored.shape) * dtype.itemsize
        entries[name] = {"dtype": DTYPES[dtype], "shape": list(stored.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(job: _Job, name: str, stored: Stored) -> Iterator[Tensor]:
    """The tensor's rows in pieces, LoRA added where it applies, each known to be finite."""
    tensor = _read(name, stored)
    change = job.changes.get(name)
    rows = tensor.reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor.reshape(1, -1)
    step = max(1, PIECE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        if change is not None:
            _require_finite(name, piece, "")
            merged = piece.float() + change.scale * (change.b[start : start + step] @ change.a)
            piece = merged.to(tensor.dtype)
        _require_finite(name, piece, " after LoRA was merged" if change is not None else "")
        yield piece
        job.done += piece.numel()
        job.progress(STEP, job.done, job.total)


def _require_finite(name: str, piece: Tensor, when: str) -> None:
    if not piece.numel():
        return
    low, high = (float(value) for value in piece.aminmax())
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise CheckpointError(f"{name} holds NaN or infinity{when}", "its training failed: take an earlier checkpoint")
    if max(-low, high) > FLOAT16_MAX:
        raise CheckpointError(f"{name} holds {max(-low, high):.3g}{when}, beyond float16's 65504", "train it again")


def _read(name: str, stored: Stored) -> Tensor:
    """The tensor where it lies in its file, not copied; raises CheckpointError."""
    try:
        tensor = stored.read()
    except Exception as error:  # safetensors has an exception class of its own
        raise CheckpointError(f"{name} cannot be read ({brief(error)})", COPY_AGAIN) from error
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{name} is {tensor.dtype}", "quantized weights cannot be exported: give 16 bits")
    return tensor


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
