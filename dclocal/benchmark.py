"""Times of each stage on this machine: medians with their spread, and the memory held after each, in one run."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dclocal.bundle import Bundle, Sampling
from dclocal.chat_events import Answered, TextPiece
from dclocal.child_python import module_command
from dclocal.known_pictures import LIMIT
from dclocal.machine import peak_memory_of_children_bytes, usable_cores
from dclocal.prompt import Embeds, Tokens

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.llm import LLM
    from dclocal.progress import Progress
    from dclocal.vision import VisionEncoder

PROMPT = "Describe the picture."
FOLLOW_UP = "What is it made of?"
COUNTING = "the quick brown fox jumps over the lazy dog " * 4
PICTURE_SIZE = (1920, 1080)
BATCHES = (1, 4, 16)
PREFILLS = (16, 144, 576, 2304)
DECODED = 64
ROOM = 256
"""Positions beside the longest prefill in the context that is measured."""
DECODE = "decode"
NO_BYTECODE, PYCACHE = "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"
"""Where Python is told to keep no bytecode, the first run keeps it elsewhere: an installed package has its own."""
Clock = Callable[[], float]


@dataclass(frozen=True)
class Measure:
    """A stage's median, least and greatest figure, in `unit`."""

    name: str
    unit: str
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Stage(Measure):
    """A stage of this process, and the memory that the process held after it."""

    memory_bytes: int


@dataclass(frozen=True)
class Opened:
    """A bundle's models and a picture to ask about."""

    bundle: Bundle
    vision: VisionEncoder
    llm: LLM
    image: Image
    picture: Path
    threads: int

    @property
    def pixels(self) -> np.ndarray:
        """One square of noise, float32 `[1, 3, size, size]`."""
        size = self.bundle.manifest.vision.image.size
        return np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)


def encode_name(pictures: int) -> str:
    return f"vision encode, {pictures} picture{'s' * (pictures > 1)}"


def prefill_name(tokens: int) -> str:
    return f"prefill, {tokens:,} tokens"


def summary(name: str, unit: str, figures: Sequence[float]) -> Measure:
    """The median, least and greatest of `figures`."""
    return Measure(name, unit, statistics.median(figures), min(figures), max(figures))


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Milliseconds that `work` took."""
    started = clock()
    work()
    return 1000 * (clock() - started)


def repeated(figure: Callable[[], float], runs: int) -> list[float]:
    """`runs` figures after one that is not counted."""
    figure()
    return [figure() for _ in range(runs)]


@contextmanager
def opened(bundle: Bundle, threads: int | None = None) -> Iterator[Opened]:
    """The models, the language model's context as large as the longest prefill needs."""
    from dclocal.adapters import default_scales
    from dclocal.images import load_image
    from dclocal.session import open_llm
    from dclocal.vision import VisionEncoder

    threads = threads or usable_cores()
    n_ctx = max(bundle.manifest.n_ctx, max(PREFILLS) + ROOM)
    roomy = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, n_ctx=n_ctx))
    vision = VisionEncoder(bundle, threads)
    with tempfile.TemporaryDirectory() as folder:
        picture = write_picture(Path(folder) / "picture.jpg")
        with open_llm(roomy, default_scales(bundle.manifest.adapters), threads) as llm:
            yield Opened(roomy, vision, llm, load_image(picture), picture, threads)


def write_picture(file: Path) -> Path:
    """A JPEG of PICTURE_SIZE: a slope of colours with noise on it."""
    from PIL import Image

    width, height = PICTURE_SIZE
    slope = np.stack(np.broadcast_arrays(*np.ogrid[0 : 200 : 1j * height, 0 : 200 : 1j * width], 100), -1)
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    Image.fromarray((slope + noise).astype(np.uint8)).save(file, quality=90)
    return file


