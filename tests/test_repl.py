"""The conversation in a terminal: commands, mistakes that must not end it, and a real terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dclocal.bundle import AdapterSpec
from dclocal.chat import ChatSession
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.repl import Repl, line_completer, line_reader, unquote

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ChatSession]:
    """Runs a REPL on lines and scripted answers; returns its session."""

    def run(lines: list[object], *answers: str) -> ChatSession:
        typed = iter(lines)

        def read() -> str:
            line = next(typed, EOFError())
            if isinstance(line, BaseException):
                raise line
            return str(line)

        monkeypatch.setattr("dclocal.repl.line_reader", lambda commands: read)
        session = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM(answers, 400))
        Repl(session, [], {}).run()
        return session

    return run


def test_a_conversation_with_a_picture(
    talk: Callable[..., ChatSession], tmp_path: Path, picture: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a picture.png"
    picture.save(file)
    saved = tmp_path / "talk.json"
    lines = [f"/image '{file}'", "What?", "And?", "/stats", f"/save {saved}", "/quit", "never read"]
    session = talk(lines, "a cat", "yes")
    captured = capsys.readouterr()
    assert captured.out == "a cat\nyes\n"
    assert "picture 1 goes with the next question" in captured.err and "prompt tokens" in captured.err
    assert [len(message.images) for message in session.messages] == [1, 0, 0, 0]
    assert [message["text"] for message in json.loads(saved.read_text())["messages"]] == [
        "What?",
        "a cat",
        "And?",
        "yes",
    ]


def test_mistakes_are_shown_and_it_goes_on(
    talk: Callable[..., ChatSession], capsys: pytest.CaptureFixture[str]
) -> None:
    talk(["/nonsense", "/image none.png", "", "/save /none/x.md", KeyboardInterrupt(), "still there?", "/reset"], "yes")
    captured = capsys.readouterr()
    assert captured.out == "yes\n"
    for expected in ("known: /image", "none.png does not exist", "cannot be written", "/quit leaves", "forgotten"):
        assert expected in captured.err


def test_adapters_are_switched_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Adapted(FakeLLM):
        adapters: dict[str, float]

        def use_adapters(self, scales: dict[str, float]) -> None:
            self.adapters = {name: scale for name, scale in scales.items() if scale}

    bundle, llm = fake_bundle(tmp_path), Adapted(["yes"])
    known = (AdapterSpec("red", "red.gguf", 1.0), AdapterSpec("blue", "blue.gguf", 0.5))
    session = ChatSession(
        dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, adapters=known)), FakeVision(), llm
    )
    llm.use_adapters({"red": 1.0, "blue": 0.5})
    lines = iter(["/lora", "/lora blue=2", "/lora none", "/lora green", "/lora red=much", "/lora blue", "Still there?"])
    monkeypatch.setattr("dclocal.repl.line_reader", lambda commands: lambda: next(lines))
    with pytest.raises(StopIteration):
        Repl(session, [], {}).run()
    captured = capsys.readouterr()
    said = captured.err.splitlines()[1:]
    assert said[:6] == ["red=1", "blue=0.5", "red=0", "blue=2", "red=0", "blue=0"]
    assert "known: red, blue" in said[6] and "is not a number" in said[7] and said[8:] == ["red=0", "blue=0.5"]
    assert llm.adapters == {"blue": 0.5} and captured.out == "yes\n"


def test_a_bundle_without_adapters_says_so(
    talk: Callable[..., ChatSession], capsys: pytest.CaptureFixture[str]
) -> None:
    talk(["/lora red", "still there?"], "yes")
    captured = capsys.readouterr()
    assert "takes no adapters" in captured.err and captured.out == "yes\n"


def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    talk: Callable[..., ChatSession], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = FakeLLM.generate

    def interrupted(self: FakeLLM, *arguments: object, **options: object):  # type: ignore[no-untyped-def]
        for count, piece in enumerate(real(self, *arguments, **options)):  # type: ignore[arg-type]
            if count == 3 and len(self.answers) == 1:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(FakeLLM, "generate", interrupted)
    session = talk(["Tell me.", "Again."], "a long story", "short")
    captured = capsys.readouterr()
    assert captured.out == "a l\nshort\n" and "stopped" in captured.err
    assert [message.text for message in session.messages] == ["Tell me.", "a l", "Again.", "short"]


def test_a_stop_before_the_answer_keeps_the_picture(
    talk: Callable[..., ChatSession], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, picture: Image.Image
) -> None:
    """Ctrl-C while the prompt is evaluated: the question is not remembered, so its picture goes with the next."""
    real, calls = FakeLLM.prefill, []

    def interrupted(self: FakeLLM, segments: object) -> object:
        calls.append(segments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(self, segments)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeLLM, "prefill", interrupted)
    picture.save(tmp_path / "a.png")
    session = talk([f"/image {tmp_path / 'a.png'}", "What?", "What is it?", "And?"], "a cat", "yes")
    assert [(message.text, len(message.images)) for message in session.messages[::2]] == [
        ("What is it?", 1),
        ("And?", 0),
    ]


def test_reset_drops_waiting_pictures(talk: Callable[..., ChatSession], tmp_path: Path, picture: Image.Image) -> None:
    """Else a picture that does not fit the context could never be got rid of."""
    picture.save(tmp_path / "a.png")
    session = talk([f"/image {tmp_path / 'a.png'}", "/reset", "Hello"], "hi")
    assert [len(message.images) for message in session.messages] == [0, 0]


def test_faults_and_ctrl_c_in_commands_do_not_end_it(
    talk: Callable[..., ChatSession], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long conversation must not be lost to one bad turn or one slow address."""

    def slow(source: str) -> None:
        raise KeyboardInterrupt if source.startswith("http") else RuntimeError("broken\nin two")

    monkeypatch.setattr("dclocal.images.load_image", slow)
    talk(["/image http://slow/x.png", "/image", "/image x.png", "Hello"], "hi")
    captured = capsys.readouterr()
    assert captured.out == "hi\n"
    for expected in ("stopped", "/image names no picture", "fault: broken in two"):
        assert expected in captured.err


