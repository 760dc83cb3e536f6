"""Progress of asking: on a terminal a bar with questions a second and the time left, else one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dclocal.progress import Progress, for_terminal


@contextmanager
def for_questions() -> Iterator[Progress]:
    """As `progress.for_terminal`, for one long step after the other."""
    if not sys.stderr.isatty():
        with for_terminal() as lines:
            yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    rate = TextColumn("{task.fields[rate]:.1f}/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Display(*columns, console=Console(stderr=True)) as display:
        bars = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = display.add_task(step, total=total or None, rate=0.0)
            bar = bars[step]
            display.update(bar, completed=done, total=total or None)
            display.update(bar, rate=display.tasks[bar].finished_speed or display.tasks[bar].speed or 0.0)

        yield show
