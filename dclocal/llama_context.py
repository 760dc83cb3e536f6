"""A llama.cpp context whose memory grows with what it holds, up to a limit.

A context's memory is claimed and cleared when it is made, 23 MB for each 1,024 tokens of the embedded model; most
conversations need little of what their model could hold.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from dclocal import llama_kernels
from dclocal.errors import BundleError
from dclocal.kv_state import in_layout
from dclocal.llama_api import llama
from dclocal.llama_log import run_logging

BATCH = 512
FIRST_ROOM = 512
TILE = 64
SEQUENCE = 0


def flash_suits_few() -> bool:
    """Whether flash attention is the quick one for few entries, too: ours is."""
    return llama_kernels.load() and not llama_kernels.attention_declined()


class Context:
    """One sequence of a model's cells, or several apart from each other.

    `pointer` and `memory` are llama.cpp's, and change when the context is made anew; `n_ctx` is the limit of a
    sequence, 0 the model's own.  One sequence's memory grows as it is needed, that of several is there from the start.
    `on_tensor` is llama.cpp's callback on every tensor.  With `flash` attention is the fused one; llama.cpp's own takes
    TILE entries at a time and is slow with fewer.  Raises BundleError where there is not the memory.
    """

    def __init__(
        self,
        model: Any,
        path: Path,
        n_ctx: int,
        threads: int,
        on_tensor: Any = None,
        *,
        sequences: int = 1,
        flash: bool = True,
    ):
        self._model, self._path, self._threads, self._on_tensor = model, path, threads, on_tensor
        self._sequences = sequences
        self.n_ctx = n_ctx or llama.llama_model_n_ctx_train(model)
        self.pointer: Any = None
        room = min(FIRST_ROOM, self.n_ctx) if sequences == 1 else self.n_ctx
        self._use(self._new(room, flash), flash)

    @property
    def alone(self) -> bool:
        """Whether there is one sequence, so that its cells can move to a new context."""
        return self._sequences == 1

    @property
    def memory(self) -> Any:
        """llama.cpp's memory of the cells."""
        return llama.llama_get_memory(self.pointer)

    def make_room(self, cells: int) -> bool:
        """See to it that this many cells of a sequence fit, at most `n_ctx`; whether the context was made anew.

        The cells it holds move; the logits of the last evaluation do not.
        """
        if cells <= self._room:
            return False
        self._move(min(self.n_ctx, max(2 * self._room, -(-cells // BATCH) * BATCH)), self.flash)
        return True

    def use_flash(self, flash: bool) -> None:
        """Change the kind of attention: the context is made anew, and the cells it holds move; see `make_room`.

        Raises BundleError where this model's state is not known to have the other's layout, or there is not the memory;
        then nothing changes.
        """
        self._move(self._room, flash)

    def use_threads(self, threads: int) -> None:
        """Evaluate with so many from now on."""
        self._threads = threads
        llama.llama_set_n_threads(self.pointer, threads, threads)

    def state(self) -> bytes:
        """All cells with what was evaluated in them, for `restore` on the same model."""
        size = llama.llama_state_seq_get_size(self.pointer, SEQUENCE)
        buffer = (ctypes.c_ubyte * size)()
        written = llama.llama_state_seq_get_data(self.pointer, buffer, size, SEQUENCE)
        return ctypes.string_at(buffer, written)

    def restore(self, state: bytes) -> None:
        """Take over the cells of a state in place of those held.  Raises BundleError where it is not this model's."""
        llama.llama_memory_seq_rm(self.memory, SEQUENCE, 0, -1)
        self._fill(self.pointer, in_layout(state, self.flash))

    def close(self) -> None:
        """Give the memory back."""
        if self.pointer:
            llama.llama_free(self.pointer)
        self.pointer = None

    def _move(self, room: int, flash: bool) -> None:
        """Go on in a new context, which is whole before the old one is given back: whatever interrupts this, what the
        cache is known to hold is there."""
        held = in_layout(self.state(), flash)
        new = self._new(room, flash)
        try:
            self._fill(new, held)
        except BaseException:
            llama.llama_free(new)
            raise
        old = self.pointer
        self._use(new, flash)
        llama.llama_free(old)

    def _use(self, pointer: Any, flash: bool) -> None:
        self.pointer, self.flash, self._room = pointer, flash, llama.llama_n_ctx_seq(pointer)
        self.batch = min(BATCH, llama.llama_n_batch(pointer))

    def _fill(self, pointer: Any, state: bytes) -> None:
        buffer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        if not run_logging(llama.llama_state_seq_set_data, pointer, buffer, len(state), SEQUENCE):
            raise BundleError(f"{self._path}: a state of this model could not be taken up", "start anew")

    def _new(self, room: int, flash: bool) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = room * self._sequences, BATCH, BATCH
        params.n_seq_max, params.kv_unified = self._sequences, False
        params.n_threads = params.n_threads_batch = self._threads
        kinds = (llama.LLAMA_FLASH_ATTN_TYPE_DISABLED, llama.LLAMA_FLASH_ATTN_TYPE_ENABLED)
        params.flash_attn_type = kinds[flash]
        params.no_perf = True
        if self._on_tensor is not None:
            params.cb_eval = self._on_tensor
        pointer = run_logging(llama.llama_init_from_model, self._model, params)
        if not pointer:
            raise BundleError(f"{self._path}: no context of {room} tokens could be made", "free memory and try again")
        return pointer
