"""A Hugging Face language model → GGUF → the quantization asked for, each by llama.cpp's own code.

LoRA that is kept apart becomes a GGUF adapter.  Every file is written under a temporary name and renamed; the same
input gives the same bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dclocal.errors import UserError
from dclocal.progress import Progress, silent
from dclocal_export.adapter import LowRank, read_adapter
from dclocal_export.imatrix import imatrix_array, read_imatrix
from dclocal_export.kept_converter import converter_folder, run_converter
from dclocal_export.llm_folder import free_space
from dclocal_export.llm_source import is_stray, weight_files
from dclocal_models.llava_llm import TOKENIZER_FILES
from dclocal_models.llava_weights import read_json

FTYPES = {"f16": 1, "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q4_k_m": 15, "q4_0": 2, "iq4_nl": 25}
"""`--llm` → llama.cpp's file type (`llama_ftype`)."""
BLOCKS = {"q8_0": 32, "q6_k": 256, "q5_k_m": 256, "q4_k_m": 256, "q4_0": 32, "iq4_nl": 32}
"""How many neighbouring values of a row share their scales: a row has to be a multiple."""
OUTTYPES = ("f16", "bf16", "f32")
BYTES = {"f16": 2, "bf16": 2, "f32": 4}


@dataclass(frozen=True)
class Quantized:
    """A quantized file; `types` counts its matrices by type, `fallbacks` maps those whose rows did not allow the
    type asked for to the one that they got, and `note` says so in a sentence ("" where there are none)."""

    path: Path
    kind: str
    size_bytes: int
    bits_per_weight: float
    types: dict[str, int]
    fallbacks: dict[str, str]
    note: str


def convert_to_gguf(
    llm_folder: Path, out: Path, *, outtype: str = "f16", progress: Progress = silent, sources: Path | None = None
) -> Path:
    """Write a Hugging Face folder as GGUF.  `sources`: a folder that may hold the converter's wheel.

    Raises UserError: an architecture or tokenizer that llama.cpp does not know, a damaged folder, no space.
    """
    if outtype not in OUTTYPES:
        raise UserError(f"unknown outtype {outtype!r}", f"known: {', '.join(OUTTYPES)}")
    folder = Path(llm_folder).resolve()
    config = read_json(folder / "config.json")
    if not config.get("architectures"):
        raise UserError(f"{folder / 'config.json'} names no architectures", "export the folder with transformers")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"no tokenizer in {folder}", f"copy {' or '.join(TOKENIZER_FILES)} and what belongs to it")
    stored = sum(file.stat().st_size for file in weight_files(folder))
    needed = stored * BYTES[outtype] // _stored_bytes(config)
    kept = converter_folder(progress, sources)

    def write(part: Path) -> None:
        free_space(part.parent, needed, f"{out.name}")
        with tempfile.TemporaryDirectory(dir=part.parent, prefix=".llm-") as temporary:
            staged = Path(temporary) / "llm"  # a constant name: the converter writes the folder's into the file
            staged.mkdir()
            for file in folder.iterdir():
                if file.is_file() and not is_stray(file):
                    (staged / file.name).symlink_to(file)
            arguments = [str(staged), "--outfile", str(part), "--outtype", outtype, "--model-name", "llm"]
            run_converter("convert", arguments, str(folder), f"converting to {outtype} GGUF", progress, kept)

    return _written(out, write)


