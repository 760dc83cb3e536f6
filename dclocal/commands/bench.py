"""`dclocal bench`: what each stage costs on this machine."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dclocal.benchmark import Measure

TEST_CARD = "a test card"


@click.command(epilog="Examples: dclocal bench --runs 9; dclocal bench --video --json; dclocal bench --video film.mkv")
@click.option("--bundle", "bundle_name", metavar="BUNDLE", help="A bundle's name or folder.  [default: dc-tiny]")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs of each stage.")
@click.option(
    "--video",
    is_flag=False,
    flag_value=TEST_CARD,
    metavar="[FILE]",
    help="Time questions about a video instead: FILE, or a minute of 1920×1080 that is made.",
)
@click.option(
    "--frames", type=click.IntRange(1, 4096), default=16, show_default=True, help="Frames of the video to look at."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(bundle_name: str | None, runs: int, video: str | None, frames: int, as_json: bool) -> None:
    """Time each stage: medians with their spread, one after the other."""
    from dclocal.benchmark import measure_all
    from dclocal.progress import for_terminal
    from dclocal.store import open_bundle

    if video is not None:
        _bench_video(video, bundle_name, runs, frames, as_json)
        return
    with for_terminal() as progress:
        bundle = open_bundle(bundle_name, progress)
        measures = measure_all(bundle, runs, progress)
    _print(measures, runs, {}, as_json)


def _bench_video(video: str, bundle_name: str | None, runs: int, frames: int, as_json: bool) -> None:
    from dclocal.machine import usable_cores
    from dclocal.progress import for_terminal
    from dclocal.session import open_session
    from dclocal.store import open_bundle
    from dclocal.video_benchmark import measure_video, write_test_card

    threads = usable_cores()
    with for_terminal() as progress, tempfile.TemporaryDirectory() as folder:
        session = open_session(open_bundle(bundle_name, progress), threads=threads)
        file = Path(video)
        if video == TEST_CARD:
            file = Path(folder) / "test-card.mp4"
            progress("writing a minute of 1920×1080", 0, 1)
            write_test_card(file)
            progress("writing a minute of 1920×1080", 1, 1)
        found = measure_video(session, file, runs, progress, frames)
    facts = {"video": found.video, "threads": threads, **dataclasses.asdict(found.counts)}
    _print(found.measures, runs, facts, as_json)


def _print(measures: Sequence[Measure], runs: int, facts: dict[str, Any], as_json: bool) -> None:
    """The figures, the machine, and with JSON `facts` under their names, else a line each."""
    from dclocal.machine import cpu_model, peak_memory_bytes, usable_cores

    machine = {"cpu": cpu_model(), "cores": usable_cores(), "peak_memory_bytes": peak_memory_bytes()}
    if as_json:
        figures = [dataclasses.asdict(one) for one in measures]
        print(json.dumps({"machine": machine, **facts, "measures": figures}, indent=2))
        return
    print(f"{machine['cpu']}, {machine['cores']} cores, {runs} runs, peak memory {peak_memory_bytes() / 1e6:.0f} MB")
    for name, fact in facts.items():
        print(f"{name.replace('_', ' '):46} {fact}")
    for one in measures:
        print(f"{one.name:46} {one.median:9.1f} {one.unit:9} ({one.low:.1f} to {one.high:.1f})")
