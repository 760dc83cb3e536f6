"""`dclocal webcam` as a user meets it: one answer, a line each time something changes, a conversation, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dclocal import cli
from dclocal.live import Live
from dclocal.webcam import Camera
from dclocal.webcam_talk import converse, watch
from dclocal.window import Window
from tests.mjpeg import NetworkCamera
from tests.test_live import session
from tests.test_webcam import no_thread_is_left, until  # noqa: F401


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command on a scripted model."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(
            "dclocal.commands.webcam.open_chosen", lambda *_, **__: session(tmp_path, *["a test card"] * 99)
        )
        return cli.run(["webcam", *arguments])

    return run


def test_one_answer(
    scripted: Callable[..., int],
    server: NetworkCamera,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert scripted(server.url, "-p", "What?") == 0
    assert capsys.readouterr().out == "a test card\n"
    assert scripted(server.url, "-p", "What?", "--window", "3", "--rate", "8", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answer"] == "a test card" and data["stats"]["image_tokens"] == 12 and len(data["frames"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--every", "soon"], "no interval: write 5s"),
        (["--every", "0s"], "no interval"),
        (["--tokens-per-frame", "3"], "known: 4, 1"),
        (["--rate", "nan"], "not"),
        (["--window", "250"], "at most"),
        (["-p", " "], "the question is empty"),
    ],
)
def test_mistakes(
    scripted: Callable[..., int],
    server: NetworkCamera,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert scripted(server.url, "-p", "What?", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


def test_a_camera_that_is_not_there(scripted: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert scripted("/dev/video97", "-p", "What?") == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "/dev/video97 does not exist" in captured.err


def test_watching_skips_a_frozen_picture(
    tmp_path: Path,
    server: NetworkCamera,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chat = session(tmp_path, *["a\ncard"] * 99)
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=10) as live:
            asking = threading.Thread(target=watch, args=(live, "What?", {}, 0.3, False))
            asking.start()
            time.sleep(1.2)
            server.mode = "freeze"
            time.sleep(0.5)
            lines = len(chat.llm.answers)  # type: ignore[attr-defined]
            time.sleep(1.5)
            assert len(chat.llm.answers) == lines  # type: ignore[attr-defined]
            server.mode = "count"
            time.sleep(0.8)
            camera.close()  # over: the watch ends
            asking.join(5)
            assert not asking.is_alive()
    captured = capsys.readouterr()
    assert captured.err.count("does not change") == 1
    told = captured.out.splitlines()
    assert len(told) == 99 - len(chat.llm.answers) > 99 - lines >= 3  # type: ignore[attr-defined]
    assert all(line[2] == line[5] == ":" and line[8:] == " a card" for line in told)


def test_a_conversation(
    tmp_path: Path,
    server: NetworkCamera,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = iter(["/stats", "What?", "/stats", "/status", "/wrong", "", "/quit"])
    monkeypatch.setattr("dclocal.webcam_talk.line_reader", lambda commands: lambda: next(lines))
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(session(tmp_path, "a card"), 2, 4), rate=10) as live:
            live.wait(2, 5)
            converse(live, {})
    captured = capsys.readouterr()
    assert captured.out == "a card\n"
    for text in ("nothing was asked yet", "evaluated for the question", "live; 2 frames", "unknown command /wrong"):
        assert text in captured.err


@pytest.mark.parametrize("moment", ["waiting", "answering"])
def test_ctrl_c_lets_the_camera_go(server: NetworkCamera, moment: str) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from dclocal import cli; from dclocal.commands import webcam\n"
        "from tests.test_live import SlowLLM, session\n"
        "webcam.open_chosen = lambda *_, **__: session(Path('.'), 'x ' + str(7**99), model=SlowLLM)\n"
        "import threading\n"
        f"limit = {'1' if moment == 'waiting' else '90'}\n"
        f"status = cli.run(['webcam', {server.url!r}, '-p', 'hm?', '--every', '60s', '--max-tokens', str(limit)])\n"
        "print([t.name for t in threading.enumerate() if t.name in ('camera', 'live')], flush=True)\n"
        "raise SystemExit(status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent,
        env=dict(os.environ),
    )  # fmt: skip
    assert until(lambda: server.connections == 1, 20)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert out.endswith(b"[]\n") and b"Traceback" not in err
    assert out.count(b" x") == (moment == "waiting")  # the answer was out, or never came to its end
