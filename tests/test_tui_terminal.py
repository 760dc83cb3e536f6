"""The real app in a real terminal (tmux) with the embedded bundle; and what it does where there is no terminal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

WAIT_S = 90
PROMPT = r"(^|\n)[$#]"
START = """\
import sys
from dclocal import cli
cli.COMMANDS["tui"] = ("dclocal_tui.command:tui", "")  # where the installed package does not name it yet
cli.main(["tui", *sys.argv[1:]])
"""
TMUX = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Terminal:
    """A shell in tmux, of 80 by 24."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
        environment = {**os.environ, **environment}
        self._run("new", "-d", "-x", "80", "-y", "24", "sh", environment=environment)
        self.until(PROMPT)

    def press(self, *keys: str) -> None:
        """Keys by tmux's names, or text."""
        self._run("send-keys", *keys)

    @property
    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    @property
    def shell(self) -> psutil.Process:
        return psutil.Process(int(self._run("display", "-p", "#{pane_pid}")))

    def state(self) -> tuple[str, ...]:
        """What the app must leave as it was: the screen in use, the cursor, mouse and keypad, the line's settings."""
        modes = "alternate_on cursor_flag mouse_any_flag mouse_sgr_flag keypad_cursor_flag keypad_flag"
        shown = self._run("display", "-p", " ".join(f"#{{{mode}}}" for mode in modes.split()))
        terminal = self._run("display", "-p", "#{pane_tty}").strip()
        line = subprocess.run(["stty", "-F", terminal, "-a"], capture_output=True, text=True, check=True).stdout
        return shown, line

    def until(self, pattern: str) -> str:
        """The screen, once it shows the pattern."""
        return self.wait(lambda: re.search(pattern, self.screen, re.DOTALL) and self.screen, pattern)

    def wait(self, done: Callable[[], object], what: str = "") -> str:
        end = time.monotonic() + WAIT_S
        while not (found := done()):
            assert time.monotonic() < end, f"waited {WAIT_S} s for {what}:\n{self.screen}"
            time.sleep(0.05)
        return str(found)

    def engine(self) -> psutil.Process:
        """The model's process."""
        children = self.shell.children(recursive=True)
        return next(child for child in children if any("engine_child" in word for word in child.cmdline()))

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)  # it may have ended with its only shell

    def _run(self, *command: str, environment: dict[str, str] | None = None) -> str:
        done = subprocess.run([*self._tmux, *command], capture_output=True, text=True, env=environment, check=True)
        return done.stdout


@pytest.fixture
def home(tmp_path: Path, bundle_home: Path) -> Path:
    """A home of this test's own with the embedded bundle in it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "bundles").symlink_to(bundle_home / "bundles")
    return tmp_path / "home"


@pytest.fixture
def terminal(tmp_path: Path, home: Path) -> Iterator[Terminal]:
    (tmp_path / "start.py").write_text(START)
    environment = {"DCLOCAL_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    terminal = Terminal(tmp_path, environment)
    try:
        yield terminal
    finally:
        terminal.close()


@TMUX
@pytest.mark.bundle
def test_from_start_to_quit(terminal: Terminal, tmp_path: Path, home: Path) -> None:
    before = terminal.state()
    terminal.press(f"cd {Path.cwd()}; clear; {sys.executable} {tmp_path}/start.py", "Enter")
    terminal.until("Ask something")
    assert terminal.state() != before
    terminal.press("What is in @examples/circle.png?", "Enter")
    terminal.until(r"a red circle.*tok/s")
    terminal.press("Is it round?", "Enter")
    terminal.until(r"Is it round\?\n +\S+")

    engine = terminal.engine()
    engine.suspend()
    terminal.press("Too late", "Enter")
    terminal.until("You  Too late.*reading…")
    terminal.press("Escape")
    time.sleep(1)  # a terminal's Escape is one only once nothing follows it
    engine.resume()
    terminal.until("│ Too late")
    assert "You  Too late" not in terminal.screen
    terminal.press("C-u")

    engine.send_signal(signal.SIGKILL)
    terminal.until("was ended by SIGKILL.*F5 starts it again")
    terminal.press("F5")
    terminal.until(r"dc-tiny +\d+/")
    terminal.wait(lambda: "F5 starts" not in terminal.screen)
    terminal.until("a red circle")  # once what stood below it is gone and the view has settled
    terminal.press("What colour is the circle?", "Enter")
    terminal.until(r"What colour is the circle\?\n +\S+")

    terminal.press("C-q")
    terminal.wait(lambda: terminal.state() == before, "the terminal as before")
    terminal.until(PROMPT)
    assert not [child for child in terminal.shell.children(recursive=True) if child.is_running()]
    from dclocal.history import History

    with History(home) as history:
        saved = history.load(history.sessions()[0].id)
    assert [message.text for message in saved.messages][:2] == ["What is in circle.png?", "a red circle"]
    assert len(saved.messages) == 6


@TMUX
def test_a_killed_terminal_leaves_no_process(terminal: Terminal, tmp_path: Path) -> None:
    terminal.press(f"cd {Path.cwd()}; clear; {sys.executable} {tmp_path}/start.py", "Enter")
    terminal.until("Ask something")
    terminal.wait(lambda: len(terminal.shell.children(recursive=True)) > 1, "the engine")
    processes = terminal.shell.children(recursive=True)
    terminal.shell.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive


def test_without_a_terminal(tmp_path: Path) -> None:
    environment = {**os.environ, "DCLOCAL_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "dclocal: the app needs a terminal for input and output — use dclocal chat IMAGE -p TEXT here\n"
    )


@TMUX
@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("TERM=dumb {}", "TERM=dumb cannot show the app"),
        ("{} /no/such.png", "/no/such.png does not exist"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(terminal: Terminal, tmp_path: Path, command: str, line: str) -> None:
    start = f"{sys.executable} {tmp_path}/start.py"
    terminal.press(f"clear; {command.format(start)}; echo status $?", "Enter")
    assert line in terminal.until("status 2")


def test_without_the_extra_its_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dclocal_tui import command

    monkeypatch.setattr(command, "_check_terminal", lambda: None)
    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(command.ExtraMissing, match=r"pip install 'dclocal\[tui\]'"):
        command.tui.main([], standalone_mode=False)
