"""Tests of a bundle with known answers, asked as a user would ask: through ChatSession, quantized, greedy."""

from __future__ import annotations

import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.chat import ChatSession

MAX_ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Item:
    """A picture and its (question, right answer) pairs."""

    image: Image
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Score:
    """How many questions were asked and answered rightly, in all and by kind of answer, and some mistakes."""

    task: str
    asked: int
    right: int
    by_answer: dict[str, tuple[int, int]]
    mistakes: list[dict[str, str]]

    @property
    def accuracy(self) -> float:
        return self.right / self.asked if self.asked else 0.0


def easy_vqa_items(wheel: Path, limit: int | None) -> list[Item]:
    """easy-VQA's test split in its own order, at most `limit` questions."""
    from dclocal.images import load_image

    with zipfile.ZipFile(wheel) as archive:
        rows = json.loads(archive.read("easy_vqa/data/test/questions.json"))[:limit]
        by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for question, answer, image in rows:
            by_image[image].append((question, answer))
        return [
            Item(load_image(archive.read(f"easy_vqa/data/test/images/{image}.png")), tuple(questions))
            for image, questions in by_image.items()
        ]


def run_task(task: str, items: list[Item], session: ChatSession, progress: Progress) -> Score:
    """Ask every question in a conversation of its own; the picture's prefix stays in the KV cache."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    mistakes: list[dict[str, str]] = []
    total = sum(len(item.questions) for item in items)
    asked = 0
    for item in items:
        for question, expected, found in _ask_all(session, item):
            kind = "yes/no" if expected in ("yes", "no") else "what"
            right = normalised(found) == expected
            counts[kind][0] += right
            counts[kind][1] += 1
            if not right and len(mistakes) < 20:
                mistakes.append({"question": question, "expected": expected, "answer": found})
            asked += 1
            progress(f"asking {task}", asked, total)
    return Score(
        task=task,
        asked=asked,
        right=sum(right for right, _ in counts.values()),
        by_answer={kind: (right, count) for kind, (right, count) in counts.items()},
        mistakes=mistakes,
    )


def normalised(answer: str) -> str:
    """An answer without its case, its article and its punctuation."""
    words = re.sub(r"[^a-z0-9 ]", "", answer.lower()).split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


def _ask_all(session: ChatSession, item: Item) -> Iterator[tuple[str, str, str]]:
    from dclocal.chat import Answered, ChatSession

    own = ChatSession(session.bundle, session.vision, session.llm)
    attachment = own.attach(item.image)
    for question, expected in item.questions:
        own.reset()
        for event in own.ask(question, [attachment], max_tokens=MAX_ANSWER_TOKENS):
            if isinstance(event, Answered):
                yield question, expected, event.answer
