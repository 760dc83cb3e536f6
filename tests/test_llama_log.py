"""What llama.cpp tells while one of its functions runs."""

from __future__ import annotations

import ctypes

import pytest

from dclocal.llama_log import capture_log, run_logging


class Unwanted(Exception):
    """What a listener raises that has heard enough."""


def speak() -> bool:
    """Three lines, by way of C as llama.cpp's come."""
    for line in (b"one\n", b"two\n", b"three\n"):
        capture_log().callback(2, line, ctypes.c_void_p(0))
    return True


def test_each_line_is_told() -> None:
    heard: list[str] = []
    assert run_logging(speak, on_line=heard.append)
    assert heard == ["one", "two", "three"]


def test_an_error_of_the_listener_comes_when_the_function_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []

    def on_line(line: str) -> None:
        heard.append(line)
        if line == "two":
            raise Unwanted

    with pytest.raises(Unwanted):
        run_logging(speak, on_line=on_line)
    assert heard == ["one", "two"] and not capsys.readouterr().err
    assert capture_log().on_line is None
