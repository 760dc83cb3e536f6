"""Progress of long steps: a callable `progress(step, done, total)`, drawn or silent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, int, int], None]
"""(step in words, done, total), in the step's own units; total 0 means that it is not known."""


def silent(step: str, done: int, total: int) -> None:
    """Shows nothing."""


@contextmanager
def for_terminal() -> Iterator[Progress]:
    """Bars on stderr where it is a terminal, else one line a step.  Nothing is imported before the first step."""
    drawing = _Bars() if sys.stderr.isatty() else _Lines()
    try:
        yield drawing.show
    finally:
        drawing.close()


class _Lines:
    def __init__(self) -> None:
        self.told: set[str] = set()

    def show(self, step: str, done: int, total: int) -> None:
        if step not in self.told:
            self.told.add(step)
            print(f"dclocal: {step}", file=sys.stderr)

    def close(self) -> None:
        pass


class _Bars:
    def __init__(self) -> None:
        self.bars: dict[str, int] = {}
        self.display: Any = None  # a rich.progress.Progress once there is something to draw

    def show(self, step: str, done: int, total: int) -> None:
        if self.display is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self.display = Progress(*columns, console=Console(stderr=True))
            self.display.start()
        if step not in self.bars:
            self.bars[step] = self.display.add_task(step, total=total or None)
        self.display.update(self.bars[step], completed=done, total=total or None)

    def close(self) -> None:
        if self.display is not None:
            self.display.stop()
