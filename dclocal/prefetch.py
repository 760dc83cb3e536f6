"""The next items are made in threads while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Make = Callable[[Callable[[], bool]], Iterable[Item]]
POLL_S = 0.2


def prefetch(*makes: Make[Item], depth: int = 2) -> Iterator[Item]:
    """What all of `makes` give, each made in a thread of its own, as it comes and up to `depth` items ahead.

    An error of one is raised here, after what it gave.  Each is handed a function that tells whether the work is called
    off, and should look at it now and then.  Close the iterator (`contextlib.closing`) to call it off: it returns once
    the threads have ended.
    """
    ahead: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    called_off = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not called_off.is_set():
            try:
                return ahead.put((item, error), timeout=POLL_S)
            except queue.Full:
                continue

    def work(make: Make[Item]) -> None:
        try:
            for item in make(called_off.is_set):
                put(item, None)
                if called_off.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    threads = [threading.Thread(target=work, args=(make,), name="prefetch", daemon=True) for make in makes]
    for thread in threads:
        thread.start()
    going = len(threads)
    try:
        while going:
            item, error = ahead.get()
            if isinstance(error, StopIteration):
                going -= 1
            elif error is not None:
                raise error
            else:
                yield item  # type: ignore[misc]
    finally:
        called_off.set()
        for thread in threads:
            thread.join()
