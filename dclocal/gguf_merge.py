"""GGUF files: LoRA merged into a quantized model, and quantization through llama.cpp.

LoRA's matrices carry transformers' names.  llama.cpp keeps the query and key rows of Llama models in another
order (its rotary embedding pairs neighbours, transformers' pairs halves), so those deltas are reordered.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, GGUFWriter

# transformers' module → (llama.cpp's tensor, metadata key of the heads whose rows are reordered)
MODULES = {
    "self_attn.q_proj": ("attn_q", "attention.head_count"),
    "self_attn.k_proj": ("attn_k", "attention.head_count_kv"),
    "self_attn.v_proj": ("attn_v", None),
    "self_attn.o_proj": ("attn_output", None),
    "mlp.gate_proj": ("ffn_gate", None),
    "mlp.up_proj": ("ffn_up", None),
    "mlp.down_proj": ("ffn_down", None),
}
TENSOR_LINE = re.compile(r"\[ *(\d+)/ *(\d+)\] ")
"""How llama.cpp tells which tensor it comes to."""
# llama.cpp's file types; the token embedding, which is the output matrix too, keeps eight bits.
QUANTIZATIONS = {"f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "iq4_nl": 25}
MIXTURES = {"iq4_mix": ("iq4_nl", {"ffn_down": "Q4_K", "attn_[kv]": "Q8_0"})}
"""By name: how most matrices are quantized, and ggml's type of those whose names match a pattern.  What the package has
was rounded with a least value for every 32 weights, as Q4_K has; it takes rows of a multiple of 256, which are those of
ffn_down alone.  Keys and values are few.  docs/dc-tiny.md has what each is worth."""


def open_gguf(file: Path) -> GGUFReader:
    """The file's tensors and metadata.  Takes seconds where the vocabulary has 50,000 words: open a file once."""
    from gguf import GGUFReader

    return GGUFReader(file)


def merge_lora(
    reader: GGUFReader,
    lora: Mapping[str, np.ndarray],
    scale: float,
    out: Path,
    on_tensor: Callable[[int, int], None],
) -> None:
    """Write the language model with W + scale·B·A for each adapted matrix, those as float16, the rest as it is.

    `lora` maps "layers.N.MODULE.A" to `[rank, inputs]` and "….B" to `[outputs, rank]`.  Raises BundleError
    where a matrix has no tensor to go to.
    """
    import numpy as np
    from gguf import GGUFWriter
    from gguf.quants import dequantize

    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise BundleError(f"the GGUF has architecture {architecture}, expected llama", "use the pinned package")
    deltas = _tensor_deltas(lora, reader, architecture)
    writer = GGUFWriter(out, architecture)
    _copy_metadata(reader, writer)
    for index, tensor in enumerate(reader.tensors):
        delta = deltas.pop(tensor.name, None)
        if delta is None:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            a, b, heads = delta
            change = scale * (b.astype(np.float32) @ a.astype(np.float32))
            base = dequantize(tensor.data, tensor.tensor_type).reshape(change.shape)
            writer.add_tensor(tensor.name, (base + _reorder(change, heads)).astype(np.float16))
        on_tensor(index + 1, len(reader.tensors))
    if deltas:
        raise BundleError(f"the GGUF has no tensor {sorted(deltas)[0]} for the adapter", "use the pinned package")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def token_embeddings(reader: GGUFReader) -> np.ndarray:
    """The language model's input embeddings, `[vocabulary, n_embd]`, float32."""
    from gguf.quants import dequantize

    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            return dequantize(tensor.data, tensor.tensor_type)
    raise BundleError("the GGUF has no token embeddings", "use the pinned package")


def quantize_gguf(
    source: Path, out: Path, quantization: str, on_tensor: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """llama.cpp's own quantization; `quantization` is a name in QUANTIZATIONS or MIXTURES."""
    from dclocal.llama_api import llama
    from dclocal.machine import usable_cores

    most, others = MIXTURES.get(quantization, (quantization, {}))
    if most not in QUANTIZATIONS:
        known = ", ".join([*QUANTIZATIONS, *MIXTURES])
        raise BundleError(f"unknown quantization {quantization!r}", f"known: {known}")
    params = llama.llama_model_quantize_default_params()
    params.ftype = QUANTIZATIONS[most]
    params.allow_requantize = True
    params.nthread = usable_cores()
    params.token_embedding_type = params.output_tensor_type = llama.GGML_TYPE_Q8_0
    overrides = (llama.llama_model_tensor_override * (len(others) + 1))()  # ends with an empty one
    for override, (pattern, kind) in zip(overrides, others.items()):
        override.pattern, override.type = pattern.encode(), getattr(llama, f"GGML_TYPE_{kind}")
    params.tt_overrides = ctypes.cast(overrides, ctypes.POINTER(llama.llama_model_tensor_override))
    reason = run_quantizer(source, out, params, on_tensor)
    if reason:
        raise BundleError(f"llama.cpp could not quantize {source}: {reason[-200:]}", "see the free disk space")


def run_quantizer(source: Path, out: Path, params: Any, on_tensor: Callable[[int, int], None]) -> str:
    """Let llama.cpp quantize a file, tensor by tensor; its reason where it failed, else nothing."""
    from dclocal.llama_api import llama
    from dclocal.llama_log import capture_log, is_zero, run_logging

    def told(line: str) -> None:
        found = TENSOR_LINE.match(line)
        if found:
            on_tensor(int(found[1]), int(found[2]))

    files = os.fsencode(source), os.fsencode(out)
    if is_zero(run_logging(llama.llama_model_quantize, *files, params, succeeded=is_zero, on_line=told)):
        return ""
    return " ".join(capture_log().errors) or "llama.cpp gave no reason"


def _tensor_deltas(
    lora: Mapping[str, np.ndarray], reader: GGUFReader, architecture: str
) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """llama.cpp's tensor name → (A, B, heads to reorder by or 0)."""
    deltas = {}
    for name in lora:
        if not name.endswith(".A"):
            continue
        _, layer, module = name.removesuffix(".A").split(".", 2)
        tensor, heads_key = MODULES[module]
        heads = int(_field(reader, f"{architecture}.{heads_key}")) if heads_key else 0
        deltas[f"blk.{layer}.{tensor}.weight"] = (lora[name], lora[f"{name[:-1]}B"], heads)
    return deltas


def _reorder(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows from transformers' order (halves of each head) to llama.cpp's (pairs)."""
    if not heads:
        return matrix
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _field(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    if field is None:
        raise BundleError(f"the GGUF has no {name}", "use the pinned package")
    return field.contents()


def _copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    from gguf import GGUFValueType

    made_by_writer = ("general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in made_by_writer:
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
