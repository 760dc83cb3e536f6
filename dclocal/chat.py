"""A conversation about pictures: attachments and turns in, events out.

The one way to ask a bundle: the command line, the terminal app, evaluation and any server share it.
Segments of past turns are kept as they were evaluated, so that a follow-up question finds them in the cache
and evaluates its own tokens alone.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dclocal.bundle import Manifest, Sampling
from dclocal.errors import PromptError
from dclocal.prompt import Embeds, Message, Piece, Segment, Tokens, render, to_segments

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from dclocal.cells import Prefill


LONGEST_UNIT = 240  # characters of a stretch that is looked for again
MANY, SOME, FEW = (16, 120), (8, 48), (4, 24)  # times that a unit must stand in a row, and characters they must cover


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

    def tokenize(self, text: str, parse_special: bool) -> list[int]: ...
    def prefill(self, segments: Sequence[Segment]) -> Prefill: ...
    def generate(
        self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()
    ) -> Iterator[str]: ...


@dataclass(frozen=True)
class Attachment:
    """An image of the conversation: its number, from 1, and the key of its content."""

    number: int
    key: str


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

    `stop_reason` is "end" where the model ended it, "length" at the limit of tokens, and "repetition" where it began
    to repeat itself: then `answer` has what it repeated once, though the pieces had it several times.
    """

    answer: str
    stats: Stats
    stop_reason: str = "end"


Event = ImageEncoded | PromptReady | TextPiece | Answered


class ChatSession:
    """One conversation with a bundle, or with what describes itself as one; `messages` is what was said so far."""

    def __init__(self, bundle: Model, vision: Vision, llm: LanguageModel, system: str = ""):
        self.bundle, self.vision, self.llm = bundle, vision, llm
        self._newline = bundle.read_newline()
        self.system = system
        self._numbers: dict[str, int] = {}
        self._images: dict[str, Image] = {}
        self._embeds: dict[str, np.ndarray] = {}
        self._encode_ms: dict[str, float] = {}
        self._labels: dict[str, str] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was said; attached images keep their numbers and embeddings."""
        self.messages: list[Message] = []
        self._segments: list[Segment] = []
        if self.system:
            self.messages.append(Message("system", self.system))

    def attach(self, image: Image) -> Attachment:
        """Make an image known; the same content keeps its number."""
        from dclocal.images import image_key

        key = image_key(image)
        self._images.setdefault(key, image)
        return self._numbered(key)

    def attach_embeds(self, key: str, embeds: np.ndarray, *, label: str = "", encode_ms: float = 0.0) -> Attachment:
        """Make a picture known by its embeddings, float32 `[tokens, n_embd]`: a frame of a video, or one encoded ahead.

        `key` names this content, its pooling and its label; `label` stands as text before the picture; the next
        question that shows it counts the `encode_ms` that it took.
        """
        if key not in self._embeds:
            self._embeds[key], self._encode_ms[key], self._labels[key] = embeds, encode_ms, label
        return self._numbered(key)

    def _numbered(self, key: str) -> Attachment:
        return Attachment(self._numbers.setdefault(key, len(self._numbers) + 1), key)

    def ask(
        self,
        text: str,
        images: Sequence[Attachment] = (),
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> Iterator[Event]:
        """Ask, yielding events; closing the iterator early keeps what was answered so far.

        Raises PromptError for an empty question, or pictures or a conversation that do not fit the context.
        """
        if not text.strip():
            raise PromptError("the question is empty", "ask something")
        started = time.perf_counter()
        keys = tuple(attachment.key for attachment in images)
        self._check_room(keys)
        encoded = [self._encode(key) for key in keys]
        yield from encoded
        question = Message("user", text.strip(), keys)
        segments = [*self._segments, *self._new_segments(question)]
        prefill_started = time.perf_counter()
        prefill = self.llm.prefill(segments)
        prefill_ms = _milliseconds_since(prefill_started)
        yield PromptReady(prefill.total, prefill.reused, prefill_ms)

        sampling = self.bundle.manifest.sampling
        if temperature is not None:
            sampling = dataclasses.replace(sampling, temperature=temperature)
        room = self.llm.n_ctx - prefill.total
        limit = min(max_tokens or sampling.max_tokens, room)
        answer = _Answer()
        stop = (self.bundle.manifest.prompt.answer_end,)
        try:
            for piece in self.llm.generate(sampling, seed=seed, max_tokens=limit, stop=stop):
                if text := answer.add(piece, len(self.llm.last_tokens)):
                    yield TextPiece(text)
                if answer.repeats:
                    break
        finally:
            ids = self.llm.last_tokens
            self._remember(question, segments, answer.text, ids[: answer.tokens] if answer.repeats else ids)
        tokens = len(ids)
        reason = "repetition" if answer.repeats else "length" if tokens >= limit else "end"
        first, spent = answer.first, answer.last - answer.first
        stats = Stats(
            encode_ms=sum(event.encode_ms for event in encoded),
            prefill_ms=prefill_ms,
            ttft_ms=1000 * ((first or time.perf_counter()) - started),
            decode_tps=(tokens - 1) / spent if tokens > 1 and spent > 0 else 0.0,
            prompt_tokens=prefill.total,
            image_tokens=sum(len(segment) for segment in segments if isinstance(segment, Embeds)),
            answer_tokens=tokens,
            image_cached=bool(encoded) and all(event.cached for event in encoded),
        )
        yield Answered(answer.text.strip(), stats, reason)

    def _check_room(self, keys: Sequence[str]) -> None:
        """Refuse pictures that fill the context by themselves, before the time to encode them is spent."""
        from dclocal.picture import picture_tokens

        spec = self.bundle.manifest.vision
        tokens = sum(
            len(self._embeds[key]) if key in self._embeds else picture_tokens(self._images[key].size, spec)
            for key in keys
        )
        if tokens >= self.llm.n_ctx:
            which = "the picture takes" if len(keys) == 1 else f"the {len(keys)} pictures take"
            raise PromptError(
                f"{which} {tokens} tokens, the context holds {self.llm.n_ctx}", "send fewer or smaller pictures"
            )

    def _encode(self, key: str) -> ImageEncoded:
        from dclocal.picture import encode_picture

        if key in self._encode_ms:
            return ImageEncoded(key, False, self._encode_ms.pop(key))
        started = time.perf_counter()
        cached = key in self._embeds
        if not cached:
            spec = self.bundle.manifest.vision
            self._embeds[key] = encode_picture(self._images[key], spec, self.vision.encode, self._newline)
        return ImageEncoded(key, cached, _milliseconds_since(started))

    def _new_segments(self, question: Message) -> list[Segment]:
        """The segments that this question adds, up to where its answer starts."""
        opening = [] if self._segments else [message for message in self.messages if message.role == "system"]
        prompt, first = self.bundle.manifest.prompt, not self._segments
        pieces = render(prompt, [*opening, question], answer_next=True, opening=first)
        return to_segments(self._labelled(pieces), self.llm.tokenize, self._embeds)

    def _labelled(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """The pieces, each picture's label before it."""
        for piece in pieces:
            if label := self._labels.get(piece.image or ""):
                yield Piece(label)
            yield piece

    def _remember(self, question: Message, segments: list[Segment], answer: str, ids: Sequence[int]) -> None:
        """Keep the turn: its segments as evaluated, the answer's own tokens, and the tokens that close it."""
        prompt = self.bundle.manifest.prompt
        closing = self.llm.tokenize(prompt.answer_end + prompt.answer_suffix, True)
        self._segments = [*segments, Tokens((*ids, *closing))]
        self.messages += [question, Message("assistant", answer.strip())]


