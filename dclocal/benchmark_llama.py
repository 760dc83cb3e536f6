"""llama.cpp by itself: its C functions in a tight loop on the same file, as llama-bench times them.

Nothing of ours is between: no record of the cache, no sampling, no text.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from dclocal.errors import BundleError
from dclocal.llama_api import llama
from dclocal.llama_log import run_logging
from dclocal.llama_model import load_model

BATCH, MICRO_BATCH = 2048, 512
"""llama-bench's own defaults."""


class BareLlama:
    """A GGUF model on the processor, its weights in the layouts that we use, otherwise with llama.cpp's default
    settings, and `threads` threads.  Raises BundleError."""

    def __init__(self, path: Path, n_ctx: int, threads: int):
        self._context = None
        self._model = load_model(path)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, BATCH, MICRO_BATCH
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = run_logging(llama.llama_init_from_model, self._model, params)
        if not self._context:
            self.close()
            raise BundleError(f"{path}: no context of {n_ctx} tokens could be made", "free memory and try again")
        self._memory = llama.llama_get_memory(self._context)
        n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._ids = np.random.default_rng(0).integers(0, n_vocab, n_ctx, dtype=np.int32)

    def prefill(self, tokens: int) -> None:
        """llama-bench's "pp": evaluate `tokens` random tokens from an empty cache."""
        llama.llama_memory_clear(self._memory, True)
        for start in range(0, tokens, BATCH):
            self._evaluate(start, min(BATCH, tokens - start))
        llama.llama_synchronize(self._context)

    def decode(self, tokens: int, start: int) -> None:
        """llama-bench's "tg": evaluate `tokens` random tokens one by one; of these `start` is the first's place."""
        for position in range(start, start + tokens):
            self._evaluate(position, 1)
            llama.llama_synchronize(self._context)

    def _evaluate(self, start: int, count: int) -> None:
        ids = self._ids[start : start + count].ctypes.data_as(ctypes.POINTER(llama.llama_token))
        status = llama.llama_decode(self._context, llama.llama_batch_get_one(ids, count))
        if status:
            raise RuntimeError(f"llama.cpp could not evaluate {count} tokens (status {status})")

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            llama.llama_free(self._context)
        if self._model:
            llama.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> BareLlama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
