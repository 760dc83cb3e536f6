"""`dclocal bench`: what each stage costs on this machine."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dclocal.benchmark import Opened
    from dclocal.benchmark_report import Report
    from dclocal.bundle import Bundle
    from dclocal.progress import Progress

TEST_CARD = "a test card"
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(
    epilog="Examples: dclocal bench --runs 9; dclocal bench --against all --json; dclocal bench --video film.mkv"
)
@click.option("--bundle", "bundle_name", metavar="BUNDLE", help="A bundle's name or folder.  [default: dc-tiny]")
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs of each stage.")
@click.option(
    "--against",
    multiple=True,
    metavar="NAME",
    help="Compare, in turn, with pytorch, 576 (visual tokens), llama.cpp, onnxruntime, or all that are there.",
)
@click.option("--checkpoint", type=FOLDER, help="The bundle's PyTorch checkpoint, for --against.")
@click.option("--from", "wheels", type=FOLDER, help="A folder with dc-tiny's wheels, for --against.")
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
def bench(
    bundle_name: str | None,
    runs: int,
    against: tuple[str, ...],
    checkpoint: Path | None,
    wheels: Path | None,
    video: str | None,
    frames: int,
    as_json: bool,
) -> None:
    """Time each stage: medians with their spread, and the share of what this machine could do at best."""
    from dclocal.benchmark_report import lines, to_json
    from dclocal.progress import for_terminal
    from dclocal.store import open_bundle

    if video is not None and against:
        raise click.UsageError("--against compares the stages of a picture: leave out --video")
    with for_terminal() as progress:
        bundle = open_bundle(bundle_name, progress)
        if video is not None:
            report = _bench_video(video, bundle, runs, frames, progress)
        else:
            report = _bench_stages(bundle, runs, against, checkpoint, wheels, progress)
    if as_json:
        print(json.dumps(to_json(report), indent=2))
        return
    for line in lines(report):
        print(line)


def _bench_stages(
    bundle: Bundle,
    runs: int,
    names: tuple[str, ...],
    checkpoint: Path | None,
    wheels: Path | None,
    progress: Progress,
) -> Report:
    from dclocal.benchmark import measure_processes, measure_stages, memory_bytes, opened
    from dclocal.benchmark_against import check_names, measure_against
    from dclocal.benchmark_caption import measure_captions
    from dclocal.benchmark_connector import measure_connector
    from dclocal.benchmark_limits import measure_limits
    from dclocal.benchmark_report import Against, Report

    check_names(names)
    processes = measure_processes(bundle, runs, progress)
    with opened(bundle) as models:
        facts = {**_facts(models), "memory_with_both_models_open_bytes": memory_bytes()}
        stages = measure_stages(models, runs, progress)
        captions = measure_captions(models, runs, progress)
        connector = measure_connector(bundle, models.threads, runs)
        limits = measure_limits(bundle, models.threads, stages, progress)
        against = None
        if names:
            found = measure_against(models, names, runs, progress, checkpoint=checkpoint, wheels=wheels)
            against = Against(*found)
    if connector is None:
        facts["connector"] = "a part of the vision graph that cannot be told apart"
    measures = [*processes, *stages, *captions, *([connector] if connector else [])]
    return Report(measures, runs, facts, limits, against)


def _facts(models: Opened) -> dict[str, object]:
    from importlib.metadata import version

    from dclocal import llama_kernels, vision_kernels

    return {
        "bundle": models.bundle.manifest.name,
        "threads": models.threads,
        "providers": models.vision.providers,
        "vision_precision": models.bundle.manifest.vision.precision,
        "llm_quantization": models.bundle.manifest.llm_quantization,
        "onnxruntime": version("onnxruntime"),
        "llama_cpp_python": version("llama-cpp-python"),
        "vision_kernels": vision_kernels.whose(),
        "llama_kernels": llama_kernels.whose(),
    }


def _bench_video(video: str, bundle: Bundle, runs: int, frames: int, progress: Progress) -> Report:
    from dclocal.benchmark_report import Report
    from dclocal.machine import usable_cores
    from dclocal.session import open_session
    from dclocal.video_benchmark import measure_video, write_test_card

    threads = usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(bundle, threads=threads)
        file = Path(video)
        if video == TEST_CARD:
            file = Path(folder) / "test-card.mp4"
            progress("writing a minute of 1920×1080", 0, 1)
            write_test_card(file)
            progress("writing a minute of 1920×1080", 1, 1)
        found = measure_video(session, file, runs, progress, frames)
    facts = {"video": found.video, "threads": threads, **dataclasses.asdict(found.counts)}
    return Report(found.measures, runs, facts)
