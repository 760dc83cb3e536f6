"""Questions on a live picture: one thread keeps a window of frames encoded and evaluated, and answers between times."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dclocal.chat import Answered, Event
from dclocal.errors import PromptError

if TYPE_CHECKING:
    from dclocal.frames import FrameTime
    from dclocal.webcam import Camera
    from dclocal.window import Window

POLL_S = 0.2
STALE_PERIODS = 2
"""A question waits for a newer frame only where the window's newest is older than this many periods."""


@dataclass(frozen=True)
class Asked:
    """Before an answer's own events: the frames that it is about."""

    frames: tuple[FrameTime, ...]


@dataclass(eq=False)
class _Question:
    text: str
    options: dict[str, Any]
    events: queue.Queue[Event | Asked | BaseException] = field(default_factory=queue.Queue)
    called_off: bool = False


class Live:
    """A window on a camera, `rate` frames a second, kept ready for questions by a thread that owns the models.

    A question costs its own tokens, and those of a frame whose evaluation it forestalls.  `close` leaves no thread;
    the camera is its opener's.
    """

    def __init__(self, camera: Camera, window: Window, rate: float):
        self.camera, self.window, self.period_s = camera, window, 1 / rate
        self._questions: queue.Queue[_Question] = queue.Queue()
        self._closed = threading.Event()
        self._filled = threading.Condition()
        self._fault: BaseException | None = None
        self._seen, self._looked = -1, 0.0
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)
        self._thread.start()

    def wait(self, frames: int, timeout_s: float) -> int:
        """Wait until the window has so many frames, the camera is over, or time is up; how many it has."""

        def there() -> bool:
            return len(self.window.frames) >= frames or self.camera.over or self._fault is not None

        until = time.monotonic() + timeout_s
        with self._filled:
            while not there() and (left := until - time.monotonic()) > 0:
                self._filled.wait(min(left, POLL_S))
        return len(self.window.frames)

    def ask(self, text: str, **options: Any) -> Iterator[Event | Asked]:
        """The events of `ChatSession.ask` about the newest window, `Asked` before them; close it to stop the answer.

        `options` are those of `Window.ask`.  Raises PromptError where there is no picture yet, and what the models
        raise.
        """
        question = _Question(text, options)
        self._questions.put(question)
        try:
            while True:
                event = self._next(question)
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Answered):
                    return
        finally:
            question.called_off = True

    def close(self) -> None:
        """End the thread, after at most the evaluation that it is in."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self, question: _Question) -> Event | Asked | BaseException:
        while True:
            try:
                return question.events.get(timeout=POLL_S)
            except queue.Empty:
                if not self._thread.is_alive() and question.events.empty():
                    return self._fault or PromptError("the camera was closed", "open it again")

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                due_s = self._looked + self.period_s - time.monotonic()
                try:
                    question = self._questions.get(timeout=min(max(due_s, 0.001), POLL_S))
                except queue.Empty:
                    if due_s <= 0:
                        self._look()
                        self._prefill()
                else:
                    self._answer(question)
        except BaseException as error:
            self._fault = error

    def _look(self) -> None:
        """Encode the newest frame, if there is one that the window has not seen."""
        self._looked = time.monotonic()
        frame = self.camera.newest(self._seen)
        if frame is None:
            return
        self._seen = frame.index
        self.window.look(frame)
        with self._filled:
            self._filled.notify_all()

    def _prefill(self) -> None:
        """Evaluate the window, unless a question waits, which does it along with its own tokens."""
        if self.window.frames and self._questions.empty() and not self._closed.is_set():
            self.window.prefill()

    def _answer(self, question: _Question) -> None:
        if question.called_off:
            return
        try:
            if time.monotonic() - self._looked > STALE_PERIODS * self.period_s:
                self._look()
            if not self.window.frames:
                raise PromptError(f"{self.camera.name} has given no picture yet", "wait for one")
            question.events.put(Asked(tuple(frame.when for frame in self.window.frames)))
            with closing(self.window.ask(question.text, **question.options)) as events:  # type: ignore[type-var]
                for event in events:
                    question.events.put(event)
                    if question.called_off or self._closed.is_set():
                        return
        except Exception as error:
            question.events.put(error)
