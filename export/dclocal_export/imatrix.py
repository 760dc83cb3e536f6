"""Importance matrix: how strongly each column of each weight is used, on the user's own texts and pictures.

llama.cpp calls back for every tensor that it computes (`cb_eval`); the inputs of matrix products are squared and
summed by column, as its own `llama-imatrix` does, and the file is in that program's GGUF layout.  Expert layers
(MUL_MAT_ID) are not collected: they are quantized without weighing.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dclocal.errors import UserError
from dclocal.kv_cache import KVCache
from dclocal.llama_api import ggml, llama
from dclocal.llama_context import SEQUENCE, Context
from dclocal.llm import LLM
from dclocal.progress import Progress, silent
from dclocal.prompt import Embeds, Segment, Tokens

MAX_TOKENS = 512
GGML_TYPE_F32 = 0
SUMS, COUNTS = ".in_sum2", ".counts"


class _Tensor(ctypes.Structure):
    """ggml_tensor up to its name, as ggml.h of the pinned llama-cpp-python lays it out; `_guard` checks it."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


@functools.cache
def _ggml() -> Any:
    """The library's own functions on tensors."""
    library = ggml()
    library.ggml_get_name.restype = library.ggml_op_desc.restype = ctypes.c_char_p
    library.ggml_nbytes.restype = ctypes.c_size_t
    for function in (library.ggml_get_name, library.ggml_op_desc, library.ggml_nbytes):
        function.argtypes = [ctypes.c_void_p]
    library.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    library.ggml_backend_tensor_get.restype = None
    return library


class _EveryPosition(KVCache):
    """A cache that wants every position's logits, else the last layer computes one position alone, and no others."""

    def _spare(self, count: int) -> int:
        return 0

    def _decode(self, batch: Any, cells: Sequence[Any], want_logits: bool, every: bool = False) -> None:
        super()._decode(batch, cells, True, True)


class _Collector(LLM):
    """A language model whose matrix products are watched."""

    def __init__(self, path: Path, *, n_ctx: int):
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}
        self.failure: Exception | None = None
        self._callback = llama.ggml_backend_sched_eval_callback(self._watch)
        super().__init__(path, n_ctx=n_ctx)
        self._cache = _EveryPosition(self._opened, SEQUENCE, self.n_embd, self.token_rows)

    def _open_context(self, path: Path, n_ctx: int, threads: int, flash: bool) -> Context:
        return Context(self.model.pointer, path, n_ctx, threads, on_tensor=self._callback, flash=flash)

    def _watch(self, address: int, ask: bool, _: int) -> bool:
        """llama.cpp asks first whether the tensor is wanted, and comes again once it is computed."""
        try:
            if _ggml().ggml_op_desc(address) != b"MUL_MAT":
                return not ask
            tensor = _Tensor.from_address(address)
            weight = _Tensor.from_address(tensor.src[0])
            if _ggml().ggml_get_name(tensor.src[0]) != weight.name:
                raise RuntimeError("ggml lays tensors out otherwise than llama-cpp-python 0.3.36 does")
            name = weight.name.decode()
            if not name.endswith(".weight"):
                return not ask
            if not ask:
                self._add(name, tensor.src[1])
            return True
        except Exception as error:  # nothing may pass through C; `write_imatrix` raises it
            self.failure = error
            return not ask

    def _add(self, name: str, address: int) -> None:
        inputs = _Tensor.from_address(address)
        width = inputs.ne[0]
        size = _ggml().ggml_nbytes(address)
        if inputs.type != GGML_TYPE_F32 or size % (4 * width) or inputs.nb[1] != 4 * width:
            return
        values = np.empty(size // 4, np.float32)
        _ggml().ggml_backend_tensor_get(address, values.ctypes.data, 0, size)
        rows = values.reshape(-1, width)
        squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        self.sums[name] = self.sums.get(name, 0) + squares
        self.counts[name] = self.counts.get(name, 0) + len(rows)


def write_imatrix(
    gguf: Path, texts: Sequence[str], images: Sequence[np.ndarray], out: Path, *, progress: Progress = silent
) -> Path:
    """Collect on `texts`, each after one of `images` (embeddings, float32 `[tokens, n_embd]`) in turn, and write it.

    Raises UserError where there is nothing to collect on, or a value is not finite.
    """
    count = max(len(texts), len(images))
    if not count:
        raise UserError("an importance matrix needs texts or pictures", "name some of your own")
    longest = max((len(image) for image in images), default=0)
    with closing(_Collector(gguf, n_ctx=longest + MAX_TOKENS + 8)) as llm:
        for index in range(count):
            prompt: list[Segment] = []
            if images:
                picture = index % len(images)
                prompt.append(Embeds(f"imatrix {picture}", images[picture]))
            if texts:
                ids = llm.tokenize(texts[index % len(texts)], False)[:MAX_TOKENS]
                prompt += [Tokens(tuple(ids))] * bool(ids)
            llm.forget()
            llm.prefill(prompt)
            if llm.failure is not None:
                raise llm.failure
            progress("collecting the importance matrix", index + 1, count)
        _write(out, llm.sums, llm.counts, count)
    return out


def _write(out: Path, sums: Mapping[str, np.ndarray], counts: Mapping[str, int], chunks: int) -> None:
    from gguf import GGUFWriter

    broken = [name for name, values in sums.items() if not np.isfinite(values).all()]
    if broken:
        raise UserError(f"the inputs of {broken[0]} are not finite", "the checkpoint is damaged, or an image is")
    part = out.with_name(out.name + ".part")
    writer = GGUFWriter(part, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["own texts and pictures"])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", MAX_TOKENS)
    for name in sorted(sums):
        writer.add_tensor(name + SUMS, sums[name].astype(np.float32).reshape(1, -1))
        writer.add_tensor(name + COUNTS, np.array([[counts[name]]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(out)


def read_imatrix(file: Path) -> dict[str, np.ndarray]:
    """Weight name → mean square of each input column, float32; raises UserError for another kind of file."""
    from gguf import GGUFReader

    try:
        tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in GGUFReader(file).tensors}
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{file} is no importance matrix ({error})", "make one with write_imatrix") from error
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    if not names or any(name + COUNTS not in tensors for name in names):
        raise UserError(f"{file} holds no importance matrix", "make one with write_imatrix")
    return {name: (tensors[name + SUMS] / tensors[name + COUNTS].reshape(-1, 1)).reshape(-1) for name in names}


def imatrix_array(values: Mapping[str, np.ndarray]) -> Any:
    """What `llama_model_quantize` takes: an array that a nameless entry ends.  It keeps `values` alive."""
    array = (llama.llama_model_imatrix_data * (len(values) + 1))()
    kept = [np.ascontiguousarray(column, np.float32) for column in values.values()]
    for entry, name, column in zip(array, values, kept):
        entry.name = name.encode()
        entry.data = column.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = column.size
    array.kept = kept
    return array
