"""Several answers of one language model at once: a step of all of them costs little more than a step of one.

Reading the weights is what a token costs; read once for many answers, they cost each of them a share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dclocal.kv_cache import KVCache, evaluate, place, token_batch
from dclocal.llama_api import llama
from dclocal.llama_context import Context
from dclocal.speaker import Speaker

if TYPE_CHECKING:
    from dclocal.cells import Cell, Prefill
    from dclocal.llama_sampler import Sampler
    from dclocal.llm import LLM
    from dclocal.prompt import Segment


class Lanes:
    """A context beside that of `llm`, with `count` sequences of up to `room` cells; each is a `Lane`.

    Answers are generated in step: take a piece of each in turn, and all tokens that were drawn since are evaluated
    together when the first is asked for its next.  `evaluations` counts how often that was.  The adapters of `llm`
    are not used.  Not safe for use from several threads at once.
    """

    def __init__(self, llm: LLM, count: int, room: int):
        self._context = Context(llm.model.pointer, llm.path, room, llm.threads, sequences=count)
        self.evaluations = 0
        self.newest: Lane | None = None
        """The lane whose logits llama.cpp holds."""
        self.lanes = tuple(Lane(self, self._context, llm, number) for number in range(count))

    def step(self) -> None:
        """Evaluate what was drawn in all lanes, and draw what follows."""
        waiting = [lane for lane in self.lanes if lane.drawn is not None]
        batch = token_batch([lane.drawn for lane in waiting if lane.drawn is not None])
        try:
            for index, lane in enumerate(waiting):
                place(batch, index, len(lane.cells), lane.number, True)
            evaluate(self._context, batch, len(waiting))
        finally:
            llama.llama_batch_free(batch)
        self.evaluations += 1
        self.newest = None
        for index, lane in enumerate(waiting):
            assert lane.sampler is not None  # it drew what was evaluated
            lane.stepped(lane.sampler.draw(self._context.pointer, index))

    def sample(self, sampler: Sampler) -> int:
        """A token that follows on the last cell that was prefilled."""
        return sampler.draw(self._context.pointer)

    def use_threads(self, threads: int) -> None:
        """Evaluate with so many from now on."""
        self._context.use_threads(threads)

    def close(self) -> None:
        """Give the memory back; the lanes are of no use afterwards."""
        self._context.close()

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lane(Speaker):
    """One of several answers; a language model as `chat_events.LanguageModel` has it.

    `drawn` is the token that awaits evaluation, if there is one, and `sampler` draws those that follow.
    """

    def __init__(self, lanes: Lanes, context: Context, llm: LLM, number: int):
        super().__init__(llm.model)
        self._lanes, self.number = lanes, number
        self._cache = KVCache(context, number, self.n_embd, llm.token_rows)
        self.n_ctx = context.n_ctx
        self._segments: Sequence[Segment] = ()
        self.drawn: int | None = None
        self.sampler: Sampler | None = None
        self._next: int | None = None

    @property
    def cells(self) -> list[Cell]:
        return self._cache.cells

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        """As that of `llm.LLM`."""
        self._segments = segments
        plan = self._cache.prefill(segments)
        self._lanes.newest = self
        return plan

    def stepped(self, following: int) -> None:
        """What was drawn is evaluated, and `following` drawn after it."""
        assert self.drawn is not None  # it was in the batch
        self._cache.record([self.drawn])
        self.drawn, self._next = None, following

    def _draw(self, sampler: Sampler) -> int:
        self.sampler = sampler
        if self.drawn is not None:
            self._lanes.step()
        if self._next is None:
            if self._lanes.newest is not self:  # another lane's evaluation has taken the logits' place
                self.prefill(self._segments)
            self._next = self._lanes.sample(sampler)
        self.drawn, self._next = self._next, None
        return self.drawn

    def _follow(self, token: int) -> None:
        """Nothing: what was drawn is evaluated with the next step, or was already."""

    def _end(self) -> None:
        self.drawn = self._next = self.sampler = None
