"""Other ways to do the same work, timed in turn with ours, so that what disturbs the machine disturbs both.

Who they are stands in CONTESTS; what they need to take part is in `benchmark_sources`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dclocal.benchmark import (
    COUNTING,
    DECODE,
    DECODED,
    PROMPT,
    Measure,
    Opened,
    decode_ms,
    encode_name,
    prefill_embeds,
    prefill_name,
    summary,
    timed,
)
from dclocal.benchmark_sources import Field, float32_graph, is_embedded, pipelines, plain_session
from dclocal.errors import UserError
from dclocal.progress import Progress
from dclocal.prompt import Message, Tokens, render, to_segments

ALL = "all"
FULL = 576
PAUSE_S = 0.05
"""Between two runs: threads of the one that wait for more work would take time from the other."""


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


def race(contest: Contest, runs: int, pause: Callable[[], None] = lambda: time.sleep(PAUSE_S)) -> Ratio:
    """`runs` of either in turn, after one of either that is not counted."""
    ours: list[float] = []
    theirs: list[float] = []
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

    Raises UserError where one that was named, other than by "all", cannot, or is not known.
    """
    check_names(names)
    chosen = tuple(CONTESTS) if ALL in names else tuple(dict.fromkeys(names))
    ratios, missing = [], {}
    with ExitStack() as closing:
        field = Field(models, checkpoint, wheels, progress, closing, {})
        for index, name in enumerate(chosen):
            progress("comparing", index, len(chosen))
            try:
                for contest in CONTESTS[name](field):
                    ratios.append(race(contest, runs))
            except UserError as error:
                if ALL not in names:
                    raise
                missing[name] = str(error)
        progress("comparing", len(chosen), len(chosen))
    return ratios, missing


def check_names(names: Sequence[str]) -> None:
    """Raise UserError for a name that is not known."""
    for name in names:
        if name not in (*CONTESTS, ALL):
            raise UserError(f"there is no {name!r} to compare with", f"known: {', '.join((*CONTESTS, ALL))}")


def _pytorch(field: Field) -> Iterator[Contest]:
    """PyTorch, float32, not compiled: the whole way to the first token, and vision alone."""
    ours, theirs = field.models, pipelines(field)["own"]
    yield Contest(
        "pytorch",
        "picture to first token",
        partial(timed, partial(first_token, ours)),
        partial(timed, partial(theirs.first_token, ours.image, PROMPT)),
    )
    yield Contest(
        "pytorch",
        encode_name(1),
        partial(timed, partial(ours.vision.encode, ours.pixels)),
        partial(timed, partial(theirs.encode, ours.pixels)),
    )


def _full_grid(field: Field) -> Iterator[Contest]:
    """A token for every patch of the backbone, as without the efficient connector: prefill, and PyTorch's whole way."""
    ours = field.models
    tokens = ours.bundle.manifest.vision.tokens
    embeds = ours.vision.encode(ours.pixels)[0]
    yield Contest(
        f"with {FULL} tokens",
        prefill_name(tokens),
        partial(timed, partial(prefill_embeds, ours.llm, embeds, tokens)),
        partial(timed, partial(prefill_embeds, ours.llm, embeds, FULL)),
    )
    theirs = pipelines(field)["full"]
    yield Contest(
        f"pytorch with {theirs.tokens} tokens",
        "picture to first token",
        partial(timed, partial(first_token, ours)),
        partial(timed, partial(theirs.first_token, ours.image, PROMPT)),
    )


def _llama(field: Field) -> Iterator[Contest]:
    """llama.cpp's own loop on the same file: tokens in one go, and one by one."""
    from dclocal.benchmark_llama import LlamaAside

    ours = field.models
    bare = field.closing.enter_context(LlamaAside(ours.bundle.llm_path, ours.llm.n_ctx, ours.threads))
    for tokens in (ours.bundle.manifest.vision.tokens, FULL):
        yield Contest(
            "llama.cpp",
            f"{prefill_name(tokens)} of text",
            partial(timed, partial(_prefill_text, ours, tokens)),
            partial(bare.prefill, tokens),
        )
    start = len(ours.llm.tokenize(COUNTING, False)) // 2

    def theirs() -> float:
        bare.prefill(start)
        return bare.decode(DECODED, start) / DECODED

    yield Contest("llama.cpp", f"{DECODE}, one token", partial(decode_ms, ours.llm), theirs)


def _onnxruntime(field: Field) -> Iterator[Contest]:
    """ONNX Runtime with its own defaults: on the bundle's graph, and where it can be had on the float32 one."""
    ours = field.models
    graphs = {"onnxruntime's defaults": lambda: ours.bundle.vision_path}
    if is_embedded(ours.bundle):
        graphs["onnxruntime's defaults, float32 graph"] = lambda: float32_graph(field)
    for name, graph in graphs.items():
        run = plain_session(graph())
        yield Contest(
            name,
            encode_name(1),
            partial(timed, partial(ours.vision.encode, ours.pixels)),
            partial(timed, partial(run, ours.pixels)),
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


def _prefill_text(models: Opened, tokens: int) -> None:
    models.llm.forget()
    models.llm.prefill([Tokens(tuple(index % models.llm.n_vocab for index in range(tokens)))])
    models.llm.logits()
