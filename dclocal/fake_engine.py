"""The engine without a process, for tests of what sits above: its own worker, in a thread, on a scripted model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dclocal.bundle import Sampling
from dclocal.chat import ChatSession
from dclocal.engine import Child, Engine
from dclocal.engine_messages import Event, Open, Request
from dclocal.engine_worker import Worker
from dclocal.errors import BundleError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.progress import Progress


class ScriptedEngine(Engine):
    """Answers `answers` in turn, a character a token; a restart goes on with those that are left.

    `piece_s` is a delay in seconds before each character.  While `held` is set no further character comes, while
    `seeing` is set a picture is still being encoded, and while `loading` is set no bundle is open (both from the start,
    if asked).  `vision` and `llm` count the work of the bundle that was opened last.  `missing` are names of bundles
    that do not exist; `die` is a crash.
    """

    def __init__(
        self,
        answers: Sequence[str],
        *,
        loading: bool = False,
        seeing: bool = False,
        piece_s: float = 0.0,
        n_ctx: int = 4000,
        missing: Sequence[str] = (),
    ):
        super().__init__(Path("unused"))
        self.answers = list(answers)
        self.piece_s, self.n_ctx = piece_s, n_ctx
        self.missing = tuple(missing)
        self.held, self.seeing, self.loading = threading.Event(), threading.Event(), threading.Event()
        if seeing:
            self.seeing.set()
        if loading:
            self.loading.set()
        self.vision, self.llm = _Vision(self), _LLM(self)

    def close(self) -> None:
        self.seeing.clear()
        self.loading.clear()
        super().close()

    def die(self, status: int = -11, lines: Sequence[str] = ("Fatal Python error: Segmentation fault",)) -> None:
        """End the child as a crash does."""
        assert isinstance(self._child, _Thread)
        self._child.end(status, tuple(lines))

    def _start_child(self, on_event: Callable[[Event], None], on_end: Callable[[int, tuple[str, ...]], None]) -> Child:
        return _Thread(self._open_session, on_event, on_end)

    def _open_session(self, request: Open, progress: Progress) -> ChatSession:
        if request.bundle in self.missing:
            raise BundleError(f"there is no bundle {request.bundle!r}", "known: fake; or name a folder")
        for done in (0, 1):
            progress("loading fake", done, 1)
        while self.loading.is_set():
            time.sleep(0.005)
        self.vision, self.llm = _Vision(self), _LLM(self)
        return ChatSession(fake_bundle(Path("fake")), self.vision, self.llm, request.system)


class _Vision(FakeVision):
    def __init__(self, engine: ScriptedEngine):
        super().__init__()
        self._engine = engine

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        seen = super().encode(pixels)
        while self._engine.seeing.is_set():
            time.sleep(0.005)
        return seen


class _LLM(FakeLLM):
    def __init__(self, engine: ScriptedEngine):
        super().__init__([], engine.n_ctx)
        self.answers = engine.answers
        self._engine = engine

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        for piece in super().generate(sampling, seed=seed, max_tokens=max_tokens, stop=stop):
            while self._engine.held.is_set():
                time.sleep(0.005)
            time.sleep(self._engine.piece_s)
            yield piece


class _Thread:
    """What stands in for the child process."""

    pid = 0

    def __init__(
        self,
        opener: Callable[[Open, Progress], ChatSession],
        on_event: Callable[[Event], None],
        on_end: Callable[[int, tuple[str, ...]], None],
    ):
        self._on_event, self._on_end, self._dead = on_event, on_end, threading.Event()
        self._worker = Worker(opener, self._heard)
        threading.Thread(target=self._worker.run, name="scripted engine", daemon=True).start()

    def send(self, request: Request) -> None:
        self._worker.submit(request)

    def kill(self) -> None:
        self._dead.set()
        self._worker.submit(None)

    close = kill

    def end(self, status: int, lines: tuple[str, ...]) -> None:
        self.kill()
        self._on_end(status, lines)

    def _heard(self, event: Event) -> None:
        if not self._dead.is_set():
            self._on_event(event)
