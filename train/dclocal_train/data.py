"""LLaVA-format rows to token sequences with labels: the answers, and nothing else, are in the loss.

A picture's questions can share one sequence in two ways.  As a conversation, each turn sees those before
it.  As branches, each question sees the picture and itself alone, at the positions that it would have if it
were asked first, so that one pass over the picture trains as many first questions as it has.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dclocal.errors import ImageError
from dclocal.formats import PromptFormat
from dclocal.prompt import Message, Piece, Tokenize, render, token_runs
from dclocal_train.broken import BrokenPictures
from dclocal_train.imprint import imprint_tensors
from dclocal_train.inputs import VisionInputs

IGNORED = -100
IMAGE_MARK = "<image>"
IMAGE_KEY = "image"
Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Example:
    """One sequence: `ids` with the placeholder id at image positions, `labels` (IGNORED outside answers),
    `positions`, and `branches` (0 is the shared prefix); `vision` is what `VisionInputs` made of its picture."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    branches: list[int]
    is_image: list[bool]
    vision: dict[str, Tensor] | None = None


def turns_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) pairs of a row, the image mark taken out; raises ValueError for turns out of order."""
    turns = row.get("conversations") or []
    speakers = [turn.get("from") for turn in turns]
    if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
        raise ValueError(f"row {row.get('id')!r}: turns are {speakers}; expected human and gpt in turn")
    values = [turn["value"].replace(IMAGE_MARK, "").strip() for turn in turns]
    return list(zip(values[::2], values[1::2], strict=True))


class Encoder:
    """Turns to Examples for one prompt format and tokenizer; sequences end at `max_length` tokens.

    A picture is shown in the first turn, as `image_tokens` placeholders.
    """

    def __init__(self, prompt_format: PromptFormat, tokenize: Tokenize, placeholder: int = 0, max_length: int = 2048):
        self.format, self.tokenize = prompt_format, tokenize
        self.placeholder, self.max_length = placeholder, max_length

    def conversation(self, turns: Turns, image_tokens: int = 0) -> Example:
        """All turns in order, each seeing those before it."""
        messages = []
        for index, (question, answer) in enumerate(turns):
            keys = (IMAGE_KEY,) if image_tokens and index == 0 else ()
            messages += [Message("user", question, keys), Message("assistant", answer)]
        builder = _Builder(self, image_tokens)
        builder.add(render(self.format, messages), branch=1)
        return builder.finish()

    def branched(self, turns: Turns, image_tokens: int) -> Example:
        """Each turn on its own after the shared prefix, which ends with the image."""
        builder = _Builder(self, image_tokens)
        for branch, (question, answer) in enumerate(turns, start=1):
            pieces = render(self.format, [Message("user", question, (IMAGE_KEY,)), Message("assistant", answer)])
            cut = 1 + next(index for index, piece in enumerate(pieces) if piece.image)
            if branch == 1:
                builder.add(pieces[:cut], branch=0)
            builder.add(pieces[cut:], branch=branch)
        return builder.finish()


class _Builder:
    """Grows one sequence run by run."""

    def __init__(self, encoder: Encoder, image_tokens: int):
        self.encoder, self.image_tokens = encoder, image_tokens
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        self.is_image: list[bool] = []
        self.prefix_length = 0

    def add(self, pieces: Sequence[Piece], branch: int) -> None:
        position = self.prefix_length
        for run in token_runs(pieces, self.encoder.tokenize):
            if isinstance(run, str):
                ids: Sequence[int] = [self.encoder.placeholder] * self.image_tokens
                labels = [IGNORED] * self.image_tokens
            else:
                ids = run.ids
                labels = [token if target else IGNORED for token, target in zip(run.ids, run.targets)]
            self.ids += ids
            self.labels += labels
            self.positions += range(position, position + len(ids))
            self.branches += [branch] * len(ids)
            self.is_image += [isinstance(run, str)] * len(ids)
            position += len(ids)
        if branch == 0:
            self.prefix_length = position

    def finish(self) -> Example:
        """The sequence, cut at the encoder's length; raises ValueError where an image would be cut."""
        end = self.encoder.max_length
        if any(self.is_image[end:]):
            raise ValueError(f"an image of {self.image_tokens} tokens does not fit {end} tokens; raise max_length")
        return Example(
            self.ids[:end], self.labels[:end], self.positions[:end], self.branches[:end], self.is_image[:end]
        )


@dataclass(frozen=True)
class TurnPlan:
    """How a row's turns become a sequence: at most `max_turns` of them, as branches in `branched_share` of rows."""

    max_turns: int
    branched_share: float
    seed: int


class RowDataset:
    """A map-style dataset of Examples; which turns are taken, and how, depends on (seed, epoch pass, row).

    A row whose picture cannot be read is counted in `broken` and its neighbour taken in its place.
    """

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        encoder: Encoder,
        plan: TurnPlan,
        inputs: VisionInputs,
        broken: BrokenPictures | None = None,
    ):
        self.rows, self.encoder, self.plan, self.inputs = rows, encoder, plan, inputs
        self.broken = broken or BrokenPictures()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        for step in range(len(self.rows)):
            row_index = (index + step) % len(self.rows)
            row = self.rows[row_index]
            try:
                example = self._encode(row, row_index)
            except ImageError as error:
                self.broken.count(str(row.get("image")), error)
                continue
            self.broken.count_good()
            return example
        raise ValueError("no row has a picture that can be read")

    def _encode(self, row: dict[str, Any], index: int) -> Example:
        random_source = random.Random(f"{self.plan.seed}-{self.epoch}-{index}")
        turns = turns_of(row)
        if len(turns) > self.plan.max_turns:
            turns = random_source.sample(turns, self.plan.max_turns)
        if "image" not in row:
            return self.encoder.conversation(turns)
        vision = self.inputs.prepare(row["image"])
        if "imprint" in row:
            vision = vision | imprint_tensors(row["imprint"], random_source)
        tokens = self.inputs.tokens(vision)
        branched = random_source.random() < self.plan.branched_share
        build: Callable[[Turns, int], Example] = self.encoder.branched if branched else self.encoder.conversation
        return dataclasses.replace(build(turns, tokens), vision=vision)