def measure_processes(bundle: Bundle, runs: int, progress: Progress) -> list[Measure]:
    """What a user waits for and pays who starts the command: whole processes, `runs` times after a warm-up."""
    progress("measuring whole processes", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        picture = str(write_picture(Path(folder) / "picture.jpg"))
        chat = ["chat", picture, "-p", PROMPT, "--max-tokens", "10", "--bundle", str(bundle.path)]
        compiled = {PYCACHE: folder, NO_BYTECODE: ""} if os.environ.get(NO_BYTECODE) else {}
        forgetful, mindful = ({"DCLOCAL_HOME": folder, LIMIT: limit, **compiled} for limit in ("0", "256"))
        helps = repeated(partial(_until_said, ["--help"], compiled), runs)
        starts = [(_until_said(chat, forgetful), _until_said(chat, mindful)) for _ in range(runs + 1)][1:]
    progress("measuring whole processes", 1, 1)
    return [
        summary("dclocal --help, to the first byte", "ms", helps),
        summary("cold start: dclocal chat, to the first token", "ms", [unknown for unknown, _ in starts]),
        summary("the same about a picture of an earlier run", "ms", [known for _, known in starts]),
        summary("the one over the other", "times", [unknown / known for unknown, known in starts]),
        summary("its memory at most", "MB", [peak_memory_of_children_bytes() / 1e6]),
    ]


def _until_said(arguments: Sequence[str], environment: Mapping[str, str]) -> float:
    """Milliseconds from starting a process of ours to the first byte that it prints."""
    command = _program(*arguments)
    variables = {**os.environ, **environment}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        milliseconds = 1000 * (time.perf_counter() - started)
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return milliseconds


def _program(*arguments: str) -> list[str]:
    """The script that an installed package has, as a user starts it, or the package where there is none."""
    script = Path(sys.executable).with_name("dclocal")
    if script.is_file():
        return [sys.executable, str(script), *arguments]
    return module_command("dclocal", *arguments)


def measure_stages(models: Opened, runs: int, progress: Progress) -> list[Stage]:
    """Every stage within this process, `runs` times each after one warm-up."""
    stages: list[Stage] = []
    todo = _stages(models)
    for name, (unit, figure) in todo.items():
        progress("measuring the stages", len(stages), len(todo))
        measure = summary(name, unit, repeated(figure, runs))
        stages.append(Stage(**dataclasses.asdict(measure), memory_bytes=memory_bytes()))
    progress("measuring the stages", len(todo), len(todo))
    return stages


def _stages(models: Opened) -> dict[str, tuple[str, Callable[[], float]]]:
    """What is measured, by name: its unit and what gives one figure."""
    from dclocal.images import load_image
    from dclocal.picture import squares

    spec, vision, pixels = models.bundle.manifest.vision, models.vision, models.pixels
    embeds = vision.encode(pixels)[0]
    width, height = PICTURE_SIZE
    works: dict[str, Callable[[], object]] = {
        f"image decode, {width}×{height} JPEG": partial(load_image, models.picture),
        "preprocessing, picture to pixels": partial(squares, models.image, spec.image),
    }
    works |= {encode_name(count): partial(vision.encode, np.repeat(pixels, count, axis=0)) for count in BATCHES}
    works |= {prefill_name(count): partial(prefill_embeds, models.llm, embeds, count) for count in PREFILLS}
    figures = {name: ("ms", partial(timed, work)) for name, work in works.items()}
    return {
        **figures,
        "first turn, to the first token": ("ms", lambda: ask_twice(models)[0]),
        "second turn, to the first token": ("ms", lambda: ask_twice(models)[1]),
        DECODE: ("tokens/s", lambda: 1000 / decode_ms(models.llm)),
    }


def prefill_embeds(llm: LLM, embeds: np.ndarray, tokens: int) -> None:
    """Evaluate `tokens` rows of image embeddings, as many times the given ones as it takes, from an empty cache."""
    llm.forget()
    llm.prefill([Embeds("measured", np.resize(embeds, (tokens, embeds.shape[1])))])
    llm.logits()


def ask_twice(models: Opened) -> tuple[float, float]:
    """Milliseconds to the first token of a question about a new picture, and of one that follows it."""
    from dclocal.chat import ChatSession

    models.llm.forget()
    session = ChatSession(models.bundle, models.vision, models.llm)
    attached = session.attach(models.image)
    first = _first_token_ms(session.ask(PROMPT, [attached], max_tokens=16))
    session.settle()
    return first, _first_token_ms(session.ask(FOLLOW_UP, max_tokens=16))


def _first_token_ms(events: Iterator[object]) -> float:
    """Milliseconds to the first piece of the answer, which is then heard to its end."""
    started = time.perf_counter()
    with closing(events):  # type: ignore[type-var]
        for event in events:
            if isinstance(event, TextPiece | Answered):
                milliseconds = 1000 * (time.perf_counter() - started)
                break
        for _ in events:
            pass
    return milliseconds


def decode_ms(llm: LLM, tokens: int = DECODED) -> float:
    """Milliseconds for each token of an answer, sampled and turned to text, over at least `tokens` of them.

    A model that ends its answer earlier is made to begin another, after a prompt that is one token longer; the time
    of the prompts does not count.
    """
    ids = llm.tokenize(COUNTING, False)
    seconds, evaluated = 0.0, 0
    for length in range(len(ids) // 2, len(ids)):
        llm.prefill([Tokens(tuple(ids[:length]))])
        before, started = llm.evaluated_tokens, time.perf_counter()
        for _ in llm.generate(Sampling(), seed=0, max_tokens=tokens - evaluated + 1):
            pass
        if llm.evaluated_tokens > before:
            seconds += time.perf_counter() - started
            evaluated += llm.evaluated_tokens - before
        if evaluated >= tokens:
            break
    return 1000 * seconds / max(evaluated, 1)


def memory_bytes() -> int:
    """The memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)
