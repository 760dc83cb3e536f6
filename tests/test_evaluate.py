"""Scores: a counting mistake here would claim what is not so."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dclocal.chat import ChatSession
from dclocal.evaluate import Item, normalised, run_task
from dclocal.fake import FakeLLM, FakeVision, fake_bundle


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Red.", "red"),
        ("a circle", "circle"),
        ("The circle!", "circle"),
        ("yes", "yes"),
        ("", ""),
        ("a", ""),
        ("no no", "no no"),
    ],
)
def test_answers_are_compared_by_their_words(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


def test_right_and_wrong_are_counted(tmp_path: Path, picture: Image.Image) -> None:
    items = [
        Item(picture, (("colour?", "red"), ("is it red?", "yes"))),
        Item(picture.rotate(180), (("shape?", "circle"), ("is it blue?", "no"))),
    ]
    vision, llm = FakeVision(), FakeLLM(["red", "no", "a circle", "no"], 400)
    steps: list[tuple[int, int]] = []
    score = run_task(
        "test",
        items,
        ChatSession(fake_bundle(tmp_path), vision, llm),
        lambda step, done, total: steps.append((done, total)),
    )
    assert (score.asked, score.right, score.accuracy) == (4, 3, 0.75)
    assert score.by_answer == {"what": (2, 2), "yes/no": (1, 2)}
    assert score.mistakes == [{"question": "is it red?", "expected": "yes", "answer": "no"}]
    assert vision.encoded_images == 2  # once a picture, however many questions
    assert steps[-1] == (4, 4)


def test_a_picture_is_prefilled_once(tmp_path: Path, picture: Image.Image) -> None:
    """The second question on a picture evaluates its own text alone."""
    llm = FakeLLM(["x", "y"], 400)
    session = ChatSession(fake_bundle(tmp_path), FakeVision(), llm)
    run_task("test", [Item(picture, (("aaaa?", "x"),))], session, lambda *_: None)
    first = llm.evaluated_tokens
    run_task("test", [Item(picture, (("bbbb?", "y"),))], session, lambda *_: None)
    assert llm.evaluated_tokens - first == len("bbbb?E\nSassistant\n")
