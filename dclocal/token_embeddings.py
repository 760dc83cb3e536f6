"""The embeddings of tokens, as llama.cpp looks them up, so that text can be evaluated in one batch with pictures.

A batch of llama.cpp's holds tokens or embeddings.  A picture between two texts is three batches, and one of a few
tokens reads all weights for little.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.llama_api import ggml, ggml_function, llama

if TYPE_CHECKING:
    import numpy as np

TENSOR = b"token_embd.weight"
ARCHITECTURES = ("llama", "phi2", "qwen2")
"""Those that evaluate a token as the row that is looked up for it; others scale it first, or add to it."""
PLAIN = {"f32": "float32", "f16": "float16"}


class TokenEmbeddings:
    """The rows of a model that llama.cpp has loaded from a GGUF file.

    The file is opened at once, so that it stays the one that was loaded, and its table found when the first row is
    asked for (11 ms).
    """

    def __init__(self, path: Path, model: Any):
        self._file, self._n_embd = path.open("rb"), llama.llama_model_n_embd(model)
        self._usable = architecture(model) in ARCHITECTURES

    def rows(self, ids: Sequence[int]) -> np.ndarray | None:
        """float32 `[len(ids), n_embd]`; None where the model evaluates tokens otherwise, or they are not found."""
        if self._table is None:
            return None
        kind, table = self._table
        import numpy as np

        rows = table[list(ids)]
        if kind in PLAIN:
            return rows.view(PLAIN[kind]).astype("float32")
        values = np.empty((len(rows), self._n_embd), np.float32)
        ggml_function(f"dequantize_row_{kind}", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
            rows.ctypes.data, values.ctypes.data, values.size
        )
        return values

    def close(self) -> None:
        """Close the file; what was read of it stays."""
        self._file.close()

    @cached_property
    def _table(self) -> tuple[str, np.ndarray] | None:
        """ggml's name for the type of the rows, and their bytes, uint8 `[tokens, bytes of a row]`."""
        if not self._usable:
            return None
        import numpy as np

        file = np.memmap(self._file, np.uint8, mode="r")
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        header = ggml_function("gguf_init_from_buffer", pointer, pointer, size, _HeaderAlone)(
            file.ctypes.data, file.size, _HeaderAlone(True)
        )
        if not header:
            return None
        try:
            index = ggml_function("gguf_find_tensor", ctypes.c_int64, pointer, ctypes.c_char_p)(header, TENSOR)
            if index < 0:
                return None
            number, length, offset = (
                ggml_function(f"gguf_get_tensor_{what}", result, pointer, ctypes.c_int64)(header, index)
                for what, result in (("type", ctypes.c_int), ("size", size), ("offset", size))
            )
            start = ggml_function("gguf_get_data_offset", size, pointer)(header) + offset
        finally:
            ggml_function("gguf_free", None, pointer)(header)
        kind = ggml_function("ggml_type_name", ctypes.c_char_p, ctypes.c_int)(number).decode()
        row = ggml_function("ggml_row_size", size, ctypes.c_int, ctypes.c_int64)(number, self._n_embd)
        if kind not in PLAIN and not hasattr(ggml(), f"dequantize_row_{kind}"):
            return None
        return kind, file[start : start + length].reshape(-1, row)


def architecture(model: Any) -> str:
    """What a loaded model's file says it is, such as "llama"."""
    text = ctypes.create_string_buffer(64)
    llama.llama_model_meta_val_str(model, b"general.architecture", text, len(text))
    return text.value.decode(errors="replace")


class _HeaderAlone(ctypes.Structure):
    """ggml's `gguf_init_params`; with `no_alloc` no tensor is read."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))
