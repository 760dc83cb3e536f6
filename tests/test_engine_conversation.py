"""Conversations through the engine: media, edits, retries and what is restored; no work is asked twice."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dclocal import engine_messages as messages
from dclocal.engine_messages import (
    Answered,
    Attached,
    Cancelled,
    Died,
    Done,
    Evaluated,
    Event,
    Failed,
    Loading,
    Media,
    Prepared,
    Restored,
    Said,
    TextPiece,
)
from dclocal.fake_engine import ScriptedEngine
from dclocal.frames import VideoRequest
from tests.engine_events import opening, picture, until


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedEngine]]:
    """An opened engine that answers a script."""

    def make(*answers: str, **options: Any) -> ScriptedEngine:
        return ScriptedEngine(answers, **options)

    with opening(make) as start:
        yield start


def test_prepared_media_leave_a_question_its_own_tokens(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("a wall", "red")
    engine.attach(picture())
    attached = until(engine, Attached)
    assert (attached.kind, attached.name, attached.tokens, attached.size) == ("image", "red.png", 4, (40, 30))
    assert Image.open(io.BytesIO(attached.thumbnail)).size == (40, 30)
    for question in ("What?", "Colour?"):
        engine.prepare([attached.key])
        until(engine, Prepared)
        engine.ask(question, [attached.key])
        ready = until(engine, Evaluated)
        assert ready.prompt_tokens - ready.reused_tokens == len(f"{question}E\nSassistant\n")
        until(engine, Answered)


def test_a_question_does_not_wait_for_what_is_prepared(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("one", seeing=True)
    keys = []
    for colour in ("red", "green", "blue", "white", "black"):
        engine.attach(picture(colour))
        keys.append(until(engine, Attached).key)
    engine.prepare(keys)
    while not engine.vision.encoded_images:
        time.sleep(0.005)
    engine.ask("None of them?")
    engine.seeing.clear()
    until(engine, Cancelled)
    until(engine, Answered)
    assert engine.vision.encoded_images == 1


def test_cancelled_before_its_answer_a_question_is_taken_back(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("one", "two", seeing=True)
    engine.attach(picture())
    key = until(engine, Attached).key
    number = engine.ask("Never mind.", [key])
    engine.cancel()
    engine.seeing.clear()
    assert until(engine, Cancelled).request == number
    engine.ask("What?", [key])
    answered = until(engine, Answered)
    assert (answered.turn, answered.answer) == (0, "one") and len(engine.conversation) == 1


def test_a_failed_edit_leaves_the_conversation(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("one", "two", "three", n_ctx=200)
    for question in ("First?", "Second?"):
        engine.ask(question)
        until(engine, Answered)
    before = engine.conversation
    for edit in (lambda: engine.edit(0, "long " * 60), lambda: engine.edit(0, " "), lambda: engine.edit(7, "x")):
        edit()
        failed = engine.next_event(5)
        assert isinstance(failed, Failed) and not failed.fault and failed.remedy
        assert engine.conversation == before
    engine.ask("x", ["nowhere"])
    assert isinstance(engine.next_event(5), Failed)
    engine.ask("Third?")
    assert until(engine, Answered).turn == 2


def test_edit_retry_and_continue(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("a cat", "grey", "a dog", "a small dog", " asleep", "")
    engine.attach(picture())
    key = until(engine, Attached).key

    def answered(seen: list[Event] | None = None) -> tuple[int, str, str]:
        event = until(engine, Answered, seen)
        return event.turn, event.text, event.answer

    engine.ask("What?", [key])
    assert answered() == (0, "What?", "a cat")
    engine.ask("Colour?")
    assert answered() == (1, "Colour?", "grey")
    engine.edit(0, "Which animal?")
    seen: list[Event] = []
    assert answered(seen) == (0, "Which animal?", "a dog")
    ready = next(event for event in seen if isinstance(event, Evaluated))
    assert ready.reused_tokens == len("Suser\n") + 4 + len("\nWh")  # the picture stays, in the cache too
    engine.retry()
    assert answered() == (0, "Which animal?", "a small dog")
    engine.continue_answer()
    seen = []
    assert answered(seen) == (0, "Which animal?", "a small dog asleep")
    engine.continue_answer()  # after the end there is nothing more
    said = "Suser\n....\nWhich animal?E\nSassistant\na small dog asleepE\n"  # four tokens are the picture's
    assert until(engine, Answered).context_tokens == len(said)
    assert "".join(event.text for event in seen if isinstance(event, TextPiece)) == " asleep"
    ready = next(event for event in seen if isinstance(event, Evaluated))
    assert ready.prompt_tokens - ready.reused_tokens == 1
    assert engine.conversation == (Said("Which animal?", (picture(),), "a small dog asleep"),)
    engine.reset()
    until(engine, Done)
    assert engine.conversation == ()
    engine.retry()
    assert isinstance(engine.next_event(5), Failed)


def test_a_video_is_one_medium(scripted: Callable[..., ScriptedEngine], tmp_path: Path) -> None:
    """Attached, asked about, called off in the middle of its frames, and restored."""
    frames = [Image.new("RGB", (64, 48), (40 * number, 90, 30)) for number in range(6)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    film = Media(str(tmp_path / "clip.gif"), VideoRequest(frames=5, tokens_per_frame=4))
    engine = scripted("colours", "colours")
    engine.attach(film)
    until(engine, Loading)
    engine.cancel()
    until(engine, Cancelled)
    engine.attach(film)
    attached = until(engine, Attached)
    assert (attached.kind, attached.name, attached.tokens, attached.size) == ("video", "clip.gif", 20, (64, 48))
    assert len(attached.times_s) == 5 and "5 of 6 frames" in attached.summary
    assert Image.open(io.BytesIO(attached.thumbnail)).size == (64, 48)
    engine.ask("What?", [attached.key])
    assert until(engine, Answered).stats.image_tokens == 20
    said = engine.conversation
    assert said == (Said("What?", (film,), "colours"),)
    engine.die()
    until(engine, Died)
    engine.restart()
    assert until(engine, Restored).attached[0].key == attached.key
    engine.retry()
    assert until(engine, Answered).stats.image_tokens == 20


def test_restoring_says_what_is_gone(scripted: Callable[..., ScriptedEngine], tmp_path: Path) -> None:
    engine = scripted("yes")
    engine.restore([Said("What?", (Media(str(tmp_path / "gone.png")), picture()), "a wall"), Said("Red?", (), "no")])
    restored = until(engine, Restored)
    assert [bool(key) for key in restored.turns[0]] == [False, True] and restored.turns[1] == ()
    assert "gone.png" in restored.missing[0] and restored.attached[0].name == "red.png"
    engine.ask("Sure?")
    assert until(engine, Answered).turn == 2
    assert engine.conversation[0] == Said("What?", (picture(),), "a wall")


def test_a_crash_while_restoring_forgets_nothing(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("yes", seeing=True)
    said = (Said("What?", (picture(),), "a wall"),)
    engine.restore(said)
    until(engine, Loading)
    engine.die()
    assert until(engine, Died).signal == "SIGSEGV" and engine.conversation == said
    engine.seeing.clear()
    engine.restart()
    until(engine, Restored)
    assert engine.conversation == said


def test_a_bundle_that_is_missing_is_a_users_mistake(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("still here", missing=["nope"])
    engine.open("nope")
    failed = engine.next_event(5)
    while isinstance(failed, Loading):
        failed = engine.next_event(5)
    assert isinstance(failed, Failed) and "nope" in failed.what and "known" in failed.remedy and not failed.fault
    engine.ask("Are you there?")
    assert until(engine, Answered).answer == "still here"


def test_detached_media_are_forgotten_unless_shown(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("one", "two")
    engine.attach(picture())
    key = until(engine, Attached).key
    engine.detach(key)
    until(engine, Done)
    engine.ask("What?", [key])
    assert isinstance(engine.next_event(5), Failed)
    engine.attach(picture())
    engine.ask("What?", [until(engine, Attached).key])
    until(engine, Answered)
    engine.detach(key)
    until(engine, Done)
    engine.retry()
    assert until(engine, Answered).answer == "two"


def test_requests_and_events_pickle(scripted: Callable[..., ScriptedEngine]) -> None:
    engine = scripted("one")
    seen: list[Event] = []
    engine.attach(picture())
    seen.append(until(engine, Attached, seen))
    engine.prepare([seen[-1].key])  # type: ignore[attr-defined]
    seen.append(until(engine, Prepared, seen))
    engine.ask("What?", [])
    seen.append(until(engine, Answered, seen))
    requests = [messages.Open(1), messages.Attach(2, picture()), messages.Ask(3, "x"), messages.Restore(4, ())]
    for message in [*seen, *requests, Failed(1, "a", "b"), Died(0, 1, "", ("x",)), Restored(1, (), (), ())]:
        assert pickle.loads(pickle.dumps(message)) == message
        with pytest.raises(AttributeError):
            message.request = 7  # type: ignore[misc]