def test_completion(tmp_path: Path) -> None:
    """Commands complete from any of their letters, paths after /image, nothing inside a question."""
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    (tmp_path / "photo.jpg").touch()
    completer = line_completer(["/image", "/quit", "/save"])

    def completed(text: str) -> list[str]:
        found = completer.get_completions(Document(text), CompleteEvent())
        return [text[: len(text) + one.start_position] + one.text for one in found]

    assert completed("/") == ["/image", "/quit", "/save"] and completed("/im") == ["/image"]
    assert completed(f"/image {tmp_path}/ph") == [f"/image {tmp_path}/photo.jpg"]
    assert completed("what is /im") == completed("") == completed("/quit /") == []


def test_a_plain_terminal_keeps_the_prompt_out_of_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert line_reader([])() == "hello"
    assert capsys.readouterr() == ("", "> ")


def test_pasted_paths() -> None:
    """Terminals quote or escape a dropped file's name."""
    for pasted in ("'/a b/c.png'", '"/a b/c.png"', "/a\\ b/c.png", "/a b/c.png"):
        assert unquote(pasted) == "/a b/c.png"
    assert unquote("it's.png") == "it's.png"


@pytest.mark.bundle
@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_in_a_real_terminal(bundle_home: Path, terminal: str) -> None:
    """Typed into a pseudo-terminal: asked, answered, followed up, left with status 0."""
    child, screen = pty.fork()
    if child == 0:
        os.environ.update(DCLOCAL_HOME=str(bundle_home), TERM=terminal)
        os.execv(sys.executable, [sys.executable, "-m", "dclocal", "chat", str(EXAMPLES / "circle.png")])
    shown = ""

    def wait_for(text: str, seconds: float = 20) -> None:
        nonlocal shown
        deadline = time.monotonic() + seconds
        while text not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([screen], [], [], 0.2)[0]:
                shown += os.read(screen, 4096).decode(errors="replace")
                if "\x1b[6n" in shown:  # prompt_toolkit asks where the cursor is
                    shown = shown.replace("\x1b[6n", "")
                    os.write(screen, b"\x1b[1;1R")

    wait_for("attached")
    wait_for(">")
    os.write(screen, b"what color is the circle?\r")
    wait_for("red\r\n")
    shown = ""
    os.write(screen, b"/stats\r")
    wait_for("prompt tokens")
    os.write(screen, b"/quit\r")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
