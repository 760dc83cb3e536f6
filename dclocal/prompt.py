"""Messages to segments: the one place where a prompt is laid out, for training and for answering.

A prompt format is data (`PromptFormat`), named in `FORMATS` and copied into every bundle.  Rendering
makes pieces: control text (template, where special tokens count), plain text (what a person wrote,
where they never do) and images.  `to_segments` turns pieces into what `llm.py` evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from dclocal.errors import BundleError, PromptError

Tokenize = Callable[[str, bool], list[int]]
"""(text, parse_special) -> token ids, without BOS or EOS added."""


@dataclass(frozen=True)
class PromptFormat:
    """How one family of models lays out a conversation.

    `answer_end` is the special token that closes an answer: it is trained, and generation stops there.
    `image_suffix` follows each image's tokens; images stand before the text of their message.
    """

    name: str
    bos: str
    system_prefix: str
    system_suffix: str
    user_prefix: str
    user_suffix: str
    answer_prefix: str
    answer_end: str
    answer_suffix: str
    image_suffix: str
    default_system: str = ""

    def to_dict(self) -> dict[str, str]:
        """The format as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, str]) -> PromptFormat:
        """The format from a bundle's JSON; raises BundleError naming a missing or non-text key."""
        values = {}
        for field in fields(cls):
            value = data.get(field.name, "" if field.name == "default_system" else None)
            if not isinstance(value, str):
                raise BundleError(
                    f"the bundle's prompt format has no text for {field.name!r}", "pull or export it again"
                )
            values[field.name] = value
        return cls(**values)


FORMATS: dict[str, PromptFormat] = {
    "chatml": PromptFormat(
        name="chatml",
        bos="",
        system_prefix="<|im_start|>system\n",
        system_suffix="<|im_end|>\n",
        user_prefix="<|im_start|>user\n",
        user_suffix="<|im_end|>\n",
        answer_prefix="<|im_start|>assistant\n",
        answer_end="<|im_end|>",
        answer_suffix="\n",
        image_suffix="\n",
    ),
    # Stage 1 of the paper: the image's tokens, then the caption, nothing else.
    "plain": PromptFormat(
        name="plain",
        bos="",
        system_prefix="",
        system_suffix="",
        user_prefix="",
        user_suffix="",
        answer_prefix="",
        answer_end="<|im_end|>",
        answer_suffix="",
        image_suffix="",
    ),
}


@dataclass(frozen=True)
class Message:
    """One turn: `role` is system, user or assistant; `images` are keys of the images that stand before the text."""

    role: str
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A stretch of prompt: control text, a person's text, or an image (then `image` is its key).

    `target` marks what training learns to write: the answer and the token that ends it.
    """

    text: str = ""
    control: bool = False
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
    """An image's embeddings in the LLM's space, float32 `[tokens, n_embd]`; `key` identifies the content."""

    key: str
    values: np.ndarray

    def __len__(self) -> int:
        return int(self.values.shape[0])


Segment = Tokens | Embeds


def render(prompt_format: PromptFormat, messages: Sequence[Message], *, answer_next: bool = False) -> list[Piece]:
    """The pieces of a conversation; with `answer_next`, ending where the model starts its answer.

    Raises PromptError for an unknown role.
    """
    pieces = [Piece(prompt_format.bos, control=True)]
    if prompt_format.default_system and not any(message.role == "system" for message in messages):
        messages = [Message("system", prompt_format.default_system), *messages]
    for message in messages:
        pieces += _render_message(prompt_format, message)
    if answer_next:
        pieces.append(Piece(prompt_format.answer_prefix, control=True))
    return [piece for piece in pieces if piece.text or piece.image is not None]


def _render_message(prompt_format: PromptFormat, message: Message) -> list[Piece]:
    text = message.text.strip()
    if message.role == "system":
        return [
            Piece(prompt_format.system_prefix, control=True),
            Piece(text),
            Piece(prompt_format.system_suffix, control=True),
        ]
    if message.role == "user":
        pieces = [Piece(prompt_format.user_prefix, control=True)]
        for key in message.images:
            pieces += [Piece(image=key), Piece(prompt_format.image_suffix, control=True)]
        return [*pieces, Piece(text), Piece(prompt_format.user_suffix, control=True)]
    if message.role == "assistant":
        return [
            Piece(prompt_format.answer_prefix, control=True),
            Piece(text, target=True),
            Piece(prompt_format.answer_end, control=True, target=True),
            Piece(prompt_format.answer_suffix, control=True),
        ]
    raise PromptError(f"unknown role {message.role!r}", "use system, user or assistant")


def to_segments(pieces: Iterable[Piece], tokenize: Tokenize, embeds: Mapping[str, np.ndarray]) -> list[Segment]:
    """Tokenize text pieces and look up images; neighbouring token runs are joined.

    `embeds` maps each image key to float32 `[tokens, n_embd]`.
    """
    segments: list[Segment] = []
    run: list[int] = []
    for piece in pieces:
        if piece.image is None:
            run += tokenize(piece.text, piece.control)
            continue
        if run:
            segments.append(Tokens(tuple(run)))
            run = []
        segments.append(Embeds(piece.image, embeds[piece.image]))
    if run:
        segments.append(Tokens(tuple(run)))
    return segments
