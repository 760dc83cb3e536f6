"""Messages to segments: the one place where a prompt is laid out, for training and for answering.

Rendering by a format (`formats.py`) makes pieces: special tokens, text (of the template or of a person,
where special tokens never count) and images.  Text between two special tokens or images is tokenized in one
go (`token_runs`), as the models were trained; `to_segments` turns pieces into what `llm.py` evaluates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from dclocal.errors import PromptError
from dclocal.formats import PromptFormat

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np

    Rows: TypeAlias = np.ndarray | memoryview[float]

Tokenize = Callable[[str, bool], list[int]]
"""(text, parse_special) -> token ids, without BOS or EOS added."""


@dataclass(frozen=True)
class Message:
    """One turn: `role` is system, user or assistant; `images` are keys of the images that stand before the text."""

    role: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A stretch of prompt: text, one special token (`special`), or an image (then `image` is its key).

    `target` marks what training learns to write: the answer and what ends it.
    """

    text: str = ""
    special: bool = False
    image: str | None = None
    target: bool = False


@dataclass(frozen=True)
class Tokens:
    """A run of token ids to evaluate."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Embeds:
    """An image's embeddings in the LLM's space, float32 `[tokens, n_embd]`; `key` identifies the content.

    They may come as a buffer of that shape, which becomes an array where it is evaluated: numpy takes longer to import
    than a question about a known picture to evaluate.
    """

    key: str
    values: Rows

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, start: int = 0, end: int | None = None) -> np.ndarray:
        """Some of them as an array."""
        import numpy as np

        array: np.ndarray = np.asarray(self.values)
        return array[start:end]


Segment = Tokens | Embeds


def shows_picture(segments: Sequence[Segment]) -> bool:
    """Whether a picture is a part of this prompt."""
    return any(isinstance(segment, Embeds) for segment in segments)


def part_of(segments: Sequence[Segment], start: int, end: int | None = None) -> list[Segment]:
    """The tokens from `start` up to `end`, or all that follow; a segment in which they begin or end is cut."""
    part: list[Segment] = []
    for segment in segments:
        length = len(segment)
        first, last = max(start, 0), length if end is None else min(end, length)
        if first < last:
            whole = first == 0 and last == length
            part.append(segment if whole else _cut(segment, first, last))
        start -= length
        end = None if end is None else end - length
    return part


def _cut(segment: Segment, first: int, last: int) -> Segment:
    if isinstance(segment, Embeds):
        return Embeds(segment.key, segment.rows(first, last))
    return Tokens(segment.ids[first:last])


def render(
    prompt_format: PromptFormat, messages: Sequence[Message], *, answer_next: bool = False, opening: bool = True
) -> list[Piece]:
    """The pieces of a conversation, or of its next turns (`opening` false: neither BOS nor default system
    message); with `answer_next`, ending where the model starts its answer.

    Raises PromptError for an unknown role.
    """
    pieces: list[Piece] = []
    if opening:
        pieces += _template(prompt_format, prompt_format.bos)
        if prompt_format.default_system and not any(message.role == "system" for message in messages):
            messages = [Message("system", prompt_format.default_system), *messages]
    for message in messages:
        pieces += _render_message(prompt_format, message)
    if answer_next:
        pieces += _template(prompt_format, prompt_format.answer_prefix)
    return [piece for piece in pieces if piece.text or piece.image is not None]


def _render_message(prompt_format: PromptFormat, message: Message) -> list[Piece]:
    text = message.text.strip()
    if message.role == "system":
        return [
            *_template(prompt_format, prompt_format.system_prefix),
            Piece(text),
            *_template(prompt_format, prompt_format.system_suffix),
        ]
    if message.role == "user":
        pieces = _template(prompt_format, prompt_format.user_prefix)
        for key in message.images:
            pieces += [Piece(image=key), *_template(prompt_format, prompt_format.image_suffix)]
        return [*pieces, Piece(text), *_template(prompt_format, prompt_format.user_suffix)]
    if message.role == "assistant":
        return [
            *_template(prompt_format, prompt_format.answer_prefix),
            Piece(prompt_format.answer_lead + text, target=True),
            *_template(prompt_format, prompt_format.answer_end, target=True),
            *_template(prompt_format, prompt_format.answer_suffix),
        ]
    raise PromptError(f"unknown role {message.role!r}", "use system, user or assistant")


def _template(prompt_format: PromptFormat, text: str, *, target: bool = False) -> list[Piece]:
    """Text of the template as pieces, its special tokens apart."""
    if not prompt_format.specials:
        return [Piece(text, target=target)]
    parts = re.split("(" + "|".join(map(re.escape, prompt_format.specials)) + ")", text)
    return [Piece(part, special=part in prompt_format.specials, target=target) for part in parts if part]


@dataclass(frozen=True)
class TokenRun:
    """Token ids with, for each, whether training learns to write it."""

    ids: tuple[int, ...]
    targets: tuple[bool, ...]


def token_runs(pieces: Iterable[Piece], tokenize: Tokenize) -> list[TokenRun | str]:
    """Runs of tokens and, between them, the keys of images."""
    runs: list[TokenRun | str] = []
    ids: list[int] = []
    targets: list[bool] = []
    texts: list[Piece] = []

    def end_text() -> None:
        found, learnt = _tokenize_text(texts, tokenize)
        ids.extend(found)
        targets.extend(learnt)
        texts.clear()

    def end_run() -> None:
        if ids:
            runs.append(TokenRun(tuple(ids), tuple(targets)))
        ids.clear()
        targets.clear()

    for piece in pieces:
        if piece.image is None and not piece.special:
            texts.append(piece)
            continue
        end_text()
        if piece.image is not None:
            end_run()
            runs.append(piece.image)
        else:
            special = tokenize(piece.text, True)
            ids.extend(special)
            targets.extend([piece.target] * len(special))
    end_text()
    end_run()
    return runs


def _tokenize_text(texts: Sequence[Piece], tokenize: Tokenize) -> tuple[list[int], list[bool]]:
    """Neighbouring texts tokenized as one; a token belongs to the text in which it ends."""
    whole = "".join(piece.text for piece in texts)
    if not whole:
        return [], []
    ids = tokenize(whole, False)
    starts, length = [0], 0
    for before, after in pairwise(texts):
        length += len(before.text)
        if before.target == after.target:
            continue
        prefix = tokenize(whole[:length], False) if length else []
        starts.append(_shared(prefix, ids))
    learnt, target = [], texts[0].target
    for start, end in pairwise([*starts, len(ids)]):
        learnt += [target] * (end - start)
        target = not target
    return ids, learnt


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading values are equal."""
    pairs = zip(first, second)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def labelled(pieces: Iterable[Piece], labels: Mapping[str, str]) -> Iterator[Piece]:
    """The pieces, before each picture its label as text, where `labels` has one for its key."""
    for piece in pieces:
        if label := labels.get(piece.image or ""):
            yield Piece(label)
        yield piece


def to_segments(pieces: Iterable[Piece], tokenize: Tokenize, embeds: Mapping[str, Rows]) -> list[Segment]:
    """What the language model evaluates: token runs, and images looked up in `embeds`, which maps each key to
    float32 `[tokens, n_embd]`."""
    return [
        Embeds(run, embeds[run]) if isinstance(run, str) else Tokens(run.ids) for run in token_runs(pieces, tokenize)
    ]
