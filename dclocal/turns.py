"""A turn of a conversation as data, the start of a prompt, and what an answer cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dclocal.chat_events import ImageEncoded, PromptReady, Stats
from dclocal.prompt import Embeds, Message, Segment
from dclocal.repetition import GuardedAnswer

if TYPE_CHECKING:
    from dclocal.chat import ChatSession


@dataclass(frozen=True)
class Turn:
    """A question and its answer, as said and as evaluated: `segments` are what the question added to the prompt, up to
    where the answer starts, `ids` the answer's own tokens."""

    question: Message
    segments: tuple[Segment, ...]
    answer: str = ""
    ids: tuple[int, ...] = ()


def answer_stats(
    started: float,
    encoded: Sequence[ImageEncoded],
    segments: Sequence[Segment],
    ready: PromptReady,
    answer: GuardedAnswer,
    tokens: int,
) -> Stats:
    """What an answer cost that was asked for at `started`, by `time.perf_counter`, and has `tokens` new tokens."""
    first, spent = answer.first, answer.last - answer.first
    return Stats(
        encode_ms=sum(event.encode_ms for event in encoded),
        prefill_ms=ready.prefill_ms,
        ttft_ms=1000 * ((first or time.perf_counter()) - started),
        decode_tps=(tokens - 1) / spent if tokens > 1 and spent > 0 else 0.0,
        prompt_tokens=ready.prompt_tokens,
        image_tokens=sum(len(segment) for segment in segments if isinstance(segment, Embeds)),
        answer_tokens=tokens,
        image_cached=bool(encoded) and all(event.cached for event in encoded),
    )


def milliseconds_since(started: float) -> float:
    """Since `started`, by `time.perf_counter`."""
    return 1000 * (time.perf_counter() - started)


def transcript(session: ChatSession) -> dict[str, Any]:
    """The conversation as JSON data: the bundle's name and every message with its images' keys."""
    return {
        "bundle": session.bundle.manifest.name,
        "messages": [dataclasses.asdict(message) for message in session.messages],
    }
