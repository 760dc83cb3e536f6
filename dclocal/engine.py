"""A conversation in a process of its own: requests go out, events come in, and nothing here waits for the model.

A crash of the model's native code ends the child alone: it is told as `Died`, and `restart` takes the conversation
up again.  `fake_engine.ScriptedEngine` is the same without a process, for tests.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dclocal import engine_messages as messages
from dclocal.chat_events import AnswerOptions
from dclocal.engine_messages import DEFAULTS, Died, Event, Media, Request, Said
from dclocal.engine_process import ChildProcess, signal_name
from dclocal.engine_record import Record

OPENER = "dclocal.engine_child:open_bundle_session"


class Child(Protocol):
    """What an engine needs of `engine_process.ChildProcess`."""

    pid: int

    def send(self, request: Request) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class Engine:
    """One conversation with a bundle; every request returns its number at once, and its events bear it.

    Events are taken by one consumer, with `events` or `next_event`.  The child's prints go to the file `log`; `opener`
    names the function that opens a session in the child, "module:function".
    """

    def __init__(self, log: Path, opener: str = OPENER):
        self._log, self._opener = log, opener
        self._lock = threading.Lock()
        self._record = Record()
        self._last_request = self._generation = 0
        self._child: Child | None = None
        self._arrived: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._wake: Callable[[], object] = lambda: None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process, None where none runs."""
        return self._child.pid if self._child else None

    @property
    def conversation(self) -> tuple[Said, ...]:
        """The turns so far, as `restore` takes them."""
        with self._lock:
            return self._record.conversation()

    def open(
        self, bundle: str | None = None, *, system: str = "", threads: int | None = None, lora: Sequence[str] = ()
    ) -> int:
        """Open a bundle by name, folder or .dcb file, a new conversation with it: Loading …, Ready."""
        return self._send(lambda number: messages.Open(number, bundle, system, threads, tuple(lora)))

    def attach(self, media: Media) -> int:
        """Make a picture or a video known: Loading …, Attached, whose key names it from then on."""
        return self._send(lambda number: messages.Attach(number, media))

    def detach(self, key: str) -> int:
        """Give back the memory of media that no turn shows: Done."""
        return self._send(lambda number: messages.Detach(number, key))

    def prepare(self, media: Sequence[str] = ()) -> int:
        """Do ahead what a question with these media will need: Loading …, Prepared; any later request ends it."""
        return self._send(lambda number: messages.Prepare(number, tuple(media)))

    def ask(self, text: str, media: Sequence[str] = (), options: AnswerOptions = DEFAULTS) -> int:
        """Ask about the media of these keys: Loading …, Evaluated, TextPiece …, Answered."""
        return self._send(lambda number: messages.Ask(number, text, tuple(media), None, options))

    def edit(self, turn: int, text: str, media: Sequence[str] | None = None, options: AnswerOptions = DEFAULTS) -> int:
        """Ask anew in place of turn `turn`, from 0, and all after it; its media stay unless others are given."""
        shown = None if media is None else tuple(media)
        return self._send(lambda number: messages.Ask(number, text, shown, turn, options))

    def retry(self, options: AnswerOptions = DEFAULTS) -> int:
        """Ask the last question again; give another seed and a temperature above 0 for another answer."""
        return self._send(lambda number: messages.Retry(number, options))

    def continue_answer(self, options: AnswerOptions = DEFAULTS) -> int:
        """Let the last answer go on: the pieces are what is new, Answered has all of it."""
        return self._send(lambda number: messages.Continue(number, options))

    def reset(self, system: str | None = None) -> int:
        """Forget what was said: Done; with `system`, go on under another system message."""
        return self._send(lambda number: messages.Reset(number, system))

    def restore(self, said: Sequence[Said]) -> int:
        """Take up a conversation in place of the one at hand: Loading …, Restored."""
        return self._send(lambda number: messages.Restore(number, tuple(said)))

    def cancel(self, since: int = 0) -> None:
        """Call off what was asked for from request `since` until now: an answer stops within a token and is kept
        (Answered), the rest brings Cancelled."""
        with self._lock:
            if self._child is not None:
                self._child.send(messages.Cancel(self._last_request, since))

    def restart(self, *, restore: bool = True) -> int:
        """End the child, if it still runs, and open the last bundle in a new one; with `restore`, the conversation.

        Returns the number of the request that restores it, 0 where there is nothing to restore.
        """
        with self._lock:
            child, self._child = self._child, None
            self._record.died()
            opened, said = self._record.opened, self._record.conversation()
        if child is not None:
            child.kill()
        if opened is not None:
            self.open(opened.bundle, system=opened.system, threads=opened.threads, lora=opened.lora)
            if restore and said:
                return self.restore(said)
        return 0

    def close(self) -> None:
        """End the child and the events; waits for at most two seconds."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.close()
        self._put(None)

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None once the engine is closed.  Raises TimeoutError."""
        try:
            return self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no event within {timeout_s} s") from None

    async def events(self) -> AsyncIterator[Event]:
        """The events as they come, until the engine is closed."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(arrived.set)
        while True:
            arrived.clear()
            with suppress(queue.Empty):
                while True:
                    event = self._arrived.get_nowait()
                    if event is None:
                        return
                    yield event
            await arrived.wait()

    def _send(self, make: Callable[[int], Request]) -> int:
        """Send a request, to a new child where none runs."""
        with self._lock:
            if self._child is None:
                self._child = self._start()
            self._last_request += 1
            request = make(self._last_request)
            self._record.sent(request)
            self._child.send(request)
            return request.request

    def _start(self) -> Child:
        self._generation += 1
        generation = self._generation
        return self._start_child(
            lambda event: self._received(generation, event),
            lambda status, lines: self._ended(generation, status, lines),
        )

    def _start_child(self, on_event: Callable[[Event], None], on_end: Callable[[int, tuple[str, ...]], None]) -> Child:
        return ChildProcess(self._opener, self._log, on_event, on_end)

    def _received(self, generation: int, event: Event) -> None:
        with self._lock:
            if generation != self._generation or self._child is None:  # that child was given up
                return
            self._record.received(event)
        self._put(event)

    def _ended(self, generation: int, status: int, lines: tuple[str, ...]) -> None:
        with self._lock:
            if generation != self._generation or self._child is None:
                return
            self._child = None
            self._record.died()
        name = signal_name(status)
        self._put(Died(0, None if name else status, name, lines))

    def _put(self, event: Event | None) -> None:
        self._arrived.put(event)
        with suppress(RuntimeError):  # the consumer's loop is closed
            self._wake()
