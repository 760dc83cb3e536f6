"""A conversation taken up again: what comes late for another one, or is called off, must not spoil it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from dclocal.engine_messages import Answered, Attached, Cancelled, Evaluated, Loading, Media, Ready, Restored, TextPiece
from dclocal.fake_engine import ScriptedEngine
from dclocal.history import History
from dclocal.history_data import MediaFile
from tests.tui_app import WAIT_S, Bench, picture, running

pytestmark = pytest.mark.asyncio


def saved(history: History, tmp_path: Path, colour: str) -> int:
    """A conversation about a picture of this colour."""
    session = history.create(colour, "fake")
    file = MediaFile("image", f"{colour}.png", picture(tmp_path, f"{colour}.png", colour), b"")
    history.append(session, "user", f"What is {colour}?", media=[file])
    history.append(session, "assistant", "a colour", stop_reason="end")
    return session


def shown_colours(bench: Bench) -> list[tuple[int, ...]]:
    """The colour of each medium's preview, to the nearest of the eight purest."""
    thumbnails = [item.attached.thumbnail for item in bench.talk.shelf.items if item.attached]
    pixels = [Image.open(io.BytesIO(data)).convert("RGB").getpixel((5, 5)) for data in thumbnails]
    return [tuple(round(value / 255) for value in pixel) for pixel in pixels]  # type: ignore[union-attr]


async def test_the_engine_tells_which_request_restores_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "home", ["a", "b"]) as bench:
        await bench.until_idle()
        assert bench.engine.restart() == 0, "there is nothing to restore"
        await bench.until_idle()
        await bench.ask_and_wait("What?")
        assert bench.engine.restart() == bench.engine._last_request > 0


async def test_after_a_restart_a_late_answer_to_an_earlier_restore_is_ignored(tmp_path: Path) -> None:
    async with running(tmp_path / "home", ["a", "b"], media=[picture(tmp_path)]) as bench:
        await bench.until_idle()
        await bench.ask_and_wait("What?")
        item = bench.talk.shelf.items[0]
        bench.engine.loading.set()
        await bench.talk.restart()
        wrong = Attached(1, "wrong", "image", "wrong.png", 4, (1, 1), b"")
        await bench.talk.handle(Restored(1, (("wrong",),), (wrong,), ()))
        assert bench.talk.shelf.items[0].attached is item.attached
        bench.engine.loading.clear()
        await bench.until_idle()
        attached = bench.talk.shelf.items[0].attached
        assert attached is not None and item.attached is not None and attached.key == item.attached.key
        await bench.ask_and_wait("And?")
        assert [said.text for said in bench.engine.conversation] == ["What?", "And?"]


async def test_two_conversations_opened_in_a_row_do_not_mix(tmp_path: Path) -> None:
    history = History(tmp_path / "home")
    red, blue = saved(history, tmp_path, "red"), saved(history, tmp_path, "blue")
    async with running(tmp_path / "home", history=history, loading=True) as bench:
        await bench.main._reopen(red)
        await bench.main._reopen(blue)
        bench.engine.loading.clear()
        await bench.until_idle()
        assert [turn.text for turn in bench.talk.turns] == ["What is blue?"]
        assert shown_colours(bench) == [(0, 0, 1)]
        assert [media.name for media in bench.engine.conversation[0].media] == ["blue.png"]


async def test_escape_while_a_conversation_is_restored_keeps_it(tmp_path: Path) -> None:
    history = History(tmp_path / "home")
    red = saved(history, tmp_path, "red")
    async with running(tmp_path / "home", ["yes"], history=history, loading=True) as bench:
        await bench.main._reopen(red)
        await bench.ask("And now?")
        await bench.pilot.press("escape")
        bench.engine.loading.clear()
        await bench.until_idle()
        assert shown_colours(bench) == [(1, 0, 0)] and bench.main.prompt.text == "And now?"
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers[-1:] == ["yes"])
        assert [said.text for said in bench.engine.conversation] == ["What is red?", "And now?"]


async def test_escape_while_the_model_loads_calls_off_the_question_alone(tmp_path: Path) -> None:
    async with running(tmp_path / "home", ["yes"], loading=True) as bench:
        await bench.ask("Early?")
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.main.prompt.text == "Early?")
        bench.engine.loading.clear()
        await bench.until_idle()
        assert bench.main.prompt.text == "Early?"
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["yes"])


async def test_a_new_conversation_while_the_model_loads_keeps_the_model(tmp_path: Path) -> None:
    async with running(tmp_path / "home", ["yes"], loading=True) as bench:
        await bench.ask("Early?")
        await bench.pilot.press("ctrl+n")
        bench.engine.loading.clear()
        await bench.until_idle()
        await bench.ask_and_wait("Late?")
        assert [said.text for said in bench.engine.conversation] == ["Late?"]


async def test_calling_off_since_a_request_leaves_those_before_it(tmp_path: Path) -> None:
    with ScriptedEngine(["yes"], loading=True) as engine:
        opened, attached = engine.open(None), engine.attach(Media(str(picture(tmp_path))))
        asked = engine.ask("What?")
        engine.cancel(asked)
        again = engine.ask("Again?")
        engine.loading.clear()
        ends = {}
        while again not in ends:
            event = engine.next_event(WAIT_S)
            if not isinstance(event, Loading | Evaluated | TextPiece):
                ends[event.request] = type(event)  # type: ignore[union-attr]
        assert ends == {opened: Ready, attached: Attached, asked: Cancelled, again: Answered}
