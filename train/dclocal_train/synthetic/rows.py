"""LLaVA-format rows: what every builder in this folder makes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class Sample:
    """A picture (None: a turn of text alone), what it shows in a few words, and (question, answer) turns, all true.

    `extra`: further keys of its row, such as `imprint`.
    """

    image: Image | None
    caption: str | None
    turns: Sequence[tuple[str, str]]
    extra: dict[str, Any] = field(default_factory=dict)


def conversation_row(identifier: str, image: str | None, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One row: `turns` are (question, answer); the image mark, where there is one, stands before the first question."""
    conversations = []
    for index, (question, answer) in enumerate(turns):
        mark = f"{IMAGE_MARK}\n" if index == 0 and image is not None else ""
        conversations.append({"from": "human", "value": f"{mark}{question}".strip()})
        conversations.append({"from": "gpt", "value": answer})
    row: dict[str, Any] = {"id": identifier, "conversations": conversations}
    return row if image is None else {**row, "image": image}


def caption_row(identifier: str, image: str, caption: str) -> dict[str, Any]:
    """One row of stage 1: the image, then its caption."""
    return conversation_row(identifier, image, [("", caption)])


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a LLaVA JSON list whole or not at all, one row a line."""
    part = path.with_name(path.name + ".part")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    part.replace(path)
