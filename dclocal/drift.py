"""How far answers from a window that has slid are from those of one evaluated whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from dclocal.errors import BundleError
from dclocal.window import SlidingModel, Window, window_segments

if TYPE_CHECKING:
    from dclocal.chat import ChatSession
    from dclocal.video import Frame

SLIDES = (1, 4, 16)


class ScoringModel(SlidingModel, Protocol):
    """A sliding model that hands out the logits after its last position."""

    def logits(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Drift:
    """After `slides` slides, over the questions: the share with the same likeliest next token, and the mean and the
    greatest Kullback–Leibler divergence (nats) of the next token, from the whole evaluation to the slid one."""

    slides: int
    agreement: float
    mean_kl: float
    greatest_kl: float


def slide_drift(
    session: ChatSession,
    frames: Sequence[Frame],
    questions: Sequence[str],
    *,
    size: int,
    tokens_per_frame: int | None = None,
    slides: Sequence[int] = SLIDES,
) -> list[Drift]:
    """Slide a window of `size` over `frames` (`size` + the most of `slides` of them, all different), and compare.

    Raises BundleError where the model's cache cannot slide.
    """
    model = cast(ScoringModel, session.llm)
    if not model.can_slide:
        raise BundleError("this model's memory cannot slide", "it is evaluated whole each time")
    found = []
    for count in sorted(slides):
        window = Window(session, size, tokens_per_frame, refresh_every=count + 1)
        model.drop_cells(0, len(model.cells))
        for number, frame in enumerate(frames[: size + count]):
            window.look(frame)
            if number + 1 >= size:
                window.prefill()
        if window.slides != count:
            raise ValueError(f"{window.slides} slides instead of {count}: frames that are alike are one")
        slid = [_next_token(window, question) for question in questions]
        model.drop_cells(0, len(model.cells))
        whole = [_next_token(window, question) for question in questions]
        kl = [float(np.sum(np.exp(one) * (one - other))) for one, other in zip(whole, slid)]
        same = [bool(one.argmax() == other.argmax()) for one, other in zip(whole, slid)]
        found.append(Drift(count, float(np.mean(same)), float(np.mean(kl)), max(kl)))
    return found


def _next_token(window: Window, question: str) -> np.ndarray:
    """The logarithms of the next token's probabilities, float64 `[n_vocab]`."""
    model = cast(ScoringModel, window.llm)
    model.prefill(window_segments(window.session, window.frames, question))
    logits = model.logits().astype(np.float64)
    logits -= logits.max()
    return logits - np.log(np.exp(logits).sum())
