"""What a conversation hands on and what it stands on: events, what an answer cost, and the models' protocols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from dclocal.bundle import Manifest, Sampling
    from dclocal.cells import Cell, Prefill
    from dclocal.prompt import Segment


class Model(Protocol):
    """What a session needs of `bundle.Bundle`: what the model is, and AnyRes's newline embedding."""

    @property
    def manifest(self) -> Manifest: ...
    def read_newline(self) -> np.ndarray | None: ...


class Vision(Protocol):
    """What a session needs of `vision.VisionEncoder`."""

    def encode(self, pixels: np.ndarray) -> np.ndarray: ...


class LanguageModel(Protocol):
    """What a session needs of `llm.LLM`."""

    n_ctx: int
    last_tokens: list[int]

    @property
    def cells(self) -> list[Cell]: ...
    def tokenize(self, text: str, parse_special: bool) -> list[int]: ...
    def prefill(self, segments: Sequence[Segment]) -> Prefill: ...
    def settle(self) -> None: ...
    def generate(
        self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()
    ) -> Iterator[str]: ...


@dataclass(frozen=True)
class Attachment:
    """An image of the conversation: its number, from 1, and the key of its content."""

    number: int
    key: str


@dataclass(frozen=True)
class AnswerOptions:
    """How an answer is generated; None is the bundle's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Stats:
    """What one answer cost: milliseconds, tokens, and tokens a second while decoding."""

    encode_ms: float
    prefill_ms: float
    ttft_ms: float
    decode_tps: float
    prompt_tokens: int
    image_tokens: int
    answer_tokens: int
    image_cached: bool


@dataclass(frozen=True)
class ImageEncoded:
    """An image's embeddings are there; `cached` if they already were."""

    key: str
    cached: bool
    encode_ms: float


@dataclass(frozen=True)
class PromptReady:
    """The prompt is evaluated: its tokens, those found in the cache, and the time it took."""

    prompt_tokens: int
    reused_tokens: int
    prefill_ms: float


@dataclass(frozen=True)
class TextPiece:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True)
class Answered:
    """The answer is complete; `answer` is empty where the model said nothing.

    `stop_reason` is "end" where the model ended it, "length" at the limit of tokens, "cancelled" where it was
    called off, and "repetition" where it began to repeat itself: then `answer` has what it repeated once, though the
    pieces had it several times.  An answer that went on is there from its start.
    """

    answer: str
    stats: Stats
    stop_reason: str = "end"


Event = ImageEncoded | PromptReady | TextPiece | Answered
