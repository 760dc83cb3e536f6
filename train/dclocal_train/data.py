"""LLaVA-format rows to token sequences with labels: the answers, and nothing else, are in the loss.

A picture's questions can share one sequence in two ways.  As a conversation, each turn sees those before
it.  As branches, each question sees the picture and itself alone, at the positions that it would have if it
were asked first, so that one pass over the picture trains as many first questions as it has.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dclocal.prompt import Message, Piece, PromptFormat, Tokenize, render

IGNORED = -100
IMAGE_MARK = "<image>"
IMAGE_KEY = "image"


@dataclass(frozen=True)
class Example:
    """One sequence: `ids` with the placeholder id at image positions, `labels` (IGNORED outside answers),
    `positions`, and `branches` (0 is the shared prefix); `image` is the picture's path or None."""

    ids: list[int]
    labels: list[int]
    positions: list[int]
    branches: list[int]
    is_image: list[bool]
    image: Path | None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a LLaVA JSON list; raises ValueError saying what is not as it should be."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {type(rows).__name__}; expected a LLaVA JSON list of rows")
    for index, row in enumerate(rows):
        turns = row.get("conversations") if isinstance(row, dict) else None
        speakers = [turn.get("from") for turn in turns] if isinstance(turns, list) else []
        if not speakers or speakers != ["human", "gpt"] * (len(speakers) // 2):
            raise ValueError(f"{path}, row {index}: turns are {speakers}; expected human and gpt in turn")
    return rows


def turns_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, answer) pairs of a row, the image mark taken out."""
    values = [turn["value"].replace(IMAGE_MARK, "").strip() for turn in row["conversations"]]
    return list(zip(values[::2], values[1::2], strict=True))


class Encoder:
    """Rows to Examples for one prompt format, tokenizer and image token count."""

    def __init__(self, prompt_format: PromptFormat, tokenize: Tokenize, image_tokens: int, placeholder: int):
        self.format, self.tokenize = prompt_format, tokenize
        self.image_tokens, self.placeholder = image_tokens, placeholder

    def conversation(self, turns: Sequence[tuple[str, str]], image: Path | None) -> Example:
        """All turns in order, each seeing those before it."""
        messages = []
        for index, (question, answer) in enumerate(turns):
            keys = (IMAGE_KEY,) if image is not None and index == 0 else ()
            messages += [Message("user", question, keys), Message("assistant", answer)]
        builder = _Builder(self)
        builder.add(render(self.format, messages), branch=1)
        return builder.finish(image)

    def branched(self, turns: Sequence[tuple[str, str]], image: Path) -> Example:
        """Each turn on its own after the shared prefix, which ends with the image."""
        builder = _Builder(self)
        for branch, (question, answer) in enumerate(turns, start=1):
            pieces = render(self.format, [Message("user", question, (IMAGE_KEY,)), Message("assistant", answer)])
            cut = next(index for index, piece in enumerate(pieces) if piece.image) + (
                2 if self.format.image_suffix else 1
            )
            if branch == 1:
                builder.add(pieces[:cut], branch=0)
            builder.add(pieces[cut:], branch=branch)
        return builder.finish(image)


class _Builder:
    """Grows one sequence piece by piece."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        self.is_image: list[bool] = []
        self.prefix_length = 0

    def add(self, pieces: Sequence[Piece], branch: int) -> None:
        position = self.prefix_length
        for piece in pieces:
            if piece.image is not None:
                ids = [self.encoder.placeholder] * self.encoder.image_tokens
            else:
                ids = self.encoder.tokenize(piece.text, piece.control)
            self.ids += ids
            self.labels += ids if piece.target else [IGNORED] * len(ids)
            self.positions += range(position, position + len(ids))
            self.branches += [branch] * len(ids)
            self.is_image += [piece.image is not None] * len(ids)
            position += len(ids)
        if branch == 0:
            self.prefix_length = position

    def finish(self, image: Path | None) -> Example:
        return Example(self.ids, self.labels, self.positions, self.branches, self.is_image, image)


@dataclass(frozen=True)
class TurnPlan:
    """How a row's turns become a sequence: at most `max_turns` of them, as branches in `branched_share` of rows."""

    max_turns: int
    branched_share: float
    seed: int


class RowDataset:
    """A map-style dataset of Examples; which turns are taken, and how, depends on (seed, epoch pass, row)."""

    def __init__(self, rows: Sequence[dict[str, Any]], image_folder: Path, encoder: Encoder, plan: TurnPlan):
        self.rows, self.image_folder, self.encoder, self.plan = rows, image_folder, encoder, plan
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        random_source = random.Random(f"{self.plan.seed}-{self.epoch}-{index}")
        turns = turns_of(row)
        if len(turns) > self.plan.max_turns:
            turns = random_source.sample(turns, self.plan.max_turns)
        image = self.image_folder / row["image"] if "image" in row else None
        if image is not None and random_source.random() < self.plan.branched_share:
            return self.encoder.branched(turns, image)
        return self.encoder.conversation(turns, image)
