"""Conversations: what a user pays for a follow-up, and what is remembered when something goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dclocal.chat import Answered, ChatSession, ImageEncoded, PromptReady, TextPiece
from dclocal.errors import PromptError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.turns import transcript


def session(tmp_path: Path, *answers: str, n_ctx: int = 400) -> ChatSession:
    return ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM(answers, n_ctx))


def finished(events: list[object]) -> Answered:
    assert isinstance(events[-1], Answered)
    return events[-1]


def test_events_come_in_order(tmp_path: Path, picture: Image.Image) -> None:
    chat = session(tmp_path, "a cat ")
    events = list(chat.ask("What?", [chat.attach(picture)]))
    assert [type(event) for event in events[:2]] == [ImageEncoded, PromptReady]
    assert "".join(event.text for event in events if isinstance(event, TextPiece)) == "a cat "
    stats = finished(events).stats
    assert finished(events).answer == "a cat"
    assert (stats.image_tokens, stats.answer_tokens, stats.image_cached) == (4, 6, False)


def test_a_follow_up_encodes_nothing_and_evaluates_its_own_tokens(tmp_path: Path, picture: Image.Image) -> None:
    chat = session(tmp_path, "red", "round", "yes")
    attachment = chat.attach(picture)
    list(chat.ask("What colour?", [attachment]))
    before = chat.llm.evaluated_tokens  # type: ignore[attr-defined]
    ready = next(event for event in chat.ask("Shape?") if isinstance(event, PromptReady))
    new = ready.prompt_tokens - ready.reused_tokens
    assert new == chat.llm.evaluated_tokens - before  # type: ignore[attr-defined]
    # what closes the answer, and the new turn: 2 + (1 + 5) + 6 + 2 + (1 + 10) characters and marks
    assert new == len("E\nSuser\nShape?E\nSassistant\n")
    again = list(chat.ask("What colour?", [chat.attach(picture.copy())]))
    assert chat.vision.encoded_images == 1 and finished(again).stats.image_cached  # type: ignore[attr-defined]


def test_stopping_keeps_what_was_said(tmp_path: Path, picture: Image.Image) -> None:
    """Ctrl-C in mid-answer, then another question."""
    chat = session(tmp_path, "a very long answer", "fine")
    events = chat.ask("What?", [chat.attach(picture)])
    seen = ""
    for event in events:
        if isinstance(event, TextPiece):
            seen += event.text
        if seen == "a very":
            break
    events.close()  # type: ignore[attr-defined]
    assert chat.messages[-1].text == "a very"
    assert finished(list(chat.ask("And?"))).answer == "fine"
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2


def test_a_question_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    chat = session(tmp_path, "fine", n_ctx=100)
    with pytest.raises(PromptError, match="100"):
        list(chat.ask("long " * 50))
    assert chat.messages == []
    assert finished(list(chat.ask("short"))).answer == "fine"


def test_empty_questions_and_answers(tmp_path: Path) -> None:
    chat = session(tmp_path, "")
    with pytest.raises(PromptError, match="empty"):
        list(chat.ask("  \n"))
    assert finished(list(chat.ask("hm?"))).answer == ""


def test_images_keep_their_numbers(tmp_path: Path, picture: Image.Image) -> None:
    chat = session(tmp_path, "two")
    first, second = chat.attach(picture), chat.attach(picture.rotate(180))
    assert (first.number, second.number, chat.attach(picture).number) == (1, 2, 1)
    stats = finished(list(chat.ask("How many?", [first, second]))).stats
    assert stats.image_tokens == 8
    assert transcript(chat)["messages"][0]["images"] == (first.key, second.key)
    chat.reset()
    assert chat.messages == []


def test_another_model_answers_until_a_picture_is_shown(tmp_path: Path, picture: Image.Image) -> None:
    """It is opened for the first question that has none; either has its own cache."""
    about_pictures, alone, opened = FakeLLM(["a cat", "yes"]), FakeLLM(["Paris", " it is", "Berlin"]), []

    def open_alone() -> FakeLLM:
        opened.append(alone)
        return alone

    chat = ChatSession(fake_bundle(tmp_path), FakeVision(), about_pictures, text_llm=open_alone)
    assert list(chat.prepare()) == [] and not opened
    assert finished(list(chat.ask("France?"))).answer == "Paris"
    assert finished(list(chat.continue_answer())).answer == "Paris it is"
    assert about_pictures.cells == [] and len(opened) == 2
    shown = chat.attach(picture)
    (ready,) = [event for event in chat.prepare([shown]) if isinstance(event, PromptReady)]
    assert about_pictures.evaluated_tokens == ready.prompt_tokens
    evaluated = alone.evaluated_tokens
    assert finished(list(chat.ask("What?", [shown]))).answer == "a cat"
    assert finished(list(chat.ask("Sure?"))).answer == "yes"
    assert alone.evaluated_tokens == evaluated
    chat.turns = chat.turns[:1]
    assert finished(list(chat.ask("Germany?"))).answer == "Berlin"
