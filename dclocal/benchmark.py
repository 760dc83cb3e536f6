"""Times of each stage on this machine: medians with their spread, in one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dclocal.bundle import Bundle
from dclocal.llm import LLM
from dclocal.machine import peak_memory_of_children_bytes
from dclocal.progress import Progress
from dclocal.prompt import Embeds, Message, Tokens, render, to_segments
from dclocal.vision import VisionEncoder

PROMPT = "Describe the picture."


@dataclass(frozen=True)
class Measure:
    """A stage's median, least and greatest figure, in `unit`."""

    name: str
    unit: str
    median: float
    low: float
    high: float


def measure_all(bundle: Bundle, runs: int, progress: Progress) -> list[Measure]:
    """Every stage, `runs` times each after one warm-up."""
    size = bundle.manifest.vision.image.size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    measures: list[Measure] = []

    def add(name: str, unit: str, figures: Sequence[float]) -> None:
        measures.append(Measure(name, unit, statistics.median(figures), min(figures), max(figures)))
        progress("measuring", len(measures), 8)

    add("dclocal --help, whole process", "ms", _process(["--help"], runs))
    with tempfile.TemporaryDirectory() as folder:
        picture = _write_picture(Path(folder) / "picture.png", size)
        chat = ["chat", picture, "-p", PROMPT, "--max-tokens", "10", "--bundle", str(bundle.path)]
        add("dclocal chat, up to ten tokens, whole process", "ms", _process(chat, runs))
    add("its memory at most", "MB", [peak_memory_of_children_bytes() / 1e6])
    vision = VisionEncoder(bundle)
    add("encode one picture", "ms", _times(lambda: vision.encode(pixels), runs))
    embeds = vision.encode(pixels)[0]
    with LLM(bundle.llm_path, n_ctx=bundle.manifest.n_ctx) as llm:
        counter = iter(range(1 << 30))
        add(f"prefill {len(embeds)} image tokens", "ms", _times(lambda: _fresh(llm, embeds, next(counter)), runs))
        add("first turn, prefill", "ms", _times(lambda: _turn(llm, bundle, embeds, f"new{next(counter)}"), runs))
        _turn(llm, bundle, embeds, "same")
        add("second turn on the same picture, prefill", "ms", _times(lambda: _follow_up(llm, bundle, embeds), runs))
        add("decode", "tokens/s", [_decode(llm, bundle, embeds) for _ in range(runs + 1)][1:])
    return measures


def _write_picture(path: Path, size: int) -> str:
    from PIL import Image

    values = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return str(path)


def _times(work: Callable[[], object], runs: int) -> list[float]:
    """Milliseconds of each run, after one that is not counted."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return times


def _process(arguments: list[str], runs: int) -> list[float]:
    command = [sys.executable, "-m", "dclocal", *arguments]
    return _times(lambda: subprocess.run(command, check=True, capture_output=True), runs)


def _fresh(llm: LLM, embeds: np.ndarray, number: int) -> None:
    llm.prefill([Embeds(f"fresh{number}", embeds)])
    llm.logits()


def _turn(llm: LLM, bundle: Bundle, embeds: np.ndarray, key: str) -> None:
    messages = [Message("user", PROMPT, (key,))]
    llm.prefill(to_segments(render(bundle.manifest.prompt, messages, answer_next=True), llm.tokenize, {key: embeds}))
    llm.logits()


def _follow_up(llm: LLM, bundle: Bundle, embeds: np.ndarray) -> None:
    messages = [Message("user", PROMPT, ("same",)), Message("assistant", "a red circle"), Message("user", PROMPT)]
    pieces = render(bundle.manifest.prompt, messages, answer_next=True)
    _turn(llm, bundle, embeds, "same")
    llm.prefill(to_segments(pieces, llm.tokenize, {"same": embeds}))
    llm.logits()


def _decode(llm: LLM, bundle: Bundle, embeds: np.ndarray) -> float:
    """Tokens a second over 64 tokens evaluated one by one after the picture."""
    _fresh(llm, embeds, 0)
    ids = llm.tokenize("the quick brown fox jumps over the lazy dog " * 8, False)[:64]
    prefix = Embeds("fresh0", embeds)
    started = time.perf_counter()
    for count in range(1, len(ids) + 1):
        llm.prefill([prefix, Tokens(tuple(ids[:count]))])
        llm.logits()
    return len(ids) / (time.perf_counter() - started)
