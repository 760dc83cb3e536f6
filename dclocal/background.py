"""Work that is begun in a thread of its own and waited for where it is needed.

What `concurrent.futures` would do; that imports ten modules which a start has no time for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


class Begun(Generic[Made]):
    """`function`'s result, which is being made from now on.  The interpreter does not end before it is."""

    def __init__(self, function: Callable[..., Made], *arguments: Any):
        self._function, self._arguments = function, arguments
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._make).start()

    def result(self) -> Made:
        """It, once it is there; raises what the function raised.  Interrupted, it waits all the same: what runs in C
        cannot be called off, nor left alone with what it works on.  (Python 3.11's `join`, interrupted, takes a thread
        for ended.)"""
        interrupted: BaseException | None = None
        while not self._done.is_set():
            try:
                self._done.wait()
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted
        if self._error is not None:
            raise self._error
        return self._made

    def _make(self) -> None:
        try:
            self._made = self._function(*self._arguments)
        except BaseException as error:
            self._error = error
        self._done.set()
