"""Those who work share the cores, and nobody holds cores while waiting."""

from __future__ import annotations

import threading
import time

import pytest

from dclocal.workers import MANY, Workers, workers_for


def test_cores_are_shared_by_those_who_work() -> None:
    workers = Workers(2, 8)
    assert (workers.share, workers.pool) == (8, 7), "each worker brings a thread to the pool's"
    with workers.working():
        assert workers.share == 8
        with workers.working():
            assert workers.share == 4
        assert workers.share == 8


def test_who_waits_to_be_alone_holds_no_cores() -> None:
    workers, waiting = Workers(2, 2), threading.Event()

    def second() -> None:
        with workers.working():
            waiting.set()
            with workers.alone():
                pass

    thread = threading.Thread(target=second)
    with workers.working():
        with workers.alone():
            thread.start()
            waiting.wait(timeout=20)
            end = time.monotonic() + 20
            while workers.share != 2:
                assert time.monotonic() < end
                time.sleep(0.005)
        thread.join(timeout=20)
        assert not thread.is_alive() and workers.share == 2
    assert workers._working == 0


@pytest.mark.parametrize(
    ("files", "threads", "count"), [(MANY - 1, 8, 1), (MANY, 8, 2), (MANY, 1, 1), (100, 2, 2), (1, 2, 1)]
)
def test_as_many_workers_as_are_worth_it(files: int, threads: int, count: int) -> None:
    workers = workers_for(files, threads)
    assert (workers.count, workers.cores) == (count, threads)
