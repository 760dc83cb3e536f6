"""The app under hard conditions: huge pictures, no colours, no Unicode, long conversations, a read-only home."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from textual.widgets import Markdown
from textual_image.widget import HalfcellImage

from dclocal.history import History
from dclocal_tui import command
from dclocal_tui.screens.browse import BrowseScreen
from dclocal_tui.widgets.conversation import SLICE, Conversation
from tests.test_tui_terminal import TMUX, Terminal
from tests.tui_app import Bench, running

asyncio_test = pytest.mark.asyncio
MANY = 500
RUN = (
    f"{sys.executable} -c 'from dclocal import cli; "
    'cli.COMMANDS["tui"] = ("dclocal_tui.command:tui", ""); cli.main(["tui", "--bundle", "nowhere"])\''
)
STALL_S = 5.0
"""The longest that a key may wait on a machine that is busy with other tests; drawing all turns takes thrice that."""


class Heart:
    """Beats in the app's loop; `longest_s` is how long the loop was away."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Heart:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            self.longest_s, last = max(self.longest_s, now - last), now


def huge(folder: Path, side: int) -> Path:
    """A grey picture of side × side pixels."""
    folder.mkdir()
    Image.new("L", (side, side), 128).save(folder / "huge.png", compress_level=1)
    return folder


@asyncio_test
async def test_a_picture_of_100_megapixels_is_previewed_without_a_stall(tmp_path: Path) -> None:
    folder = huge(tmp_path / "pictures", 10_000)
    async with running(tmp_path / "home") as bench:
        await bench.until_idle()
        async with Heart() as heart:
            await bench.ask(f"/browse {folder}")
            await bench.until(lambda: isinstance(bench.app.screen, BrowseScreen) and bench.app.screen.query("#about"))
            await bench.until(lambda: "huge.png\n10000×10000" in bench.text_of("#about"))
            assert len(bench.app.screen.query(HalfcellImage)) == 1
            await bench.pilot.press("enter")
            await bench.until(lambda: bench.talk.shelf.items and not bench.talk.shelf.items[0].preparing)
        assert bench.talk.shelf.items[0].attached is not None
        assert heart.longest_s < STALL_S


@asyncio_test
async def test_a_picture_beyond_the_bound_is_one_clear_line(tmp_path: Path) -> None:
    folder = huge(tmp_path / "pictures", 12_000)
    async with running(tmp_path / "home") as bench:
        await bench.until_idle()
        await bench.ask(f"/browse {folder}")
        await bench.until(lambda: isinstance(bench.app.screen, BrowseScreen) and bench.app.screen.query("#about"))
        await bench.until(lambda: "huge.png claims 12,000×12,000 pixels" in bench.text_of("#about"))
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.talk.shelf.items and bench.talk.shelf.items[0].error)
        assert "claims 12,000×12,000 pixels — use at most 128,000,000" in bench.talk.shelf.items[0].error


def many(folder: Path) -> tuple[History, int]:
    """A conversation of MANY turns."""
    history = History(folder)
    session = history.create("many", "fake")
    for number in range(MANY):
        history.append(session, "user", f"question {number}")
        history.append(session, "assistant", f"answer **{number}**\n\n1. one\n2. two", stop_reason="end")
    return history, session


def first_drawn(bench: Bench) -> int:
    return int(bench.exchanges[0].turn.text.split()[1])


@asyncio_test
async def test_500_turns_are_usable_at_once(tmp_path: Path) -> None:
    history, session = many(tmp_path / "home")
    async with running(tmp_path / "home", ["new"], history=history, n_ctx=400_000) as bench:
        await bench.until_idle()
        async with Heart() as heart:
            await bench.main._reopen(session)
            await bench.type("typed")
            await bench.until(lambda: [exchange.turn.text for exchange in bench.exchanges][-1:] == ["question 499"])
            await bench.until_idle()
        assert heart.longest_s < STALL_S and bench.main.prompt.text == "typed"
        assert len(bench.exchanges) <= 3 * SLICE
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers and bench.answers[-1] == "new")
        assert len(bench.engine.conversation) == MANY + 1 == len(bench.talk.turns)


