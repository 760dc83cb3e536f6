"""One question about many files, answered in several lanes of the language model at once, told in the files' order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dclocal.chat import Answered, Attachment, ChatSession
from dclocal.chat_events import Event, LanguageModel, TextPiece
from dclocal.workers import Workers

if TYPE_CHECKING:
    from dclocal.lanes import Lane, Lanes

MOST_LANES = 8
"""A step of eight costs little more than two of two; more would gain little, and the first line comes later."""
LANES_BYTES = 128 << 20
"""What the memory of a worker's lanes may take."""
ROOM_STEP = 64
Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Ready:
    """A file whose embeddings a session of its own holds, or the line that says why not."""

    line: Line
    session: ChatSession | None
    attachments: tuple[Attachment, ...]
    prepare_ms: float


@runtime_checkable
class Threaded(Protocol):
    """What can be told how many threads to use."""

    def use_threads(self, threads: int) -> None: ...


class Together:
    """A worker's answers under way.  A file is answered at once and alone where it is a video, for which others would
    have to wait, where its prompt and answer don't fit a lane, which is made for the first one's, or where the language
    model has no lanes.  One that fails gets an error in its line.

    The language model has as many threads as are its share of those of the `workers`; its own where they have none.
    Once `stop` says so no further piece is asked for, and answers that are under way are told by nobody.
    """

    def __init__(
        self,
        llm: LanguageModel,
        question: str,
        options: Line,
        workers: Workers,
        stop: Callable[[], bool] = lambda: False,
    ):
        self._llm, self._question, self._options, self._workers, self._stop = llm, question, options, workers, stop
        self._lanes: Lanes | None = None
        self._room = 0
        self._free: list[Lane] = []
        self._told: deque[_Answer] = deque()

    def add(self, item: Ready) -> list[Line]:
        """Begin to answer about a file; the lines that are complete by now, in the order of `add`."""
        answer = _Answer(item)
        self._told.append(answer)
        if item.session is not None:
            answer.lane = self._lane_for(item)
            with nullcontext() if answer.lane else self._workers.alone():
                self._set_threads(self._lanes if answer.lane else self._llm)
                answer.ask(self._question, self._options, self._stop)
            self._set_free([answer])
        return self._complete()

    def rest(self) -> list[Line]:
        """The lines of all that is still under way."""
        while self._under_way() and not self._stop():
            self._advance()
        return self._complete()

    def close(self) -> None:
        """Give the lanes' memory back."""
        for answer in self._under_way():
            answer.end()
        if self._lanes is not None:
            self._lanes.close()

    def _lane_for(self, item: Ready) -> Lane | None:
        """A free lane, others' answers being finished until there is one; None for a file that is answered alone."""
        assert item.session is not None
        if item.line.get("kind") == "video":
            return None
        limit = self._options.get("max_tokens") or item.session.bundle.manifest.sampling.max_tokens
        needed = item.session.needed_tokens(self._question, item.attachments) + limit + 1
        if not self._room:
            self._room = -(-needed // ROOM_STEP) * ROOM_STEP
            self._lanes = make_lanes(self._llm, self._room)
            self._free = list(self._lanes.lanes) if self._lanes is not None else []
        if self._lanes is None or needed > self._room:
            return None
        while not self._free:
            self._advance()
        return self._free.pop()

    def _advance(self) -> None:
        """The next piece of every answer that is in a lane."""
        self._set_threads(self._lanes)
        started, together = time.perf_counter(), self._under_way()
        for answer in together:
            answer.advance()
        share_ms = 1000 * (time.perf_counter() - started) / len(together)
        for answer in together:
            answer.spent_ms += share_ms
        self._set_free(together)

    def _set_threads(self, model: object) -> None:
        if self._workers.cores and isinstance(model, Threaded):
            model.use_threads(self._workers.share)

    def _set_free(self, answers: Sequence[_Answer]) -> None:
        self._free += [answer.lane for answer in answers if answer.lane is not None and not answer.under_way]

    def _under_way(self) -> list[_Answer]:
        return [answer for answer in self._told if answer.under_way]

    def _complete(self) -> list[Line]:
        lines = []
        while self._told and not self._told[0].under_way:
            lines.append(self._told.popleft().line())
        return lines


class _Answer:
    """One file's answer as it comes, in its `lane` or alone; `spent_ms` is its share of the language model's time."""

    def __init__(self, item: Ready):
        self._item = item
        self.lane: Lane | None = None
        self.spent_ms = 0.0
        self._events: Iterator[Event] | None = None
        self._answered: Answered | None = None
        self._error = ""

    @property
    def under_way(self) -> bool:
        return self._events is not None

    def ask(self, question: str, options: Line, stop: Callable[[], bool]) -> None:
        """Evaluate the prompt, up to the answer's first piece; where there is no lane, all of it until `stop`."""
        session = self._item.session
        assert session is not None
        if self.lane is not None:
            session.llm = self.lane
        started = time.perf_counter()
        self._events = iter(session.ask(question, self._item.attachments, **options))
        self.advance()
        while self.lane is None and self.under_way and not stop():
            self.advance()
        self.spent_ms = 1000 * (time.perf_counter() - started)

    def advance(self) -> None:
        """The next piece, or the end."""
        assert self._events is not None
        try:
            for event in self._events:
                if isinstance(event, TextPiece):
                    return
                self._answered = event if isinstance(event, Answered) else self._answered
        except Exception as error:  # one bad file must not end a night's work
            self._error = reason_of(error)
        self._events = None

    def end(self) -> None:
        """Call it off."""
        self._events.close()  # type: ignore[union-attr]
        self._events = None

    def line(self) -> Line:
        """The line with its answer; `ms` counts preparing and answering, `answer_ms` the language model alone."""
        if self._error:
            return {**self._item.line, "error": self._error}
        if self._answered is None:
            return self._item.line
        stats = self._answered.stats
        return {
            **self._item.line,
            "answer": self._answered.answer,
            "ms": round(self._item.prepare_ms + self.spent_ms, 1),
            "answer_ms": round(self.spent_ms, 1),
            "image_tokens": stats.image_tokens,
            "answer_tokens": stats.answer_tokens,
        }


def make_lanes(llm: LanguageModel, room: int) -> Lanes | None:
    """As many lanes of `room` cells as LANES_BYTES hold; None where there is room for one alone, or `llm` has none:
    it is not llama.cpp's, runs with adapters, or holds fewer cells."""
    from dclocal.errors import BundleError
    from dclocal.lanes import Lanes
    from dclocal.llm import LLM

    if not isinstance(llm, LLM) or llm.adapters or room > llm.n_ctx:
        return None
    count = min(MOST_LANES, LANES_BYTES // (room * llm.cell_bytes))
    try:
        return Lanes(llm, count, room) if count > 1 else None
    except BundleError:  # there is not even that much memory
        return None


def reason_of(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
