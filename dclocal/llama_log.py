"""llama.cpp's own prints, routed to the Python logger "dclocal.llama": nothing of them reaches a terminal.

The errors of the newest call are kept, so that a message can say why a model did not load.  A model tells 1,400 lines
while it loads, and for each of them waits for Python, which may be busy elsewhere: unless somebody listens, they are
taken by a function in C, and a call that fails is made again to hear why.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from dclocal.background import Begun
from dclocal.llama_api import llama

if TYPE_CHECKING:
    import logging

LOGGING = "logging"
"""The module, which a start has no time to import unless somebody listens: then it is imported already."""
KEPT_LINES = 12
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
LEVELS = {1: DEBUG, 2: INFO, 3: WARNING, 4: ERROR}
CONTINUED = 5
"""llama.cpp's level for more of the line before it, such as the dots of a progress bar."""

Result = TypeVar("Result")


class _Receiver:
    """Takes llama.cpp's log callback; lives as long as the process, since C keeps its address."""

    def __init__(self) -> None:
        self.errors: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.on_line: Callable[[str], None] | None = None
        self.failure: Exception | None = None
        """What `on_line` raised, which C would drop."""
        self._level = DEBUG
        self.callback = llama.llama_log_callback(self._receive)
        # A function that takes no arguments and changes nothing, whatever it is handed.
        self._nobody = ctypes.cast(llama._lib.llama_time_us, llama.llama_log_callback)
        self._deaf, self._turn = 0, threading.Lock()
        llama.llama_log_set(self.callback, ctypes.c_void_p(0))

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Nothing is received meanwhile, of any thread: another's call that fails has no reason to tell then."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, one: int) -> None:
        with self._turn:
            self._deaf += one
            llama.llama_log_set(self._nobody if self._deaf else self.callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level != CONTINUED:
            self._level = LEVELS.get(level, DEBUG)
        line = text.decode("utf-8", errors="replace").strip()
        if not line:
            return
        if self._level >= ERROR:
            self.errors.append(line)
        heard = self.on_line is not None and self._level < ERROR
        logger().log(DEBUG if heard else self._level, "%s", line)
        if self.on_line is not None and self.failure is None:
            try:
                self.on_line(line)
            except Exception as error:
                self.failure = error


@functools.cache
def logger() -> logging.Logger:
    """Where the lines go."""
    import logging

    found = logging.getLogger("dclocal.llama")
    found.addHandler(logging.NullHandler())  # else logging prints warnings where no handler is set
    return found


def _somebody_listens() -> bool:
    return LOGGING in sys.modules and logger().isEnabledFor(INFO)


@functools.cache
def capture_log() -> _Receiver:
    """Route the log, once a process; the result's `errors` are those of the newest call of `run_logging`."""
    return _Receiver()


def run_logging(
    function: Callable[..., Result],
    *arguments: object,
    succeeded: Callable[[Result], bool] = bool,
    on_line: Callable[[str], None] | None = None,
) -> Result:
    """Call a function of llama.cpp that logs, in a thread of its own; `succeeded` tells from its result whether it did
    what it was to do, and `on_line` is told each line, which then is no warning: llama.cpp's quantizer warns of each
    matrix that it treats as it was told to.  An error of `on_line` is raised once the function has come back.

    Python delivers Ctrl-C to the main thread alone; arriving inside a callback from C it would be lost.
    """
    receiver = capture_log()
    receiver.errors.clear()
    if on_line is None and not _somebody_listens():
        result = Begun(unheard, function, *arguments).result()
        if succeeded(result):
            return result
    receiver.on_line, receiver.failure = on_line, None
    try:
        result = Begun(function, *arguments).result()
    finally:
        receiver.on_line = None
    if receiver.failure is not None:
        raise receiver.failure
    return result


def unheard(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function of llama.cpp, whose lines reach nobody unless somebody listens; to be called by another thread
    than the main one, as `run_logging` does."""
    if _somebody_listens():
        return function(*arguments)
    with capture_log().deaf():
        return function(*arguments)


def is_zero(status: int) -> bool:
    """How llama.cpp's functions that give a status tell success."""
    return status == 0
