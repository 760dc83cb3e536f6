"""llama.cpp by itself: its C functions in a tight loop on the same file, as llama-bench times them.

Nothing of ours is between: no record of the cache, no sampling, no text; and in a process of its own, its own kernels.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from dclocal.child_python import child_command
from dclocal.compiled import SWITCH
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
        try:
            self._open(path, n_ctx, threads)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, n_ctx: int, threads: int) -> None:
        n_vocab = llama.llama_vocab_n_tokens(self._model.vocab)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, BATCH, MICRO_BATCH
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = run_logging(llama.llama_init_from_model, self._model.pointer, params)
        if not self._context:
            raise BundleError(f"{path}: no context of {n_ctx} tokens could be made", "free memory and try again")
        self._memory: Any = llama.llama_get_memory(self._context)
        self._ids: np.ndarray = np.random.default_rng(0).integers(0, n_vocab, n_ctx, dtype=np.int32)

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
        self._model.close()
        self._context = None

    def __enter__(self) -> BareLlama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LlamaAside:
    """A `BareLlama` in a process of its own, where llama.cpp has its own kernels; milliseconds of its work.

    Raises BundleError where it does not open the file.
    """

    def __init__(self, path: Path, n_ctx: int, threads: int):
        self._process = subprocess.Popen(
            child_command(__name__, str(path), str(n_ctx), str(threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, SWITCH: "0"},
        )
        try:
            self._answer()
        except RuntimeError as error:
            self.close()
            raise BundleError(f"{path}: llama.cpp does not open it by itself", "look above for why") from error

    def prefill(self, tokens: int) -> float:
        return self._ask(f"prefill {tokens}")

    def decode(self, tokens: int, start: int) -> float:
        return self._ask(f"decode {tokens} {start}")

    def _ask(self, work: str) -> float:
        assert self._process.stdin is not None
        print(work, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("llama.cpp's process ended")
        return float(line)

    def close(self) -> None:
        """Have the process end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> LlamaAside:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(path: str, n_ctx: str, threads: str) -> None:
    """Do what each line on stdin says, and say how long it took."""
    with BareLlama(Path(path), int(n_ctx), int(threads)) as bare:
        print(0.0, flush=True)
        for line in sys.stdin:
            work, *numbers = line.split()
            started = time.perf_counter()
            getattr(bare, work)(*map(int, numbers))
            print(1000 * (time.perf_counter() - started), flush=True)
