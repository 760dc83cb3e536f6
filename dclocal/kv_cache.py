"""The KV cache of one sequence: which cells it holds, and how a prompt's segments come into it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dclocal.cells import Cell, Prefill, plan_prefill
from dclocal.errors import BundleError
from dclocal.llama_api import llama
from dclocal.prompt import Embeds, Segment

if TYPE_CHECKING:
    from dclocal.llama_context import Context


class KVCache:
    """The cells of sequence `sequence` of a context, each a token id or a row of an image, for at most `n_ctx` of them.

    `renewed` is called after the context was made anew, because it had to grow.
    """

    def __init__(self, context: Context, sequence: int, n_embd: int, renewed: Callable[[], None] = lambda: None):
        self._context, self.sequence, self._n_embd, self._renewed = context, sequence, n_embd, renewed
        self.cells: list[Cell] = []
        self.evaluated_tokens = 0

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        """Make the cache hold exactly these segments, with the logits of the last; see `LLM.prefill`."""
        for segment in segments:
            if isinstance(segment, Embeds):
                self._check_embeds(segment.values)
        wanted, plan = plan_prefill(self.cells, segments, self._context.n_ctx)
        self.forget_from(plan.reused)
        start = 0
        for segment in segments:
            end = start + len(segment)
            if end > plan.reused:
                skip = max(0, plan.reused - start)
                last = end == len(wanted)
                if isinstance(segment, Embeds):
                    self._evaluate_embeds(segment, skip, last)
                else:
                    self.evaluate_tokens(segment.ids[skip:], last)
            start = end
        return plan

    def forget_from(self, position: int) -> None:
        """Drop the cells from `position` on, and whatever an interrupted evaluation left behind them."""
        del self.cells[position:]
        if not llama.llama_memory_seq_rm(self._context.memory, self.sequence, position, -1):
            raise BundleError("this model's memory cannot be cut", "export it with an attention-based language model")

    def make_room(self, cells: int) -> None:
        """See to it that this many fit."""
        if self._context.make_room(cells):
            self._renewed()

    def evaluate_tokens(self, ids: Sequence[int], want_logits: bool, every: bool = False) -> None:
        """Evaluate tokens after what the cache holds: with the last one's logits, or every one's of the last batch."""
        for start in range(0, len(ids), self._context.batch):
            run = ids[start : start + self._context.batch]
            batch = token_batch(run)
            self._decode(batch, run, want_logits and start + len(run) == len(ids), every)

    def _check_embeds(self, values: np.ndarray) -> None:
        if values.ndim != 2 or values.shape[1] != self._n_embd or values.dtype != np.float32:
            raise ValueError(
                f"image embeddings are {values.dtype} {values.shape}; expected float32 [tokens, {self._n_embd}]"
            )

    def _evaluate_embeds(self, segment: Embeds, skip: int, want_logits: bool) -> None:
        values = np.ascontiguousarray(segment.values)
        for start in range(skip, len(values), self._context.batch):
            rows = values[start : start + self._context.batch]
            batch = llama.llama_batch_init(len(rows), self._n_embd, 1)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            cells: list[Cell] = [(segment.key, row) for row in range(start, start + len(rows))]
            self._decode(batch, cells, want_logits and start + len(rows) == len(values))

    def _decode(self, batch: Any, cells: Sequence[Cell], want_logits: bool, every: bool = False) -> None:
        """Evaluate a batch after what the cache holds, record it and free it; `every` position's logits, or the last's.

        Interrupted between the two, the cache holds more than the record: the next `prefill` cuts it off.
        """
        position = len(self.cells)
        try:
            self.make_room(position + len(cells))
            for index in range(len(cells)):
                place(batch, index, position + index, self.sequence, every)
            batch.logits[len(cells) - 1] = want_logits
            evaluate(self._context, batch, len(cells))
            self.record(cells)
        finally:
            llama.llama_batch_free(batch)

    def record(self, cells: Sequence[Cell]) -> None:
        """These were evaluated after what the cache holds."""
        self.cells += cells
        self.evaluated_tokens += len(cells)


def token_batch(ids: Sequence[int]) -> Any:
    """A batch of llama.cpp's with these tokens, to be placed and freed."""
    batch = llama.llama_batch_init(len(ids), 0, 1)
    values = np.array(ids, dtype=np.int32)
    ctypes.memmove(batch.token, values.ctypes.data, values.nbytes)
    return batch


def place(batch: Any, index: int, position: int, sequence: int, want_logits: bool) -> None:
    """Say where in which sequence a batch's entry stands, and whether its logits are wanted."""
    batch.pos[index] = position
    batch.n_seq_id[index] = 1
    batch.seq_id[index][0] = sequence
    batch.logits[index] = want_logits


def evaluate(context: Context, batch: Any, count: int) -> None:
    """Run the model on a batch of `count` entries that have their places."""
    batch.n_tokens = count
    status = llama.llama_decode(context.pointer, batch)
    if status:
        raise RuntimeError(f"llama.cpp could not evaluate {count} tokens (status {status})")
