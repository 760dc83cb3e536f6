"""Threads that answer about different files at the same time, and how they share the cores.

A picture alone keeps several cores less than busy: two at a time, on half the cores each, are done a fifth sooner.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dclocal.machine import usable_cores

MOST = 2
MANY = 3
"""So many files are worth several workers; fewer are done sooner with all cores for each."""


class Workers:
    """`count` threads on `cores` cores; those that work have equal shares of them.

    Where `cores` is 0, nobody is told how many threads to use.
    """

    def __init__(self, count: int, cores: int):
        self.count, self.cores = count, cores
        self._lock, self._alone = threading.Lock(), threading.Lock()
        self._working = 0

    @property
    def pool(self) -> int:
        """Threads for what all workers use at the same time, each bringing its own: ONNX Runtime's session."""
        return max(1, self.cores - self.count + 1)

    @property
    def share(self) -> int:
        """The threads that each of those has who work at the moment."""
        return max(1, self.cores // max(1, self._working))

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker's time from its first file to its last."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For what one worker at a time may use; those who wait leave their cores to others."""
        self._count(-1)
        self._alone.acquire()
        self._count(1)
        try:
            yield
        finally:
            self._alone.release()

    def _count(self, change: int) -> None:
        with self._lock:
            self._working += change


def workers_for(files: int, threads: int | None = None) -> Workers:
    """As many as are worth it, on so many threads; on all cores where None."""
    cores = threads or usable_cores()
    return Workers(min(MOST, cores) if files >= MANY else 1, cores)
