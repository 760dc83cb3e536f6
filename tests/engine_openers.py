"""Sessions that a test's engine opens in its child: a scripted model that answers slowly, and prints."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dclocal.bundle import Sampling
from dclocal.chat import ChatSession
from dclocal.engine_messages import Open
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.progress import Progress


class Talker(FakeLLM):
    """Answers every question with the numbers from 1 to 99, a character every 5 ms; prints as native code does."""

    def __init__(self) -> None:
        super().__init__([], 4000)

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        os.write(1, b"native output\n")
        os.write(2, b"native error\n")
        print("python output", flush=True)
        self.answers = [" ".join(map(str, range(1, 100)))]
        for piece in super().generate(sampling, seed=seed, max_tokens=max_tokens, stop=stop):
            time.sleep(0.005)
            yield piece


class Crasher(Talker):
    """Its native code reads address 0."""

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        yield "soon"
        ctypes.string_at(0)


def talker(request: Open, progress: Progress) -> ChatSession:
    progress("loading", 1, 1)
    return ChatSession(fake_bundle(Path("fake")), FakeVision(), Talker(), request.system)


def crasher(request: Open, progress: Progress) -> ChatSession:
    return ChatSession(fake_bundle(Path("fake")), FakeVision(), Crasher(), request.system)


def chatterer(request: Open, progress: Progress) -> ChatSession:
    """Prints 4 MB while it loads."""
    for number in range(40_000):
        os.write(2, b"%099d\n" % number)
    return talker(request, progress)
