"""LLaVA-format rows: what every builder in this folder makes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

IMAGE_MARK = "<image>"


def conversation_row(identifier: str, image: str, turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """One row: `turns` are (question, answer); the image mark stands before the first question."""
    conversations = []
    for index, (question, answer) in enumerate(turns):
        mark = f"{IMAGE_MARK}\n" if index == 0 else ""
        conversations.append({"from": "human", "value": f"{mark}{question}".strip()})
        conversations.append({"from": "gpt", "value": answer})
    return {"id": identifier, "image": image, "conversations": conversations}


def caption_row(identifier: str, image: str, caption: str) -> dict[str, Any]:
    """One row of stage 1: the image, then its caption."""
    return conversation_row(identifier, image, [("", caption)])


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a LLaVA JSON list whole or not at all, one row a line."""
    part = path.with_name(path.name + ".part")
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    part.replace(path)
