"""`dclocal caption`: one JSON line for each of many pictures and videos."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import click

from dclocal.commands.options import model_options, open_chosen, split_options

QUESTION = "What is this?"
LINE_EVERY_S = 10.0


@click.command(
    epilog="Examples: dclocal caption photos --out captions.jsonl; "
    'dclocal caption a.jpg clip.mp4 films --recursive -p "Describe this." > captions.jsonl'
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), help="Append here; files that it has are skipped."
)
@click.option("-p", "--prompt", default=QUESTION, show_default=True, help="What to ask about each.")
@click.option("--recursive", is_flag=True, help="Folders in folders too.")
@click.option("--frames", type=click.IntRange(1, 4096), help="Frames of a video.  [default: the bundle's]")
@click.option("--tokens-per-frame", type=click.IntRange(1), help="Tokens to keep of each frame.")
@model_options
def caption(
    paths: tuple[str, ...],
    out: Path | None,
    prompt: str,
    recursive: bool,
    frames: int | None,
    tokens_per_frame: int | None,
    **given: Any,
) -> None:
    """Describe pictures and videos, files or folders: a JSON line each, in a fixed order.

    A file that cannot be read gets a line with "error" and stops nothing.
    """
    from dclocal.caption import caption_all, find_media, read_done
    from dclocal.errors import PromptError
    from dclocal.frames import VideoRequest
    from dclocal.progress import for_terminal
    from dclocal.workers import workers_for

    model, options = split_options(given)
    if not prompt.strip():
        raise PromptError("the question is empty", "ask something")
    done = read_done(out) if out is not None else set()
    found = find_media(paths, recursive)
    todo = [path for path in found if path not in done]
    if not todo:
        print(f"nothing to do: {len(found):,} found, {len(found) - len(todo):,} done already", file=sys.stderr)
        return
    workers = workers_for(len(todo), model["threads"])
    if model["checkpoint"] is None:
        model["threads"] = workers.pool
    with for_terminal() as progress:
        session = open_chosen(progress, **model)
    request = VideoRequest(frames=frames, tokens_per_frame=tokens_per_frame)
    failed, started = 0, time.perf_counter()
    with (
        _opened(out) as stream,
        closing(_Rate(len(todo), sys.stderr.isatty() and stream is not sys.stdout)) as rate,
        closing(caption_all(session, todo, prompt, options, request, workers)) as lines,  # type: ignore[type-var]
    ):
        for line in lines:
            print(json.dumps(line), file=stream, flush=True)  # ASCII: a path may hold bytes that are no UTF-8
            failed += "error" in line
            rate.step()
    seconds = time.perf_counter() - started
    skipped = f", {len(found) - len(todo):,} skipped" if len(todo) < len(found) else ""
    print(f"{len(todo):,} files in {seconds:.0f} s, {failed:,} failed{skipped}", file=sys.stderr)


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str]]:
    """Where the lines go: the end of `out`, else standard output."""
    from dclocal.errors import UserError

    if out is None:
        yield sys.stdout
        return
    try:
        stream = out.open("a", encoding="ascii")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})", "name another --out") from error
    with stream:
        yield stream


class _Rate:
    """How many are done, at what rate, and how long the rest takes: a bar, or now and then a line."""

    def __init__(self, total: int, drawing: bool):
        self.total, self.done = total, 0
        self.started = self.told = time.perf_counter()
        self.display: Any = None
        if drawing:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.display = Progress(*columns, console=Console(stderr=True))
            self.task = self.display.add_task("", total=total)
            self.display.start()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.perf_counter()
        rate = self.done / (now - self.started)
        if self.display is not None:
            self.display.update(self.task, completed=self.done, description=f"{rate:.2f}/s")
        elif now - self.told >= LINE_EVERY_S:
            self.told = now
            left = (self.total - self.done) / rate
            print(f"{self.done:,} of {self.total:,}, {rate:.2f}/s, {left:.0f} s left", file=sys.stderr)

    def close(self) -> None:
        if self.display is not None:
            self.display.stop()
