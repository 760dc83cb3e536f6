"""`dclocal video` as a user meets it, and what a follow-up about a video costs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dclocal import cli
from dclocal.bundle import VideoDefaults
from dclocal.chat import Answered, ChatSession, PromptReady
from dclocal.errors import PromptError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.frames import VideoRequest, attach_video
from dclocal.repl import Repl
from dclocal.video import VideoReader

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: apt-get install ffmpeg"
)
COMMAND = ("dclocal.commands.video:video", "Ask about a video.")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 50 frames, no two alike."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-pix_fmt", "yuv420p", file], check=True)
    return file


@pytest.fixture
def still(tmp_path: Path) -> Path:
    """One second of one colour."""
    file = tmp_path / "still.avi"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=red:s=64x48:d=1", "-c:v", "ffv1", file], check=True
    )
    return file


def session(folder: Path, *answers: str, n_ctx: int = 400, **video: object) -> ChatSession:
    bundle = fake_bundle(folder)
    changed = dataclasses.replace(bundle.manifest, video=VideoDefaults(**video))  # type: ignore[arg-type]
    return ChatSession(dataclasses.replace(bundle, manifest=changed), FakeVision(), FakeLLM(answers, n_ctx))


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line on a scripted model; returns the exit status."""

    def run(*arguments: str, answer: str = "a test card") -> int:
        monkeypatch.setitem(cli.COMMANDS, "video", COMMAND)
        monkeypatch.setattr("dclocal.commands.video.open_chosen", lambda *_, **__: session(tmp_path, answer))
        return cli.run(["video", *arguments])

    return run


def test_a_follow_up_pays_for_its_own_tokens(tmp_path: Path, clip: Path) -> None:
    chat = session(tmp_path, "a card", "yes", n_ctx=1000)
    with VideoReader(clip) as reader:
        video = attach_video(chat, reader, VideoRequest(frames=6))
    assert chat.vision.encoded_images == len(video.attachments) == 6  # type: ignore[attr-defined]
    first = [event for event in chat.ask("What?", video.attachments)][-1]
    assert isinstance(first, Answered) and first.stats.image_tokens == 24 and not first.stats.image_cached
    assert first.stats.encode_ms > 0
    before = chat.llm.evaluated_tokens  # type: ignore[attr-defined]
    ready = next(event for event in chat.ask("And?") if isinstance(event, PromptReady))
    new = ready.prompt_tokens - ready.reused_tokens
    assert new == chat.llm.evaluated_tokens - before == len("E\nSuser\nAnd?E\nSassistant\n")  # type: ignore[attr-defined]
    assert chat.vision.encoded_images == 6  # type: ignore[attr-defined]


def test_frames_are_in_order_with_their_times(tmp_path: Path, clip: Path) -> None:
    chat = session(tmp_path, "a card", n_ctx=1000, times=True)
    with VideoReader(clip) as reader:
        video = attach_video(chat, reader, VideoRequest(frames=2))
    list(chat.ask("What?", video.attachments))
    cells = chat.llm.cells  # type: ignore[attr-defined]
    text = "".join("#" if isinstance(cell, tuple) else chr(cell) if cell > 0 else "" for cell in cells)
    assert text == "user\nAt 0.5 s: ####\nAt 1.5 s: ####\nWhat?\nassistant\na card"
    assert [frame.index for frame in video.frames] == [12, 37]
    keys = [cell[0] for cell in cells if isinstance(cell, tuple)]
    assert list(dict.fromkeys(keys)) == [attachment.key for attachment in video.attachments]


def test_pooled_frames_and_whole_pictures_are_kept_apart(tmp_path: Path, still: Path) -> None:
    """The same picture at 4 tokens and at 1 must not be taken for each other in the cache."""
    chat = session(tmp_path, "red", n_ctx=1000)
    with VideoReader(still) as reader:
        pooled = attach_video(chat, reader, VideoRequest(frames=1, tokens_per_frame=1))
    with VideoReader(still) as reader:
        whole = attach_video(chat, reader, VideoRequest(frames=1))
    assert pooled.attachments[0].key != whole.attachments[0].key and pooled.tokens_per_frame == 1
    answered = list(chat.ask("What?", [*pooled.attachments, *whole.attachments]))[-1]
    assert isinstance(answered, Answered) and answered.stats.image_tokens == 5


