"""llama.cpp's own prints, routed to the Python logger "dclocal.llama": nothing of them reaches a terminal.

The last lines are kept, so that an error message can say why a model did not load.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import logging

import llama_cpp.llama_cpp as llama

LOGGER = logging.getLogger("dclocal.llama")
KEPT_LINES = 12
LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


class _Receiver:
    """Takes llama.cpp's log callback; lives as long as the process, since C keeps its address."""

    def __init__(self) -> None:
        self.errors: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        self.callback = llama.llama_log_callback(self._receive)
        llama.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes, _: ctypes.c_void_p) -> None:
        line = text.decode("utf-8", errors="replace").strip()
        if not line:
            return
        if level >= 3:
            self.errors.append(line)
        LOGGER.log(LEVELS.get(level, logging.DEBUG), line)


@functools.cache
def capture_log() -> _Receiver:
    """Route the log, once a process; the result's `errors` are the newest warnings and errors."""
    return _Receiver()
