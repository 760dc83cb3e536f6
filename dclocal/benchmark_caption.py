"""Captioning many pictures, as `dclocal caption` does it, beside the same questions asked one after the other."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dclocal.benchmark import PICTURE_SIZE, PROMPT, Measure, Opened, summary
from dclocal.chat import ChatSession
from dclocal.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dclocal.workers import Workers

PICTURES = 64
TOKENS = 16
RUNS = 3


def measure_captions(models: Opened, runs: int, progress: Progress) -> list[Measure]:
    """Pictures a second in both ways, in turn, and their ratio; each picture is read from its file."""
    from dclocal.session import open_session
    from dclocal.workers import workers_for

    with tempfile.TemporaryDirectory() as folder:
        files = [str(_picture(Path(folder) / f"{number:02}.jpg", number)) for number in range(PICTURES)]
        workers = workers_for(len(files))
        session = open_session(models.bundle, threads=workers.pool)
        _one_by_one(models, files[:2])
        rates: list[tuple[float, float]] = []
        runs = min(runs, RUNS)
        for run in range(runs):
            progress(f"captioning {PICTURES} pictures", run, runs)
            rates.append((PICTURES / _together(session, workers, files), PICTURES / _one_by_one(models, files)))
        progress(f"captioning {PICTURES} pictures", runs, runs)
    return [
        summary(f"dclocal caption, {PICTURES} pictures", "pictures/s", [together for together, _ in rates]),
        summary("the same questions, one after the other", "pictures/s", [alone for _, alone in rates]),
        summary("the one over the other", "times", [together / alone for together, alone in rates]),
    ]


def _together(session: ChatSession, workers: Workers, files: Sequence[str]) -> float:
    from dclocal.caption import caption_all
    from dclocal.frames import VideoRequest

    started = time.perf_counter()
    for line in caption_all(session, files, PROMPT, {"max_tokens": TOKENS}, VideoRequest(), workers):
        assert "error" not in line, line["error"]
    return time.perf_counter() - started


def _one_by_one(models: Opened, files: Sequence[str]) -> float:
    from dclocal.images import load_image

    models.llm.forget()
    started = time.perf_counter()
    for file in files:
        session = ChatSession(models.bundle, models.vision, models.llm)
        for _ in session.ask(PROMPT, [session.attach(load_image(file))], max_tokens=TOKENS):
            pass
    return time.perf_counter() - started


def _picture(file: Path, number: int) -> Path:
    from PIL import Image

    width, height = PICTURE_SIZE
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, quality=90)
    return file