def test_what_is_asked_for_goes_before_the_bundles_way(tmp_path: Path, clip: Path, still: Path) -> None:
    """Times although the bundle wants none; the maxima of the released code in place of means."""
    chat = session(tmp_path, "a card", n_ctx=1000)
    with VideoReader(clip) as reader:
        video = attach_video(chat, reader, VideoRequest(frames=1, times=True))
    list(chat.ask("What?", video.attachments))
    cells = chat.llm.cells  # type: ignore[attr-defined]
    assert "At 1.0 s: " in "".join(chr(cell) for cell in cells if not isinstance(cell, tuple) and cell > 0)
    keys = set()
    for pool in ("area", "max"):
        with VideoReader(still) as reader:
            one = attach_video(chat, reader, VideoRequest(frames=1, tokens_per_frame=1, pool=pool))
        keys.add(one.attachments[0].key)
    assert len(keys) == 2 and any(key.endswith(":max") for key in keys)


def test_what_does_not_fit_is_refused_before_it_is_decoded(tmp_path: Path, clip: Path) -> None:
    chat = session(tmp_path, n_ctx=400)
    with VideoReader(clip) as reader, pytest.raises(PromptError, match="50 frames of 4 tokens and 1 of text are 250"):
        attach_video(chat, reader, VideoRequest(frames=50, tokens_per_frame=4))
    assert chat.vision.encoded_images == 0  # type: ignore[attr-defined]


def test_the_answer_on_stdout_the_rest_on_stderr(
    scripted: Callable[..., int], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scripted(str(clip), "-p", "What?", "--frames", "5") == 0
    captured = capsys.readouterr()
    assert captured.out == "a test card\n"
    assert "5 of 50 frames, 4 tokens each, 0:00.2 … 0:01.8" in captured.err


def test_json(scripted: Callable[..., int], clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scripted(str(clip), "-p", "What?", "--fps", "2", "--start", "0:00", "--end", "0:01.5", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["answer"] == "a test card" and data["stats"]["image_tokens"] == 12
    assert data["frames"] == [
        {"index": 6, "time_s": 0.24},
        {"index": 18, "time_s": 0.72},
        {"index": 31, "time_s": 1.24},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "9"], "is 0:02.0 long, the start is 0:09.0"),
        (["--start", "soon"], "write 12, 1:02 or 0:01:02.5"),
        (["--frames", "2", "--fps", "1"], "give one"),
        (["--tokens-per-frame", "3"], "known: 4, 1"),
        (["--fps", "nan"], "not"),
        (["-p", " "], "the question is empty"),
    ],
)
def test_mistakes(
    scripted: Callable[..., int], clip: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert scripted(str(clip), "-p", "What?", *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


def test_a_conversation_shows_the_video_again_after_reset(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["What?", "/reset", "And now?", "/quit"])
    monkeypatch.setattr("dclocal.repl.line_reader", lambda commands: lambda: next(lines))
    chat = session(tmp_path, "a card", "a card", n_ctx=1000)
    with VideoReader(clip) as reader:
        video = attach_video(chat, reader, VideoRequest(frames=3))
    Repl(chat, list(video.attachments), {}, of_video=True).run()
    assert len(chat.messages[0].images) == 3 and chat.messages[0].text == "And now?"
    assert "the video goes with the next question" in capsys.readouterr().err


def test_ctrl_c_while_decoding(tmp_path: Path) -> None:
    """Status 130 within seconds, and no thread that keeps the process."""
    file = tmp_path / "long.mp4"
    source = ["-f", "lavfi", "-i", "color=red:s=1280x720:r=25:d=60"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-preset", "ultrafast", file], check=True)
    code = (
        "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from dclocal import cli; from dclocal.commands import video\n"
        "from tests.test_video_command import COMMAND, session\n"
        "cli.COMMANDS['video'] = COMMAND\n"
        "video.open_chosen = lambda *_, **__: (print('ready', flush=True), session(Path('.'), 'x'))[1]\n"
        f"cli.main(['video', {str(file)!r}, '-p', 'hm?', '--sample', 'scene'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent,
        env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out == b"" and b"Traceback" not in err
