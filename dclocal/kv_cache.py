"""The KV cache of one sequence: which cells it holds, and how a prompt's segments come into it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dclocal.cells import Cell, Prefill, plan_prefill
from dclocal.errors import BundleError
from dclocal.llama_api import llama
from dclocal.llama_context import TILE, flash_suits_few
from dclocal.prompt import Embeds, Segment, part_of, shows_picture

if TYPE_CHECKING:
    import numpy as np

    from dclocal.llama_context import Context


FLOAT32 = "float32"
BUFFERS = {"f": FLOAT32}
"""What types are called whose letter a buffer tells."""
WORTH_SETTLING = 256
"""Cells with which plain attention wins within one answer what it takes to change to it."""
WORTH_FLASH = 128
"""Entries in which flash attention does."""
ROWS = 4
SPARE = (0, 0, 2, 1)
"""By how many a batch is filled up, for each number of entries that are left of it; for one it is not worth while."""


class KVCache:
    """The cells of sequence `sequence` of a context, each a token id or a row of an image, for at most `n_ctx` of them.

    `renewed` is called after the context was made anew.  `rows` gives tokens' embeddings, or
    None where they have to be evaluated as tokens.
    """

    def __init__(
        self,
        context: Context,
        sequence: int,
        n_embd: int,
        rows: Callable[[Sequence[int]], np.ndarray | None],
        renewed: Callable[[], None] = lambda: None,
    ):
        self._context, self.sequence, self._n_embd = context, sequence, n_embd
        self._rows, self._renewed = rows, renewed
        self._can_change = context.alone
        self.moved = False
        """Whether cells were moved since the last evaluation, with which their positions change."""
        self.cells: list[Cell] = []
        self.evaluated_tokens = 0
        self._token = (llama.llama_token * 1)()
        self._one = llama.llama_batch_get_one(self._token, 1)  # a view of it, which holds nothing of its own

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        """Make the cache hold exactly these segments, with the logits of the last; see `LLM.prefill`."""
        for segment in segments:
            if isinstance(segment, Embeds):
                self._check_embeds(segment)
        wanted, plan = plan_prefill(self.cells, segments, self._context.n_ctx)
        self.forget_from(plan.reused)
        self.suit(plan.evaluated)
        missing = part_of(segments, plan.reused)
        values = self._as_embeddings(missing)
        if values is not None:
            self._evaluate_embeds(values, wanted[plan.reused :], True)
            return plan
        for number, segment in enumerate(missing, 1):
            last = number == len(missing)
            if isinstance(segment, Embeds):
                start = len(self.cells)
                self._evaluate_embeds(segment.rows(), wanted[start : start + len(segment)], last)
            else:
                self.evaluate_tokens(segment.ids, last)
        return plan

    def _as_embeddings(self, segments: Sequence[Segment]) -> np.ndarray | None:
        """Pictures and the text about them in one matrix, so that they are evaluated together; None where there is
        nothing to gain, or tokens' embeddings cannot be had."""
        if len(segments) < 2 or not shows_picture(segments):
            return None
        values = []
        for segment in segments:
            rows = segment.rows() if isinstance(segment, Embeds) else self._rows(segment.ids)
            if rows is None:
                return None
            values.append(rows)
        import numpy as np

        return np.concatenate(values)

    def forget_from(self, position: int) -> None:
        """Drop the cells from `position` on, and whatever an interrupted evaluation left behind them."""
        del self.cells[position:]
        self.moved = self.moved and position > 0
        if not llama.llama_memory_seq_rm(self._context.memory, self.sequence, position, -1):
            raise BundleError("this model's memory cannot be cut", "export it with an attention-based language model")

    def settle(self) -> None:
        """Get ready for few entries at a time."""
        if self._context.flash and self.cells:
            self._use_flash(False)

    def suit(self, entries: int) -> None:
        """Choose the attention for so many more entries, where it is worth a new context."""
        flash, held = self._context.flash, len(self.cells)
        if flash and held >= WORTH_SETTLING and entries < TILE:
            self._use_flash(False)
        elif not flash and entries >= max(held, WORTH_FLASH):
            self._use_flash(True)

    def _use_flash(self, flash: bool) -> None:
        """A model of which that is not possible, or not needed, goes on as it is."""
        if self.moved or not self._can_change or flash_suits_few():
            return
        try:
            self._context.use_flash(flash)
        except BundleError:
            self._can_change = False
        finally:
            self._renewed()

    def make_room(self, cells: int) -> None:
        """See to it that this many fit."""
        if self._context.make_room(cells):
            self._renewed()

    def evaluate_tokens(self, ids: Sequence[int], want_logits: bool, every: bool = False) -> None:
        """Evaluate tokens after what the cache holds: with the last one's logits, or every one's of the last batch."""
        for start in range(0, len(ids), self._context.batch):
            run = ids[start : start + self._context.batch]
            batch = token_batch([*run] + [run[-1]] * self._spare(len(run)))
            self._decode(batch, run, want_logits and start + len(run) == len(ids), every)

    def follow(self, token: int) -> None:
        """Evaluate one more token of sequence 0, as answers go on, with its logits; nothing is made for it alone."""
        self.suit(1)
        self.make_room(len(self.cells) + 1)
        self._token[0] = token
        evaluate(self._context, self._one, 1)
        self.moved = False
        self.record((token,))

    def _check_embeds(self, embeds: Embeds) -> None:
        values = embeds.values
        kind = BUFFERS.get(values.format, "?") if isinstance(values, memoryview) else values.dtype.name
        if kind != FLOAT32 or values.ndim != 2 or values.shape is None or values.shape[1] != self._n_embd:
            raise ValueError(f"image embeddings are {kind} {values.shape}; expected {FLOAT32} [tokens, {self._n_embd}]")

    def _evaluate_embeds(self, values: np.ndarray, cells: Sequence[Cell], want_logits: bool) -> None:
        import numpy as np

        for start in range(0, len(values), self._context.batch):
            rows = values[start : start + self._context.batch]
            run = cells[start : start + len(rows)]
            rows = np.concatenate([rows, *[rows[-1:]] * self._spare(len(rows))])
            batch = llama.llama_batch_init(len(rows), self._n_embd, 1)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            self._decode(batch, run, want_logits and start + len(run) == len(values))

    def _spare(self, count: int) -> int:
        """How many entries more than `count` are evaluated sooner, where there is room: llama.cpp's products take ROWS
        of them at a time, and those that are left one by one (159 entries 98 ms, 160 of them 93)."""
        spare = SPARE[count % ROWS] if count >= ROWS - 1 else 0
        room = min(self._context.batch, self._context.n_ctx - len(self.cells))
        return spare if count + spare <= room else 0

    def _decode(self, batch: Any, cells: Sequence[Cell], want_logits: bool, every: bool = False) -> None:
        """Evaluate a batch after what the cache holds, record it and free it; `every` position's logits, or the last's.

        The batch has `_spare` entries behind these cells, on which none of them depends; they are dropped again.
        Interrupted on the way, the cache holds more than the record: the next `prefill` cuts it off.
        """
        position, spare = len(self.cells), self._spare(len(cells))
        filled = len(cells) + spare
        try:
            self.make_room(position + filled)
            for index in range(filled):
                place(batch, index, position + index, self.sequence, every and index < len(cells))
            batch.logits[len(cells) - 1] = want_logits
            evaluate(self._context, batch, filled)
            self.moved = False
            self.record(cells)
            if spare:
                self.forget_from(len(self.cells))
        finally:
            llama.llama_batch_free(batch)

    def record(self, cells: Sequence[Cell]) -> None:
        """These were evaluated after what the cache holds."""
        self.cells += cells
        self.evaluated_tokens += len(cells)


def token_batch(ids: Sequence[int]) -> Any:
    """A batch of llama.cpp's with these tokens, to be placed and freed."""
    batch = llama.llama_batch_init(len(ids), 0, 1)
    values = (ctypes.c_int32 * len(ids))(*ids)
    ctypes.memmove(batch.token, values, ctypes.sizeof(values))
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