@asyncio_test
async def test_earlier_turns_come_as_one_scrolls_and_what_is_seen_stays(tmp_path: Path) -> None:
    history, session = many(tmp_path / "home")
    async with running(tmp_path / "home", history=history, n_ctx=400_000) as bench:
        await bench.main._reopen(session)
        await bench.until_idle()
        view, before = bench.main.query_one(Conversation), first_drawn(bench)
        assert f"{before} earlier questions" in bench.text_of("#earlier")
        top = bench.exchanges[0]
        view.scroll_to(y=0, animate=False, immediate=True)
        await bench.until(lambda: first_drawn(bench) == before - SLICE and view.scroll_y > 0)
        assert abs(top.virtual_region.y - view.scroll_y) <= 2, "the line that was at the top still is"
        for _ in range(3):
            await bench.pilot.press("pageup")
        await bench.until(lambda: first_drawn(bench) < before - SLICE)
        numbers = [int(exchange.turn.text.split()[1]) for exchange in bench.exchanges]
        assert numbers == list(range(numbers[0], MANY)), "in order, each once"
        await bench.pilot.press("ctrl+n")
        await bench.until(lambda: not bench.exchanges)
        assert not bench.main.query_one("#earlier").display


@asyncio_test
async def test_a_tall_terminal_is_filled(tmp_path: Path) -> None:
    history, session = many(tmp_path / "home")
    async with running(tmp_path / "home", history=history, n_ctx=400_000, size=(200, 120)) as bench:
        await bench.main._reopen(session)
        await bench.until(lambda: len(bench.exchanges) > SLICE and bench.main.query_one(Conversation).max_scroll_y > 0)
        view = bench.main.query_one(Conversation)
        await bench.until(lambda: view.scroll_y == view.max_scroll_y)
        assert bench.exchanges[-1].query_one(Markdown).source.startswith("answer **499**")


@asyncio_test
async def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    home = Path("/proc/1/home")  # not even root may make it
    async with running(tmp_path, ["fine"], history=History(home)) as bench:
        bench.app._settings_file = home / "settings.toml"
        await bench.until(lambda: any("kept in memory" in notice for notice in bench.notices))
        await bench.ask_and_wait("Does it work?")
        assert bench.answers == ["fine"]
        await bench.pilot.press("f3", "ctrl+s")
        await bench.until(lambda: "settings.toml" in bench.text_of(".trouble"))
        await bench.pilot.press("escape")
        bench.app.theme = "nord"
        await bench.until(lambda: any("settings.toml" in notice for notice in bench.notices))
        await bench.pilot.press("f6", "escape", "f2", "escape")
        assert bench.app.screen is bench.main


class Tty(io.TextIOWrapper):
    """A terminal of some encoding."""

    def __init__(self, encoding: str):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_without_unicode_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("stdin", "stdout", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, Tty(encoding))
    if encoding == "utf-8":
        command._check_terminal()
        return
    with pytest.raises(command.TerminalUnfit, match="set PYTHONIOENCODING=utf-8"):
        command._check_terminal()


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal in which the app will look for a bundle that does not exist."""
    monkeypatch.setenv("DCLOCAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    terminal = Terminal(tmp_path, {"PS1": "$ "})
    yield terminal
    terminal.close()


@TMUX
def test_without_unicode_one_line_says_what_to_set(bare: Terminal) -> None:
    bare.press(f"clear; LC_ALL=C PYTHONIOENCODING=ascii {RUN}; echo status $?", "Enter")
    screen = bare.until("status 2")
    assert "cannot be written in ascii" in screen and "Traceback" not in screen


@TMUX
def test_without_colours_all_is_grey_and_readable(bare: Terminal) -> None:
    bare.press(f"clear; NO_COLOR=1 {RUN}", "Enter")
    bare.until("Ask something")
    bare.until("there is no bundle")
    coloured = bare._run("capture-pane", "-p", "-e")
    colours = re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", coloured)
    assert all(red == green == blue for red, green, blue in colours)
    palette = [int(number) for number in re.findall(r"[34]8;5;(\d+)", coloured)]
    assert colours or palette
    assert all(number >= 232 or number in (16, 59, 102, 145, 188, 231) for number in palette), palette
    bare.press("C-q")