class _Answer:
    """An answer as it comes: `text` is what is kept of it, `first` and `last` are when its pieces came, and `repeats`
    is whether it has begun to repeat itself; then `tokens` is how many tokens are kept."""

    def __init__(self) -> None:
        self.text, self.tokens, self.first, self.last, self.repeats = "", 0, 0.0, 0.0, False
        self._ends: list[tuple[int, int]] = []  # (characters, tokens) after each piece

    def add(self, piece: str, tokens: int) -> str:
        """The text of the next piece, with which `tokens` tokens are out, to show; what leads an answer is left out."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        piece = piece if self.text else piece.lstrip()  # some formats lead an answer with a space
        self.text += piece
        self._ends.append((len(self.text), tokens))
        if (length := unrepeated_length(self.text)) is not None:
            self.repeats, self.text = True, self.text[:length]
            self.tokens = next(count for characters, count in self._ends if characters >= length)
        return piece


def unrepeated_length(text: str) -> int | None:
    """The length of `text` with the stretch that it ends in repeating once, or None where it does not repeat itself.

    Prose of three words or more repeats with the fourth time in a row (24 characters or more), one or two words with
    the eighth (48), and what tables, code, rules and numbers are made of with the sixteenth (120): those repeat
    honestly.  Lists whose items differ, by their numbers alone even, never do.
    """
    for size in range(1, min(LONGEST_UNIT, len(text) // FEW[0]) + 1):
        if text[-size:] != text[-2 * size : -size]:
            continue
        start = len(text) - 2 * size
        while start and text[start - 1] == text[start - 1 + size]:
            start -= 1
        times, covered = _needed(text[start : start + size])
        if len(text) - start >= max(times * size, covered):
            return re.compile(r"[.!?]*").match(text, start + size).end()  # type: ignore[union-attr]
    return None


def _needed(unit: str) -> tuple[int, int]:
    words = re.findall(r"[^\W\d_]+", unit)
    if not words or re.search(r"[|{}\[\]()<>=\\_`~^$@/+]", unit):
        return MANY
    return FEW if len(words) >= 3 else SOME


def transcript(session: ChatSession) -> dict[str, Any]:
    """The conversation as JSON data: the bundle's name and every message with its images' keys."""
    return {
        "bundle": session.bundle.manifest.name,
        "messages": [dataclasses.asdict(message) for message in session.messages],
    }


def _milliseconds_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)
