"""The app's conversation: asked, streamed, stopped, gone on with, asked again, edited, copied; typing never waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from dclocal.history import History
from dclocal.settings import Settings
from tests.tui_app import picture, running

pytestmark = pytest.mark.asyncio
LONG = " ".join(map(str, range(1, 80)))


async def test_a_question_is_answered_and_costs_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path, ["a **red** circle"]) as bench:
        await bench.ask_and_wait("What is this?")
        assert bench.answers == ["a **red** circle"]
        figures = bench.text_of("#figures")
        assert "/4,000 tokens" in figures and "first " in figures and "tok/s" in figures and "MB" in figures
        assert bench.text_of("#activity").startswith("fake")
        assert bench.main.prompt.text == ""


async def test_typing_works_while_the_model_loads(tmp_path: Path) -> None:
    async with running(tmp_path, ["yes"], loading=True) as bench:
        await bench.pilot.press(*"hello")
        assert bench.main.prompt.text == "hello"
        assert "loading" in bench.text_of("#activity")
        assert not bench.talk.ready
        await bench.pilot.press("enter")
        bench.engine.loading.clear()
        await bench.until(lambda: bench.answers == ["yes"])


async def test_an_answer_is_shown_as_it_comes(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG], piece_s=0.02) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 20)
        bench.engine.held.set()
        assert LONG.startswith(bench.answers[0]) and len(bench.answers[0]) < len(LONG)
        shown = bench.exchanges[0].region.y
        bench.engine.piece_s = 0
        bench.engine.held.clear()
        await bench.until_idle()
        assert bench.answers[0].strip() == LONG.strip()
        assert bench.exchanges[0].region.y == shown  # it fits: nothing has moved


async def test_escape_stops_at_once_and_the_answer_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG, "the rest"], piece_s=0.02) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 10)
        await bench.pilot.press("escape")
        await bench.until_idle()
        stopped = bench.answers[0]
        assert 10 < len(stopped) < len(LONG)
        assert "Ctrl+G" in str(bench.exchanges[0].query_one(".ending").render())
        bench.engine.piece_s = 0
        await bench.pilot.press("ctrl+g")
        await bench.until(lambda: bench.answers[0].endswith("the rest"))
        await bench.until_idle()
        assert bench.answers[0].startswith(stopped.strip())
        assert not bench.exchanges[0].query_one(".ending").display


async def test_escape_before_the_first_word_gives_the_question_back(tmp_path: Path) -> None:
    async with running(tmp_path, ["no"], loading=True) as bench:
        await bench.ask("Too early")
        assert len(bench.exchanges) == 1
        await bench.pilot.press("escape")
        await bench.until(lambda: not bench.exchanges)
        assert bench.main.prompt.text == "Too early"


async def test_retry_replaces_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path, ["first", "second"]) as bench:
        await bench.ask_and_wait("Say")
        await bench.pilot.press("ctrl+r")
        await bench.until(lambda: bench.answers == ["second"])
        await bench.until_idle()
        bench.app.recorder.wait()
        saved = bench.app.history.load(bench.app.recorder.session or 0)
        assert [message.text for message in saved.messages] == ["Say", "second"]


async def test_the_last_question_is_edited(tmp_path: Path) -> None:
    async with running(tmp_path, ["one", "two", "three"], media=[picture(tmp_path)]) as bench:
        await bench.ask_and_wait("First")
        await bench.ask_and_wait("Second")
        await bench.pilot.press("ctrl+e")
        assert bench.main.prompt.text == "Second"
        await bench.ask(" and more")
        await bench.until(lambda: bench.answers == ["one", "three"])
        await bench.until_idle()
        assert [turn.text for turn in bench.talk.turns] == ["First", "Second and more"]
        bench.app.recorder.wait()
        saved = bench.app.history.load(bench.app.recorder.session or 0)
        assert [message.text for message in saved.messages] == ["First", "one", "Second and more", "three"]
        await bench.pilot.press("ctrl+e", "escape")
        assert bench.main.prompt.text == "" and not bench.main.prompt.border_title


async def test_a_second_question_waits_for_the_answer(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG], piece_s=0.02) as bench:
        await bench.ask("One")
        await bench.ask("Two")
        assert bench.main.prompt.text == "Two"
        assert any("Esc stops" in notice for notice in bench.notices)


async def test_the_answer_is_copied(tmp_path: Path) -> None:
    async with running(tmp_path, ["a red circle"]) as bench:
        await bench.ask_and_wait("What?")
        await bench.pilot.press("ctrl+y")
        assert bench.app.clipboard == "a red circle"


async def test_new_lines_and_earlier_questions(tmp_path: Path) -> None:
    async with running(tmp_path, ["a", "b"]) as bench:
        await bench.pilot.press("x", "ctrl+j", "y", "shift+enter", "z")
        assert bench.main.prompt.text == "x\ny\nz"
        await bench.pilot.press("enter")
        await bench.until_idle()
        await bench.ask_and_wait("later")
        await bench.type("draft")
        await bench.pilot.press("up")
        assert bench.main.prompt.text == "later"
        await bench.pilot.press("up")
        assert bench.main.prompt.text == "x\ny\nz"
        await bench.pilot.press("down", "down")
        assert bench.main.prompt.text == "draft"


async def test_a_new_conversation_leaves_the_old_one_in_the_history(tmp_path: Path) -> None:
    async with running(tmp_path, ["a", "b"], media=[picture(tmp_path)]) as bench:
        await bench.ask_and_wait("Old")
        await bench.pilot.press("ctrl+n")
        await bench.until(lambda: not bench.exchanges)
        assert bench.main.query_one("Welcome").display and not bench.talk.shelf.items
        await bench.ask_and_wait("New")
        bench.app.recorder.wait()
        assert [info.title for info in bench.app.history.sessions()] == ["New", "Old"]
        assert len(bench.engine.conversation) == 1


async def test_a_new_conversation_in_mid_answer(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG, "fresh"], piece_s=0.02) as bench:
        await bench.ask("Old")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 10)
        await bench.pilot.press("ctrl+n")
        bench.engine.piece_s = 0
        await bench.ask_and_wait("New")
        assert bench.answers == ["fresh"]
        bench.app.recorder.wait()
        old = bench.app.history.load(bench.app.history.sessions()[1].id)
        assert old.messages[1].text and LONG.startswith(old.messages[1].text)


async def test_resizing_while_an_answer_streams(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG], piece_s=0.02, media=[picture(tmp_path)]) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 20)
        for width, height in ((80, 24), (200, 60), (30, 10), (100, 30)):
            await bench.pilot.resize_terminal(width, height)
            assert bench.main.prompt.region.bottom <= height
        bench.engine.piece_s = 0
        await bench.until_idle()
        assert bench.answers[0].strip() == LONG.strip()


async def test_control_characters_of_a_model_stay_out_of_the_terminal(tmp_path: Path) -> None:
    async with running(tmp_path, ["a\x1b]0;title\x07b"]) as bench:
        await bench.ask_and_wait("What?")
        assert bench.answers == ["a]0;titleb"]


async def test_a_history_that_cannot_be_written_costs_a_note_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    async with running(tmp_path, ["yes"], history=History(blocked)) as bench:
        assert any("memory" in notice for notice in bench.notices)
        await bench.ask_and_wait("Still?")
        assert bench.answers == ["yes"]


async def test_a_bundle_that_does_not_exist_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(bundle="nope"), missing=["nope"]) as bench:
        await bench.until(lambda: any("there is no bundle 'nope'" in notice for notice in bench.notices))
        await bench.ask("Hello")
        await bench.until(lambda: bench.main.prompt.text == "Hello")
