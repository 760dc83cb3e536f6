"""Progress goes to stderr: one line a step in a log, bars on a terminal, nothing where there is nothing to wait for."""

from __future__ import annotations

import io

import pytest

from dclocal.progress import for_terminal


def test_a_log_gets_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with for_terminal() as progress:
        for done in range(4):
            progress("downloading", done, 3)
        progress("building", 0, 1)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "dclocal: downloading\ndclocal: building\n"


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with for_terminal():
        pass
    assert terminal.getvalue() == ""
    with for_terminal() as progress:
        progress("downloading", 1, 2)
        progress("downloading", 2, 2)
        progress("waiting", 0, 0)
    assert "downloading" in terminal.getvalue() and "100%" in terminal.getvalue()
