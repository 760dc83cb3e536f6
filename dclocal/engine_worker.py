"""The engine's work: requests in, one at a time, events out.  The child process runs it, and so do the app's tests.

`submit` may be called from any thread: it is how a request is called off while `run` works in another.
"""

from __future__ import annotations

import os
import queue
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from dclocal import engine_messages as messages
from dclocal.chat_events import Answered, AnswerOptions, PromptReady, TextPiece
from dclocal.chat_events import Event as ChatEvent
from dclocal.engine_messages import Event, Request
from dclocal.errors import PromptError, UserError
from dclocal.progress import Progress

if TYPE_CHECKING:
    from dclocal.chat import ChatSession
    from dclocal.engine_media import MediaShelf
    from dclocal.turns import Turn

Opener = Callable[[messages.Open, Progress], "ChatSession"]


class Stopped(Exception):
    """The request is called off, and nothing is changed."""


class Worker:
    """Carries out requests on the session that `opener` opens; `send` takes the events, from the thread of `run`."""

    def __init__(self, opener: Opener, send: Callable[[Event], None]):
        self._opener, self._send = opener, send
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._newest = 0
        self._cancelled: tuple[range, ...] = ()
        self._current: Request = Request(0)
        self._session: ChatSession | None = None
        self._shelf: MediaShelf | None = None
        self._shown: list[tuple[str, ...]] = []  # the media of each turn

    def submit(self, request: Request | None) -> None:
        """Hand in a request; None ends `run`."""
        if isinstance(request, messages.Cancel):
            self._call_off(request.since, request.request)
            return
        if request is None:
            self._call_off(0, self._newest)
        else:
            self._newest = request.request
        self._requests.put(request)

    def run(self) -> None:
        """Work until there is nothing more to come."""
        while (request := self._requests.get()) is not None:
            self._current = request
            try:
                self._carry_out(request)
            except Stopped:
                self._send(messages.Cancelled(request.request))
            except UserError as error:
                self._send(messages.Failed(request.request, error.problem, error.remedy))
            except Exception as error:
                traceback.print_exc()
                what = " ".join(str(error).split()) or type(error).__name__
                self._send(messages.Failed(request.request, what, "the log says where", fault=True))

    def _carry_out(self, request: Request) -> None:
        handle = HANDLERS[type(request)]
        if self._stopped():
            raise Stopped
        if self._session is None and not isinstance(request, messages.Open):
            raise PromptError("no bundle is open", "open one first")
        handle(self, request)

    def _stopped(self) -> bool:
        superseded = isinstance(self._current, messages.Prepare) and self._newest > self._current.request
        return superseded or any(self._current.request in numbers for numbers in self._cancelled)

    def _call_off(self, first: int, last: int) -> None:
        coming = (numbers for numbers in self._cancelled if numbers.stop > self._current.request)
        self._cancelled = (*coming, range(first, last + 1))

    @property
    def _media(self) -> MediaShelf:
        assert self._shelf is not None
        return self._shelf

    @property
    def _chat(self) -> ChatSession:
        assert self._session is not None
        return self._session

    def _progress(self, step: str, done: int, total: int) -> None:
        if self._stopped():
            raise Stopped
        self._send(messages.Loading(self._current.request, step, done, total))

    def _open(self, request: messages.Open) -> None:
        from dclocal.engine_media import MediaShelf, bundle_facts

        started = time.perf_counter()
        session = self._opener(request, self._progress)
        close = getattr(self._session and self._session.llm, "close", None)
        if close is not None:
            close()
        self._session, self._shelf, self._shown = session, MediaShelf(session), []
        load_ms = 1000 * (time.perf_counter() - started)
        self._send(messages.Ready(request.request, bundle_facts(session), load_ms, os.getpid(), memory_bytes()))

    def _attach(self, request: messages.Attach) -> None:
        attached = self._media.attach(request.media, self._progress, self._stopped)
        if self._stopped():
            self._media.detach(attached.key)
            raise Stopped
        self._send(replace(attached, request=request.request))

    def _detach(self, request: messages.Detach) -> None:
        self._media.detach(request.key)
        self._send(messages.Done(request.request))

    def _prepare(self, request: messages.Prepare) -> None:
        ready = None
        for event in self._chat.prepare(self._media.attachments(request.media), stopped=self._stopped):
            if isinstance(event, PromptReady):
                ready = messages.Prepared(request.request, event.prompt_tokens, event.reused_tokens)
            else:
                self._progress("encoding pictures", 0, 0)
        if self._stopped():
            raise Stopped
        self._send(ready or messages.Prepared(request.request, 0, 0))
        self._chat.settle()

    def _ask(self, request: messages.Ask) -> None:
        turn = len(self._chat.turns) if request.turn is None else request.turn
        media = request.media
        if not 0 <= turn <= len(self._chat.turns):
            raise PromptError(f"there is no turn {turn}", f"the conversation has {len(self._chat.turns)}")
        if media is None:
            media = self._shown[turn] if turn < len(self._shown) else ()
        self._answer_turn(turn, request.text, media, request.options)

    def _retry(self, request: messages.Retry) -> None:
        if not self._chat.turns:
            raise PromptError("there is no question to ask again", "ask one")
        turn = len(self._chat.turns) - 1
        self._answer_turn(turn, self._chat.turns[turn].question.text, self._shown[turn], request.options)

    def _answer_turn(self, turn: int, text: str, media: tuple[str, ...], options: AnswerOptions) -> None:
        """Ask as turn `turn`, in place of those from there on; they stay where it comes to nothing."""
        attachments = self._media.attachments(media)
        before = self._chat.turns
        self._chat.turns = before[:turn]
        self._stream(self._chat.ask(text, attachments, **asdict(options), stopped=self._stopped), media, before)

    def _continue(self, request: messages.Continue) -> None:
        media = self._shown[-1] if self._shown else ()
        events = self._chat.continue_answer(**asdict(request.options), stopped=self._stopped)
        self._stream(events, media, self._chat.turns)

    def _stream(self, events: Iterator[ChatEvent], media: tuple[str, ...], before: tuple[Turn, ...]) -> None:
        """Send an answer as it comes; the turns are those `before` unless it came to something."""
        number, answered = self._current.request, None
        try:
            for event in events:
                if isinstance(event, PromptReady):
                    self._send(messages.Evaluated(number, event.prompt_tokens, event.reused_tokens, event.prefill_ms))
                elif isinstance(event, TextPiece):
                    self._send(messages.TextPiece(number, event.text))
                elif isinstance(event, Answered) and (event.answer or event.stop_reason != "cancelled"):
                    answered = event
        finally:
            if answered is None:
                self._chat.turns = before
        if answered is None:
            raise Stopped
        turn = len(self._chat.turns) - 1
        self._shown[turn:] = [media]
        said = self._chat.turns[turn]
        self._send(
            messages.Answered(
                number,
                turn,
                said.question.text,
                media,
                answered.answer,
                answered.stats,
                answered.stop_reason,
                self._chat.context_tokens,
                memory_bytes(),
            )
        )
        self._chat.settle()

    def _reset(self, request: messages.Reset) -> None:
        if request.system is not None:
            self._chat.system = request.system
        self._chat.reset()
        self._shown = []
        self._send(messages.Done(request.request))

    def _restore(self, request: messages.Restore) -> None:
        before = self._chat.turns
        shown: list[tuple[str, ...]] = []
        attached: dict[str, messages.Attached] = {}
        missing: list[str] = []
        self._chat.reset()
        try:
            for number, said in enumerate(request.said):
                self._progress("restoring the conversation", number, len(request.said))
                keys = []
                for media in said.media:
                    try:
                        found = self._media.attach(media, self._progress, self._stopped)
                        attached[found.key] = replace(found, request=request.request)
                        keys.append(found.key)
                    except UserError as error:
                        missing.append(str(error))
                        keys.append("")
                there = [key for key in keys if key]
                self._chat.add_turn(said.text, self._media.attachments(there), said.answer)
                shown.append(tuple(keys))
        except BaseException:
            self._chat.turns = before
            raise
        self._shown = [tuple(key for key in keys if key) for keys in shown]
        found_media = tuple(attached.values())
        self._send(messages.Restored(request.request, tuple(shown), found_media, tuple(missing)))


def memory_bytes() -> int:
    """What this process holds in memory, resident."""
    import psutil

    return int(psutil.Process().memory_info().rss)


HANDLERS: dict[type[Request], Callable[[Worker, Any], None]] = {
    messages.Open: Worker._open,
    messages.Attach: Worker._attach,
    messages.Detach: Worker._detach,
    messages.Prepare: Worker._prepare,
    messages.Ask: Worker._ask,
    messages.Retry: Worker._retry,
    messages.Continue: Worker._continue,
    messages.Reset: Worker._reset,
    messages.Restore: Worker._restore,
}
