"""The next item is made in a thread while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
POLL_S = 0.2


def prefetch(make: Callable[[Callable[[], bool]], Iterable[Item]], depth: int = 2) -> Iterator[Item]:
    """What `make` gives, made in a thread, up to `depth` items ahead; its error is raised here, after what it gave.

    `make` is handed a function that tells whether the work is called off, and should look at it now and then.  Close
    the iterator (`contextlib.closing`) to call it off: it returns once the thread has ended.
    """
    ahead: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    called_off = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not called_off.is_set():
            try:
                return ahead.put((item, error), timeout=POLL_S)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in make(called_off.is_set):
                put(item, None)
                if called_off.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ahead.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        called_off.set()
        thread.join()
