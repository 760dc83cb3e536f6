"""What llama.cpp tells while one of its functions runs."""

from __future__ import annotations

import ctypes
import logging
import threading

import pytest

from dclocal.llama_log import capture_log, logger, run_logging, unheard


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


@pytest.fixture
def receiving(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether llama.cpp was told to tell us, each time that it was told anything."""
    receiver, told = capture_log(), []
    monkeypatch.setattr("dclocal.llama_log.llama.llama_log_set", lambda to, _: told.append(to is receiver.callback))
    return told


def test_lines_reach_nobody_until_the_last_of_two_threads_is_done(receiving: list[bool]) -> None:
    """A vocabulary goes on loading when the weights are there."""
    begun, go_on = threading.Event(), threading.Event()

    def load() -> None:
        begun.set()
        go_on.wait()

    words = threading.Thread(target=unheard, args=(load,))
    words.start()
    begun.wait()
    assert unheard(lambda: "weights") == "weights" and not any(receiving)
    go_on.set()
    words.join()
    assert receiving[-1] and receiving.count(True) == 1


def test_lines_are_told_where_somebody_listens(receiving: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another test's library did to loggers."""
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logger(), "disabled", False)
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
    logger().addHandler(listener)
    logger().setLevel(logging.INFO)
    try:
        unheard(speak)
    finally:
        logger().setLevel(logging.NOTSET)
        logger().removeHandler(listener)
    assert heard == ["one", "two", "three"] and not receiving
