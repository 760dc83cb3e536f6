"""Answers that loop: a user must not wait for the limit, and no honest answer may be cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from dclocal.chat import Answered, ChatSession, TextPiece, unrepeated_length
from dclocal.fake import FakeLLM, FakeVision, fake_bundle

LOOPS = {
    "sentence": ("The cat sits on the mat. " * 30, "The cat sits on the mat."),
    "after a start": (
        "A photo of a street. " + "There is a car in the picture. " * 20,
        "A photo of a street. There is a car in the picture.",
    ),
    "phrase": ("a red circle, " * 40, "a red circle,"),
    "line": ("- a dog in the park\n" * 20, "- a dog in the park"),
    "word": ("the " * 100, "the"),
    "two words": ("in the " * 60, "in the"),
    "digits": ("The value is 3." + "3" * 200, "The value is 3.3"),
    "numbered sentence": ("I have 2 cats. " * 20, "I have 2 cats."),
    "accents": ("Ein Hund läuft über die Straße. " * 12, "Ein Hund läuft über die Straße."),
    "paragraph": (
        "The sky is blue and the grass is green, and a child plays with a ball.\nA dog watches.\n" * 9,
        "The sky is blue and the grass is green, and a child plays with a ball.\nA dog watches.",
    ),
}
HONEST = {
    "list": "".join(f"{number}. a red circle\n" for number in range(1, 40)),
    "list of the same": "1. red\n2. red\n3. red\n4. red\n5. red\n6. red\n7. red\n8. red\n",
    "table": "| a | b | c | d | e |\n|---|---|---|---|---|\n"
    + "| yes | yes | yes | yes | yes |\n| no | no | no | no | no |\n" * 3,
    "wide table": "|" + "---|" * 24,
    "rule": "=" * 79 + "\n" + "-" * 79 + "\nText",
    "long number": "10 to the power of 22 is 10000000000000000000000.",
    "googol": "A googol is 1" + "0" * 100 + ".",
    "thousands": "1,000,000,000,000,000,000,000,000",
    "third": "1/3 is 0.33333333333333333333333",
    "code": "def f():\n    step()\n    step()\n    step()\n    step()\n    step()\n    step()\n    return 0\n",
    "array": "x = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
    "html": "<tr>" + "<td></td>" * 6 + "</tr>",
    "indent": "if a:\n" + " " * 60 + "pass",
    "laugh": "Ha ha ha ha ha ha! No, no, no, no, no, no, no! That is very, very, very, very funny.",
    "song": "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    "birthday": "Happy birthday to you! Happy birthday to you! Happy birthday, dear Ann! Happy birthday to you!",
    "alternating": "yes, no, yes, no, yes, no, yes",
    "buffalo": "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "poem": "".join(f"And {word} I saw a ship sail by,\n" for word in ("then", "there", "once", "twice", "again")),
}


def streamed(tmp_path: Path, text: str, limit: int = 5000) -> tuple[str, Answered, ChatSession]:
    """What was shown, the last event and the session, for a model that says `text` a character at a time."""
    chat = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM([text, "fine"], 9000))
    events = list(chat.ask("What?", max_tokens=limit))
    assert isinstance(events[-1], Answered)
    return "".join(event.text for event in events if isinstance(event, TextPiece)), events[-1], chat


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_is_stopped_and_said_once(tmp_path: Path, kind: str) -> None:
    text, once = LOOPS[kind]
    shown, answered, chat = streamed(tmp_path, text)
    assert (answered.stop_reason, answered.answer) == ("repetition", once)
    assert text.startswith(shown) and len(shown) < len(text)
    assert chat.messages[-1].text == once


@pytest.mark.parametrize("kind", HONEST)
def test_honest_repetition_passes(tmp_path: Path, kind: str) -> None:
    """No prefix of it may fire: the answer is looked at as it comes."""
    shown, answered, _ = streamed(tmp_path, HONEST[kind])
    assert answered.stop_reason == "end" and shown == HONEST[kind]


def test_the_loop_is_not_in_the_next_prompt(tmp_path: Path) -> None:
    """A model that reads its own loop goes on with it; what was evaluated before the loop is not evaluated again."""
    _, answered, chat = streamed(tmp_path, "a red circle, " * 40)
    before = chat.llm.evaluated_tokens  # type: ignore[attr-defined]
    list(chat.ask("And?"))
    cells = "".join(chr(cell) for cell in chat.llm.cells if isinstance(cell, int) and cell > 0)  # type: ignore[attr-defined]
    assert cells.count("a red circle") == 1
    assert chat.llm.evaluated_tokens - before == len("E\nSuser\nAnd?E\nSassistant\n")  # type: ignore[attr-defined]
    assert answered.stats.answer_tokens > 40


def test_why_an_answer_stopped(tmp_path: Path) -> None:
    assert streamed(tmp_path, "a cat")[1].stop_reason == "end"
    assert streamed(tmp_path, "a cat", limit=3)[1].stop_reason == "length"
    silent = streamed(tmp_path, "")
    assert silent[0] == "" and (silent[1].answer, silent[1].stop_reason) == ("", "end")


def test_a_loop_is_found_soon() -> None:
    """The fourth time of a sentence ends it, not the fortieth."""
    sentence = "The cat sits on the mat. "
    assert unrepeated_length(sentence * 3) is None
    assert unrepeated_length(sentence * 4) == len(sentence)
