"""Work in a thread of its own: who is interrupted while he waits for it finds it done all the same."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from dclocal.background import Begun


def test_an_interrupted_wait_ends_with_the_work_and_can_be_repeated() -> None:
    """What runs in C works on memory that the next step would give back."""
    done: list[float] = []

    def work() -> str:
        time.sleep(0.5)
        done.append(time.monotonic())
        return "made"

    begun = Begun(work)
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        begun.result()
    assert done and begun.result() == "made"
