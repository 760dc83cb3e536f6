"""Conversations of the app: kept as they go, found, opened, renamed, deleted, exported; a dead engine costs no word."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input, OptionList

from dclocal.history import History
from dclocal.history_data import MediaFile
from dclocal.settings import Settings, read_settings
from dclocal_tui.screens.bundles import BundlesScreen
from dclocal_tui.screens.help import HelpScreen
from dclocal_tui.screens.log import LogScreen, tail
from dclocal_tui.screens.sessions import SessionsScreen
from dclocal_tui.screens.settings import SettingsScreen
from tests.tui_app import Bench, picture, running

pytestmark = pytest.mark.asyncio
LONG = " ".join(map(str, range(1, 80)))


def filled(folder: Path) -> History:
    """Two conversations, the first about a picture."""
    history = History(folder)
    first = history.create("A red thing", "fake")
    history.append(first, "user", "What is this?", media=[MediaFile("image", "red.png", picture(folder / "pictures"))])
    history.append(first, "assistant", "a strawberry", stop_reason="end")
    second = history.create("Sums", "fake")
    history.append(second, "user", "One and one?")
    history.append(second, "assistant", "two", stop_reason="end")
    return history


def listed(bench: Bench) -> list[str]:
    chooser = bench.app.screen.query_one(OptionList)
    return [str(option.prompt) for option in chooser.options]


async def open_sessions(bench: Bench) -> None:
    await bench.pilot.press("f2")
    await bench.until(lambda: isinstance(bench.app.screen, SessionsScreen))


async def test_a_growing_answer_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG], piece_s=0.02) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 60)
        bench.engine.held.set()
        with History(tmp_path) as other:  # as another program sees it now
            await bench.until(lambda: len(other.load(other.sessions()[0].id).messages[-1].text) > 20)
        bench.engine.held.clear()


async def test_a_conversation_is_found_and_reopened_with_its_picture(tmp_path: Path) -> None:
    async with running(tmp_path, ["red"], history=filled(tmp_path)) as bench:
        await open_sessions(bench)
        assert [line.strip().split("  ")[0] for line in listed(bench)] == ["Sums", "A red thing"]
        await bench.pilot.press(*"strawb")
        await bench.until(lambda: len(listed(bench)) == 1)
        assert "[strawberry]" in listed(bench)[0]
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["a strawberry"])
        await bench.until_idle()
        assert bench.talk.shelf.items[0].attached is not None and bench.talk.turns[0].numbers == (1,)
        await bench.ask_and_wait("Which colour?")
        assert len(bench.engine.conversation) == 2 and bench.engine.conversation[0].media
        bench.app.recorder.wait()
        assert len(bench.app.history.load(1).messages) == 4


async def test_a_question_without_an_answer_comes_back_to_be_asked(tmp_path: Path) -> None:
    history = filled(tmp_path)
    history.append(2, "user", "And two and two?")
    async with running(tmp_path, history=history) as bench:
        await open_sessions(bench)
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["two"])
        assert bench.main.prompt.text == "And two and two?"


async def test_a_picture_that_is_gone_is_told(tmp_path: Path) -> None:
    history = filled(tmp_path)
    for file in (tmp_path / "media").iterdir():
        file.unlink()
    (tmp_path / "pictures" / "red.png").unlink()
    async with running(tmp_path, history=history) as bench:
        await open_sessions(bench)
        await bench.pilot.press("down", "enter")
        await bench.until(lambda: any("does not exist" in notice for notice in bench.notices))
        assert bench.answers == ["a strawberry"] and bench.talk.shelf.items[0].error


async def test_rename_delete_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with running(tmp_path, history=filled(tmp_path)) as bench:
        await open_sessions(bench)
        await bench.pilot.press("f2")
        bench.app.screen.query_one("#asked", Input).value = "Arithmetic"
        await bench.pilot.press("enter")
        await bench.until(lambda: "Arithmetic" in listed(bench)[0])
        await bench.pilot.press("down", "ctrl+s", "enter")
        await bench.until(lambda: (tmp_path / "conversation-1.md").exists())
        assert "a strawberry" in (tmp_path / "conversation-1.md").read_text()
        assert list((tmp_path / "conversation-1_media").iterdir())
        await bench.pilot.press("delete")
        assert len(listed(bench)) == 2
        await bench.pilot.press("delete")
        await bench.until(lambda: len(listed(bench)) == 1)
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.app.screen is bench.main)
        assert [info.title for info in bench.app.history.sessions()] == ["Arithmetic"]


async def test_export_by_command(tmp_path: Path) -> None:
    async with running(tmp_path, ["yes"]) as bench:
        await bench.ask(f"/export {tmp_path}/x.md")
        await bench.until(lambda: any("nothing was said yet" in notice for notice in bench.notices))
        assert not bench.exchanges
        bench.main.prompt.text = ""
        await bench.ask_and_wait("Really?")
        await bench.ask(f"/export {tmp_path}/talk.json")
        await bench.until(lambda: (tmp_path / "talk.json").exists())
        assert '"yes"' in (tmp_path / "talk.json").read_text()


async def test_a_crash_in_mid_answer_keeps_what_was_shown(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG, "again"], piece_s=0.02, media=[picture(tmp_path)]) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 20)
        bench.engine.die()
        await bench.until(lambda: bench.talk.dead)
        assert "F5" in bench.text_of("DeadBanner") and bench.main.query_one("DeadBanner").display
        shown = bench.answers[0]
        await bench.ask("More?")
        assert bench.main.prompt.text == "More?" and len(bench.exchanges) == 1
        bench.app.recorder.wait()
        kept = bench.app.history.load(bench.app.recorder.session or 0).messages[-1]
        assert kept.text == shown and kept.stop_reason == "crash"
        bench.engine.piece_s = 0
        await bench.pilot.press("f5")
        await bench.until_idle()
        assert not bench.main.query_one("DeadBanner").display
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers[1:] == ["again"])
        assert bench.engine.conversation[0].answer == shown and len(bench.engine.conversation) == 2


async def test_a_crash_before_the_first_word_gives_the_question_and_its_picture_back(tmp_path: Path) -> None:
    async with running(tmp_path, ["red"], loading=True, media=[picture(tmp_path)]) as bench:
        await bench.ask("Which colour?")
        bench.engine.die()
        await bench.until(lambda: bench.talk.dead)
        assert bench.main.prompt.text == "Which colour?" and not bench.exchanges
        bench.engine.loading.clear()
        await bench.pilot.press("f5")
        await bench.until_idle()
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["red"])
        assert bench.engine.conversation[0].media


async def test_a_hanging_model_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path, [LONG, "back"], piece_s=0.02) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bench.answers and len(bench.answers[0]) > 5)
        await bench.pilot.press("f5")
        bench.engine.piece_s = 0
        await bench.until_idle()
        await bench.ask_and_wait("There?")
        assert bench.answers[1] == "back"


async def test_the_log_is_shown(tmp_path: Path) -> None:
    (tmp_path / "engine.log").write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert tail(tmp_path / "engine.log").endswith("line 19999\n")
    assert tail(tmp_path / "none.log") == ""
    async with running(tmp_path) as bench:
        await bench.pilot.press("f6")
        await bench.until(lambda: isinstance(bench.app.screen, LogScreen))
        await bench.pilot.press("escape")
        await bench.until(lambda: bench.app.screen is bench.main)


async def test_help_has_the_keys_as_they_are_set(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(keys={"help": "f12", "nonsense": "f24"})) as bench:
        await bench.pilot.press("f12")
        await bench.until(lambda: isinstance(bench.app.screen, HelpScreen))
        texts = [str(text.render()) for text in bench.app.screen.query("Static")]
        rows = dict(zip(texts[::2], texts[1::2]))
        assert rows["F12"].startswith("Help") and "Esc" in rows and "/attach PATH" in rows and "F24" not in rows


async def test_the_settings_form(tmp_path: Path) -> None:
    async with running(tmp_path, ["12345678", "12345678"]) as bench:
        await bench.pilot.press("f3")
        await bench.until(lambda: isinstance(bench.app.screen, SettingsScreen))
        bench.app.screen.query_one("#temperature", Input).value = "hot"
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: "Temperature is 'hot'" in bench.text_of(".trouble"))
        bench.app.screen.query_one("#temperature", Input).value = "0.5"
        bench.app.screen.query_one("#max_tokens", Input).value = "3"
        bench.app.screen.query_one("#theme").value = "textual-light"  # type: ignore[attr-defined]
        await bench.pilot.press("ctrl+s")
        await bench.until(lambda: bench.app.screen is bench.main)
        assert read_settings(tmp_path / "settings.toml") == Settings(0.5, 3, theme="textual-light")
        assert bench.app.theme == "textual-light"
        await bench.ask_and_wait("Count")
        assert bench.answers == ["123"]


async def test_a_theme_of_the_palette_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        bench.app.theme = "nord"
        await bench.until(lambda: (tmp_path / "settings.toml").exists())
        assert read_settings(tmp_path / "settings.toml").theme == "nord"


async def test_another_bundle_goes_on_with_the_conversation(tmp_path: Path, own_home: Path) -> None:
    async with running(tmp_path, ["one", "two"]) as bench:
        await bench.ask_and_wait("First")
        await bench.pilot.press("f4")
        await bench.until(lambda: isinstance(bench.app.screen, BundlesScreen) and listed(bench))
        assert "dc-tiny" in listed(bench)[0]
        bench.engine.loading.set()
        await bench.pilot.press("enter")
        await bench.until(lambda: not bench.talk.ready)
        bench.engine.loading.clear()
        await bench.until_idle()
        await bench.ask_and_wait("Second")
        assert [said.text for said in bench.engine.conversation] == ["First", "Second"]


async def test_every_action_is_in_the_palette(tmp_path: Path) -> None:
    async with running(tmp_path, ["x"]) as bench:
        names = {command.title: command for command in bench.app.get_system_commands(bench.main)}
        assert {"Retry", "Sessions", "Log", "Bundles", "Settings", "Example", "Restart", "New"} <= set(names)
        await names["Help"].callback()  # type: ignore[misc]
        await bench.until(lambda: isinstance(bench.app.screen, HelpScreen))


async def test_quit(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.pilot.press("ctrl+q")
        await bench.until(lambda: not bench.app.is_running or bench.app._exit)


async def test_a_long_conversation_opens_at_its_end(tmp_path: Path) -> None:
    history = History(tmp_path)
    session = history.create("many", "fake")
    for number in range(60):
        history.append(session, "user", f"question {number}")
        history.append(session, "assistant", f"answer {number}", stop_reason="end")
    async with running(tmp_path, ["new", "other"], history=history, n_ctx=40_000) as bench:
        await open_sessions(bench)
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers and bench.answers[-1] == "answer 59")
        await bench.until_idle()
        assert len(bench.exchanges) < 20 and " earlier questions" in bench.text_of("#earlier")
        await bench.ask_and_wait("More?")
        await bench.pilot.press("ctrl+r")
        await bench.until(lambda: bench.answers[-2:] == ["answer 59", "other"])
        assert len(bench.engine.conversation) == 61