def lora_to_gguf(
    adapter: Path, base: Path, out: Path, *, progress: Progress = silent, sources: Path | None = None
) -> Path:
    """Write peft's LoRA of a folder as the GGUF adapter of `base`, the Hugging Face folder that it changes.

    llama.cpp applies it as W + s·alpha/rank·B·A, s being the scale that it is loaded with; 1 is as trained.
    """
    from safetensors.torch import save_file

    changes = read_adapter(adapter)
    alpha, folded = _one_alpha(changes)
    tensors = {}
    for name, change in changes.items():
        tensors[f"{name}.lora_a"] = change.a
        tensors[f"{name}.lora_b"] = change.b * change.scale if folded else change.b
    kept = converter_folder(progress, sources)

    def write(part: Path) -> None:
        with tempfile.TemporaryDirectory(dir=part.parent, prefix=".lora-") as temporary:
            matrices = Path(temporary) / "matrices.safetensors"
            save_file(tensors, matrices, metadata={"alpha": repr(alpha)})
            arguments = [str(matrices), str(Path(base).resolve()), str(part)]
            run_converter("lora", arguments, str(adapter), "writing the adapter", progress, kept)

    return _written(out, write)


def quantize(f16: Path, out: Path, kind: str, *, imatrix: Path | None = None, progress: Progress = silent) -> Quantized:
    """Quantize a 16-bit GGUF by llama.cpp, to a kind in FTYPES; a file of `write_imatrix` weighs what matters.

    Raises UserError for an unknown kind, or with llama.cpp's reason.
    """
    from dclocal.gguf_merge import run_quantizer
    from dclocal.llama_api import llama
    from dclocal.machine import usable_cores

    if kind not in FTYPES:
        raise UserError(f"unknown quantization {kind!r}", f"known: {', '.join(FTYPES)}")
    if not f16.is_file():
        raise UserError(f"there is no {f16}", "convert the language model first")
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.nthread = FTYPES[kind], usable_cores()
    weighed = imatrix_array(read_imatrix(imatrix)) if imatrix is not None else None
    if weighed is not None:
        params.imatrix = weighed
    title = f"quantizing to {kind}"

    def write(part: Path) -> None:
        free_space(part.parent, f16.stat().st_size, out.name)
        why = run_quantizer(f16, part, params, lambda done, total: progress(title, done - 1, total))
        if why:
            raise UserError(f"{f16} cannot be made {kind}: {why[-300:]}", "use q8_0 or f16, or free some disk space")

    _written(out, write)
    progress(title, 1, 1)
    return _described(out, kind)


def _described(file: Path, kind: str) -> Quantized:
    from gguf import GGUFReader

    matrices = [tensor for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1 and tensor.shape[1] > 1]
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in matrices}
    block = BLOCKS.get(kind, 1)
    odd = {tensor.name: types[tensor.name] for tensor in matrices if int(tensor.shape[0]) % block}
    note = ""
    if odd:
        widths = sorted({int(tensor.shape[0]) for tensor in matrices if tensor.name in odd})
        got = " and ".join(f"{count} {name}" for name, count in sorted(Counter(odd.values()).items()))
        note = (
            f"{kind} packs {block} neighbouring values of a row together; rows of {', '.join(map(str, widths))} are no "
            f"multiple of that, so {len(odd)} of {len(matrices)} matrices fell back: {got}"
        )
    bits = 8 * sum(int(tensor.n_bytes) for tensor in matrices) / sum(int(tensor.n_elements) for tensor in matrices)
    counted = dict(sorted(Counter(types.values()).items()))
    return Quantized(file, kind, file.stat().st_size, round(bits, 3), counted, odd, note)


def _written(out: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary file beside `out`, then rename it; raises UserError where that is not allowed."""
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        write(part)
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}", "name another folder") from error
    finally:
        with suppress(OSError):  # the reason is told already
            part.unlink(missing_ok=True)
    return out


def _one_alpha(changes: dict[str, LowRank]) -> tuple[float, bool]:
    """llama.cpp has one alpha a file: that, or 0 (no scaling) with the scales to be folded into B."""
    alphas = {round(change.scale * change.rank, 9) for change in changes.values()}
    return (alphas.pop(), False) if len(alphas) == 1 else (0.0, True)


def _stored_bytes(config: dict[str, Any]) -> int:
    return 4 if "32" in json.dumps(config.get("torch_dtype", config.get("dtype", "float16"))) else 2
