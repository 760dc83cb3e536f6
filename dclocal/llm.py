"""The language model: segments (tokens or embeddings) in, text pieces out; owner of the KV cache.

Drives llama.cpp's C functions directly.  The cache holds one sequence of cells, each a token id or a row of
an image; a new prompt keeps the longest prefix that it shares with the cache and evaluates the rest.
"""

from __future__ import annotations

import codecs
import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from dclocal.adapters import Adapters
from dclocal.bundle import Sampling
from dclocal.cells import Cell, Prefill, plan_prefill, utf8
from dclocal.errors import BundleError, PromptError
from dclocal.llama_context import SEQUENCE, Context
from dclocal.llama_log import capture_log, run_logging
from dclocal.llama_sampler import new_sampler
from dclocal.machine import usable_cores
from dclocal.prompt import Embeds, Segment


class LLM:
    """A GGUF model with one context.  Not safe for use from several threads at once.

    `adapters` are LoRA files that `use_adapters` may switch to, by name; none is in use at first.  Raises
    BundleError where the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        threads: int | None = None,
        gpu_layers: int = 0,
        adapters: Mapping[str, Path] | None = None,
    ):
        self._log = capture_log()
        self._model: Any = None
        self._context: Context | None = None
        self.cells: list[Cell] = []
        self.evaluated_tokens = 0
        self.last_tokens: list[int] = []
        llama.llama_backend_init()
        model_params = llama.llama_model_default_params()
        model_params.n_gpu_layers = gpu_layers
        self._model = self._loaded(path, model_params)
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.n_embd: int = llama.llama_model_n_embd(self._model)
        self.n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        try:
            self._context = self._open_context(path, n_ctx, threads or usable_cores())
        except BaseException:
            self.close()
            raise
        self.n_ctx: int = self._context.n_ctx
        self._adapters = Adapters(self._model, self._context, adapters or {})

    def _open_context(self, path: Path, n_ctx: int, threads: int) -> Context:
        return Context(self._model, path, n_ctx, threads)

    def _loaded(self, path: Path, params: Any) -> Any:
        if not path.is_file():
            raise BundleError(f"there is no language model {path}", "remove the bundle and pull it again")
        model = run_logging(llama.llama_model_load_from_file, os.fsencode(path), params)
        if not model:
            why = self._log.errors[0] if self._log.errors else "llama.cpp gave no reason"
            raise BundleError(f"{path} cannot be loaded: {why}", "remove the bundle and pull it again")
        return model

    @property
    def _opened(self) -> Context:
        assert self._context is not None  # until it is closed
        return self._context

    @property
    def _pointer(self) -> Any:
        return self._opened.pointer

    @property
    def adapters(self) -> Mapping[str, float]:
        """The scale of every adapter that is in use, by name."""
        return self._adapters.scales

    def use_adapters(self, scales: Mapping[str, float]) -> None:
        """Run with these adapters and no others.  A change forgets the cache, which others evaluated.

        Raises BundleError for an unknown name, or a file that is no adapter of this model; then nothing changes.
        """
        if self._adapters.load(scales):
            self._forget_from(0)
            self._adapters.switch(scales)

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Token ids of `text`, none added; special tokens are read as such only with `parse_special`.

        Raises PromptError for text that is not Unicode (bytes of another encoding on the command line).
        """
        data = utf8(text)
        room = len(data) + 8
        ids = (llama.llama_token * room)()
        count = llama.llama_tokenize(self._vocab, data, len(data), ids, room, False, parse_special)
        if count < 0:
            raise PromptError(f"a text of {len(data)} bytes gave more tokens than bytes", "shorten it")
        return list(ids[:count])

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        """Make the cache hold exactly these segments; afterwards `logits` and `generate` follow on them.

        The last cell is always evaluated, since its logits are needed.  Raises PromptError where they do not
        fit the context, ValueError for embeddings that are not float32 of the model's width; both before anything
        is evaluated or forgotten.
        """
        for segment in segments:
            if isinstance(segment, Embeds):
                self._check_embeds(segment.values)
        wanted, plan = plan_prefill(self.cells, segments, self.n_ctx)
        self._forget_from(plan.reused)
        start = 0
        for segment in segments:
            end = start + len(segment)
            if end > plan.reused:
                skip = max(0, plan.reused - start)
                last = end == len(wanted)
                if isinstance(segment, Embeds):
                    self._evaluate_embeds(segment, skip, last)
                else:
                    self._evaluate_tokens(segment.ids[skip:], last)
            start = end
        return plan

    def logits(self) -> np.ndarray:
        """A copy of the logits after the last position, float32 `[n_vocab]`."""
        pointer = llama.llama_get_logits_ith(self._pointer, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).copy()

    def score(self, ids: Sequence[int]) -> np.ndarray:
        """Evaluate tokens after what the cache holds; the logits after each of them, float32 `[len(ids), n_vocab]`."""
        if len(self.cells) + len(ids) > self.n_ctx:
            raise PromptError(f"{len(self.cells) + len(ids)} tokens, the context holds {self.n_ctx}", "shorten it")
        rows = np.empty((len(ids), self.n_vocab), np.float32)
        for start in range(0, len(ids), self._opened.batch):
            run = ids[start : start + self._opened.batch]
            self._evaluate_tokens(run, True, every=True)
            for index in range(len(run)):
                pointer = llama.llama_get_logits_ith(self._pointer, index)
                rows[start + index] = np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))
        return rows

    def state(self) -> bytes:
        """What the cache holds as llama.cpp's state of it, for `restore`."""
        return self._opened.state()

    def restore(self, state: bytes, cells: Sequence[Cell]) -> None:
        """Make the cache hold the `cells` of a state of this model with these adapters.  Raises BundleError."""
        self._forget_from(0)
        self._make_room(len(cells))
        self._opened.restore(state)
        self.cells = list(cells)

    def forget(self) -> None:
        """Empty the cache, so that the next prompt is evaluated from its start."""
        self._forget_from(0)

    @property
    def can_slide(self) -> bool:
        """Whether `drop_cells` is possible: the model's positions can be changed after the fact."""
        return bool(llama.llama_memory_can_shift(self._opened.memory))

    def drop_cells(self, start: int, end: int) -> None:
        """Remove cells from `start` up to `end`; those behind move up.  BundleError where `can_slide` is false."""
        self._make_room(self.n_ctx)  # cells whose positions changed cannot move before the next evaluation
        kept = self.cells[end:]
        del self.cells[start:]  # interrupted, the record knows less than the cache, and the next prefill cuts it off
        if not self.can_slide or not llama.llama_memory_seq_rm(self._opened.memory, SEQUENCE, start, end):
            raise BundleError("this model's memory cannot slide", "evaluate the window anew")
        llama.llama_memory_seq_add(self._opened.memory, SEQUENCE, end, -1, start - end)
        self.cells += kept

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        """Text pieces of the answer, in whole characters, until its end, `max_tokens` or a full context.

        `stop` are special tokens that end it besides the model's own.  Each token that is followed by another
        one is in the cache; `last_tokens` holds the ids so far.  The generator may be closed at any time.
        """
        stop_ids = {ids[0] for ids in (self.tokenize(text, True) for text in stop) if len(ids) == 1}
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.last_tokens = []
        sampler = new_sampler(sampling, seed, self.n_vocab)
        try:
            while len(self.last_tokens) < max_tokens:
                token = llama.llama_sampler_sample(sampler, self._pointer, -1)
                if token in stop_ids or llama.llama_vocab_is_eog(self._vocab, token):
                    break
                self.last_tokens.append(token)
                text = decoder.decode(self._piece(token))
                if text:
                    yield text
                if len(self.cells) + 1 >= self.n_ctx:
                    break
                if len(self.last_tokens) < max_tokens:
                    self._evaluate_tokens((token,), True)
            rest = decoder.decode(b"", final=True)
            if rest:
                yield rest
        finally:
            llama.llama_sampler_free(sampler)

    def close(self) -> None:
        """Give the memory back; the object is of no use afterwards."""
        if self._context:
            self._context.close()
        if self._model:
            llama.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def _make_room(self, cells: int) -> None:
        if self._opened.make_room(cells):
            self._adapters.renew()

    def _forget_from(self, position: int) -> None:
        """Drop the cells from `position` on, and whatever an interrupted evaluation left behind them."""
        del self.cells[position:]
        if not llama.llama_memory_seq_rm(self._opened.memory, SEQUENCE, position, -1):
            raise BundleError("this model's memory cannot be cut", "export it with an attention-based language model")

    def _evaluate_tokens(self, ids: Sequence[int], want_logits: bool, every: bool = False) -> None:
        for start in range(0, len(ids), self._opened.batch):
            run = ids[start : start + self._opened.batch]
            batch = llama.llama_batch_init(len(run), 0, 1)
            values = np.array(run, dtype=np.int32)
            ctypes.memmove(batch.token, values.ctypes.data, values.nbytes)
            self._decode(batch, run, want_logits and start + len(run) == len(ids), every)

    def _check_embeds(self, values: np.ndarray) -> None:
        if values.ndim != 2 or values.shape[1] != self.n_embd or values.dtype != np.float32:
            raise ValueError(
                f"image embeddings are {values.dtype} {values.shape}; expected float32 [tokens, {self.n_embd}]"
            )

    def _evaluate_embeds(self, segment: Embeds, skip: int, want_logits: bool) -> None:
        values = np.ascontiguousarray(segment.values)
        for start in range(skip, len(values), self._opened.batch):
            rows = values[start : start + self._opened.batch]
            batch = llama.llama_batch_init(len(rows), self.n_embd, 1)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            cells: list[Cell] = [(segment.key, row) for row in range(start, start + len(rows))]
            self._decode(batch, cells, want_logits and start + len(rows) == len(values))

    def _decode(self, batch: Any, cells: Sequence[Cell], want_logits: bool, every: bool = False) -> None:
        """Evaluate a batch after what the cache holds, record it and free it; `every` position's logits, or the last's.

        Interrupted between the two, the cache holds more than the record: the next `prefill` cuts it off.
        """
        position = len(self.cells)
        try:
            self._make_room(position + len(cells))
            batch.n_tokens = len(cells)
            for index in range(len(cells)):
                batch.pos[index] = position + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = SEQUENCE
                batch.logits[index] = every
            batch.logits[len(cells) - 1] = want_logits
            status = llama.llama_decode(self._pointer, batch)
            if status:
                raise RuntimeError(f"llama.cpp could not evaluate {len(cells)} tokens (status {status})")
            self.cells += cells
            self.evaluated_tokens += len(cells)
        finally:
            llama.llama_batch_free(batch)
