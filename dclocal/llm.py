"""The language model: segments (tokens or embeddings) in, text pieces out; owner of the KV cache.

Drives llama.cpp's C functions directly.  The cache holds one sequence of cells, each a token id or a row of
an image; a new prompt keeps the longest prefix that it shares with the cache and evaluates the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.adapters import Adapters
from dclocal.cells import Cell, Prefill
from dclocal.errors import BundleError, PromptError
from dclocal.kv_cache import KVCache
from dclocal.llama_api import llama
from dclocal.llama_context import SEQUENCE, Context, flash_suits_few
from dclocal.llama_model import Model, load_model
from dclocal.machine import usable_cores
from dclocal.prompt import Segment
from dclocal.speaker import Speaker
from dclocal.token_embeddings import TokenEmbeddings

if TYPE_CHECKING:
    import numpy as np

    from dclocal.llama_sampler import Sampler


class LLM(Speaker):
    """A GGUF model with one context.  Not safe for use from several threads at once.

    `adapters` are LoRA files that `use_adapters` may switch to, by name; none is in use at first.  `model` is what
    `load_model` made of the file, where that was begun before; `close` frees it.  `settled`: nothing long will be
    evaluated at first.  Raises BundleError where the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        threads: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        model: Model | None = None,
        settled: bool = False,
    ):
        self.path, self.threads = path, threads or usable_cores()
        self._context: Context | None = None
        self._tokens: TokenEmbeddings | None = None
        self.model = model or load_model(path)
        try:
            self._context = self._open_context(path, n_ctx, self.threads, not settled or flash_suits_few())
            self._tokens = TokenEmbeddings(path, self.model.pointer)
            super().__init__(self.model)  # which waits for the vocabulary
        except BaseException:
            self.close()
            raise
        self.n_ctx: int = self._context.n_ctx
        self._adapters = Adapters(self.model.pointer, self._context, adapters or {})
        self._cache = KVCache(self._context, SEQUENCE, self.n_embd, self.token_rows, self._adapters.renew)

    def _open_context(self, path: Path, n_ctx: int, threads: int, flash: bool) -> Context:
        return Context(self.model.pointer, path, n_ctx, threads, flash=flash)

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
            self.forget()
            self._adapters.switch(scales)

    @property
    def cells(self) -> list[Cell]:
        """What the cache holds."""
        return self._cache.cells

    @property
    def evaluated_tokens(self) -> int:
        """How many tokens were evaluated so far."""
        return self._cache.evaluated_tokens

    @property
    def cell_bytes(self) -> int:
        """What a cell takes: keys and values in float16, for every layer."""
        model = self.model.pointer
        heads, head = llama.llama_model_n_head_kv(model), self.n_embd // llama.llama_model_n_head(model)
        return 2 * 2 * llama.llama_model_n_layer(model) * heads * head

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        """Make the cache hold exactly these segments; afterwards `logits` and `generate` follow on them.

        The last cell is always evaluated, since its logits are needed.  Raises PromptError where they do not
        fit the context, ValueError for embeddings that are not float32 of the model's width; both before anything
        is evaluated or forgotten.
        """
        return self._cache.prefill(segments)

    def logits(self) -> np.ndarray:
        """A copy of the logits after the last position, float32 `[n_vocab]`."""
        import numpy as np

        pointer = llama.llama_get_logits_ith(self._pointer, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).copy()

    def score(self, ids: Sequence[int]) -> np.ndarray:
        """Evaluate tokens after what the cache holds; the logits after each of them, float32 `[len(ids), n_vocab]`."""
        if len(self.cells) + len(ids) > self.n_ctx:
            raise PromptError(f"{len(self.cells) + len(ids)} tokens, the context holds {self.n_ctx}", "shorten it")
        import numpy as np

        rows = np.empty((len(ids), self.n_vocab), np.float32)
        for start in range(0, len(ids), self._opened.batch):
            run = ids[start : start + self._opened.batch]
            self._cache.evaluate_tokens(run, True, every=True)
            for index in range(len(run)):
                pointer = llama.llama_get_logits_ith(self._pointer, index)
                rows[start + index] = np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))
        return rows

    def state(self) -> bytes:
        """What the cache holds as llama.cpp's state of it, for `restore`."""
        return self._opened.state()

    def restore(self, state: bytes, cells: Sequence[Cell]) -> None:
        """Make the cache hold the `cells` of a state of this model with these adapters.  Raises BundleError."""
        self.forget()
        self._cache.make_room(len(cells))
        self._opened.restore(state)
        self.cells[:] = cells

    def token_rows(self, ids: Sequence[int]) -> np.ndarray | None:
        """Tokens' embeddings, float32 `[len(ids), n_embd]`; None where they cannot be had, or an adapter may change
        them."""
        return None if self.adapters or self._tokens is None else self._tokens.rows(ids)

    def use_threads(self, threads: int) -> None:
        """Evaluate with so many from now on."""
        self._opened.use_threads(threads)

    def settle(self) -> None:
        """As `Speaker`'s: it takes 20 ms, and then questions take two thirds of the time."""
        self._cache.settle()

    def forget(self) -> None:
        """Empty the cache, so that the next prompt is evaluated from its start."""
        self._cache.forget_from(0)

    @property
    def can_slide(self) -> bool:
        """Whether `drop_cells` is possible: the model's positions can be changed after the fact."""
        return bool(llama.llama_memory_can_shift(self._opened.memory))

    def drop_cells(self, start: int, end: int) -> None:
        """Remove cells from `start` up to `end`; those behind move up.  BundleError where `can_slide` is false."""
        self.settle()
        self._cache.make_room(self.n_ctx)  # cells whose positions changed cannot move before the next evaluation
        kept = self.cells[end:]
        del self.cells[start:]  # interrupted, the record knows less than the cache, and the next prefill cuts it off
        if not self.can_slide or not llama.llama_memory_seq_rm(self._opened.memory, SEQUENCE, start, end):
            raise BundleError("this model's memory cannot slide", "evaluate the window anew")
        llama.llama_memory_seq_add(self._opened.memory, SEQUENCE, end, -1, start - end)
        self._cache.moved = True
        self.cells.extend(kept)

    def close(self) -> None:
        """Give the memory back; the object is of no use afterwards."""
        if self._context:
            self._context.close()
        if self._tokens:
            self._tokens.close()
        self.model.close()
        self._context = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, sampler: Sampler) -> int:
        return sampler.draw(self._pointer)

    def _follow(self, token: int) -> None:
        self._cache.follow(token)
