"""A window on a live picture: what a slide leaves in the cache, what a question costs, and how it all ends."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from PIL import Image

from dclocal import cli
from dclocal.bundle import Bundle, VideoDefaults
from dclocal.cells import Cell, Prefill, common_prefix, segment_cells
from dclocal.chat import Answered, ChatSession, Event, PromptReady
from dclocal.drift import slide_drift
from dclocal.errors import PromptError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.live import Asked, Live
from dclocal.llm import LLM
from dclocal.prompt import Segment, Tokens
from dclocal.session import open_session
from dclocal.video import Frame
from dclocal.webcam import Camera
from dclocal.webcam_talk import converse, watch
from dclocal.window import Window, slide_range, window_segments
from tests.mjpeg import NetworkCamera, numbered
from tests.test_webcam import no_thread_is_left, server, until  # noqa: F401
from tests.tiny_files import write_tiny_gguf

QUESTION = "What?E\nSassistant\n"
"""A question's own cells in ChatML, S and E one each; the line break behind the last picture is one more."""


class SlowLLM(FakeLLM):
    """Twenty tokens a second."""

    def generate(self, *given: Any, **options: Any) -> Iterator[str]:
        for piece in super().generate(*given, **options):
            time.sleep(0.05)
            yield piece


def session(folder: Path, *answers: str, model: type[FakeLLM] = FakeLLM, **video: Any) -> ChatSession:
    bundle = fake_bundle(folder)
    manifest = dataclasses.replace(bundle.manifest, video=VideoDefaults(**video))
    return ChatSession(dataclasses.replace(bundle, manifest=manifest), FakeVision(), model(answers, 1000))


def frame(number: int) -> Frame:
    return Frame(numbered(number), number / 2, number)


def fresh(window: Window) -> list[Cell]:
    """The cells of the window's prompt, up to its last picture."""
    return list(segment_cells(window_segments(window.session, window.frames)[:-1]))


def encoded(chat: ChatSession) -> int:
    return chat.vision.encoded_images  # type: ignore[attr-defined, no-any-return]


def shares(held: list[Cell], wanted: list[Cell], cut: tuple[int, int] | None) -> int:
    return common_prefix(held[: cut[0]] + held[cut[1] :] if cut else held, wanted)


def test_the_run_that_leaves_the_cache_is_the_best_there_is() -> None:
    """Against every run there is, on random windows with pictures that return and labels that are alike."""
    choose = random.Random(0)
    for _ in range(300):
        keys = [choose.choice("abcde") for _ in range(6)]

        def cells(names: list[str]) -> list[Cell]:
            return [1, 2, *itertools.chain(*([(name, 0), (name, 1), 9] for name in names))]

        held, wanted = [*cells(keys[:5]), 3, 9, 1], cells(keys[choose.randint(1, 3) :])
        runs = itertools.combinations(range(len(held) + 1), 2)
        best = max(shares(held, wanted, run) for run in runs)
        found = shares(held, wanted, slide_range(held, wanted))
        assert found == best or best - found <= 1  # a run may save a lone token of text: not worth a slide


@pytest.mark.parametrize("times", [False, True])
def test_a_slide_costs_one_frame_and_leaves_a_whole_prompt(tmp_path: Path, times: bool) -> None:
    chat = session(tmp_path, times=times)
    window = Window(chat, 3, 4, refresh_every=5)
    costs = []
    for number in range(1, 12):
        window.look(frame(number))
        costs.append(window.prefill())
        assert chat.llm.cells == fresh(window)  # type: ignore[attr-defined]
    label = len("At 5.5 s: ") if times else 0
    whole = 2 + len("user\n") - 1 + 3 * (4 + label) + 2
    assert costs[3:8] == [5 + label] * 5 and costs[8] == whole and costs[9] == 5 + label
    assert costs[0] == whole - 2 * (5 + label) and window.prefill() == 0
    assert encoded(chat) == 11 == window.changes


def test_a_model_that_cannot_slide_is_evaluated_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLLM, "can_slide", False)
    monkeypatch.setattr(FakeLLM, "drop_cells", None)
    chat = session(tmp_path)
    window = Window(chat, 3, 4)
    costs = []
    for number in range(1, 6):
        window.look(frame(number))
        costs.append(window.prefill())
    assert costs == [10, 5, 5, 14, 14] and chat.llm.cells == fresh(window)  # type: ignore[attr-defined]


def test_the_same_picture_is_encoded_once(tmp_path: Path) -> None:
    chat = session(tmp_path)
    window = Window(chat, 3, 4)
    noise = np.random.default_rng(0)
    for count in range(1, 9):
        pixels = np.asarray(numbered(7).convert("RGB")) + noise.integers(-3, 4, (64, 80, 3))
        assert window.look(Frame(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), count, count)) == (count == 1)
        cost = window.prefill()
        assert cost == (10 if count == 1 else 5 if count <= 3 else 0)
    assert encoded(chat) == 1 and len(window.frames) == 3
    assert window.look(frame(8)) and encoded(chat) == 2
    assert window.prefill() == 4  # the two before it stay where they are


def test_a_question_costs_its_own_tokens_and_leaves_no_trace(tmp_path: Path) -> None:
    chat = session(tmp_path, "a", "b", "c")
    window = Window(chat, 3, 4)
    for number in range(1, 6):
        window.look(frame(number))
        window.prefill()
        if number < 3:
            continue
        before = chat.llm.evaluated_tokens  # type: ignore[attr-defined]
        events = list(window.ask("What?"))
        assert chat.llm.evaluated_tokens - before == 1 + len(QUESTION)  # type: ignore[attr-defined]
        assert isinstance(events[-1], Answered) and events[-1].stats.image_tokens == 12
        assert chat.llm.cells[: len(fresh(window))] == fresh(window)  # type: ignore[attr-defined]
    assert encoded(chat) == 5
    for number in (6, 7):  # and where it comes before their evaluation, those of two frames more
        window.look(frame(number))
    chat.llm.answers.append("d")  # type: ignore[attr-defined]
    before = chat.llm.evaluated_tokens  # type: ignore[attr-defined]
    list(window.ask("What?"))
    assert chat.llm.evaluated_tokens - before == 2 * 5 + 1 + len(QUESTION) - 1  # type: ignore[attr-defined]


def answer_of(events: Iterator[Event | Asked]) -> tuple[Asked, PromptReady, Answered]:
    asked, *rest = events
    ready = next(event for event in rest if isinstance(event, PromptReady))
    assert isinstance(asked, Asked) and isinstance(rest[-1], Answered)
    return asked, ready, rest[-1]


def test_live_questions_on_a_camera(tmp_path: Path, server: NetworkCamera) -> None:  # noqa: F811
    chat = session(tmp_path, *"abc")
    with Camera(server.url) as camera:
        camera.first()
        window = Window(chat, 4, 4)
        with Live(camera, window, rate=8) as live:
            assert live.wait(4, 5) == 4
            newest = -1
            for _ in range(3):
                time.sleep(0.3)
                asked, ready, _ = answer_of(live.ask("What?"))
                assert len(asked.frames) == 4 and asked.frames[-1].index > newest
                newest = asked.frames[-1].index
                assert ready.prompt_tokens - ready.reused_tokens <= 1 + len(QUESTION) + 5
            server.mode = "freeze"
            assert until(lambda: len({held.key for held in window.frames}) == 1)
            time.sleep(0.3)
            encodings, evaluated = encoded(chat), chat.llm.evaluated_tokens  # type: ignore[attr-defined]
            time.sleep(0.6)
            assert encoded(chat) == encodings and chat.llm.evaluated_tokens == evaluated  # type: ignore[attr-defined]
            with pytest.raises(PromptError, match="empty"):
                list(live.ask(" "))


def test_a_question_goes_before_an_evaluation_that_has_not_begun(
    tmp_path: Path,
    server: NetworkCamera,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = session(tmp_path, "yes")
    encoding, log = threading.Event(), []
    real_encode, real_prefill = chat.vision.encode, chat.llm.prefill

    def encode(pixels: np.ndarray) -> np.ndarray:
        encoding.set()
        time.sleep(0.3)
        return real_encode(pixels)

    def prefill(segments: Sequence[Segment]) -> Prefill:
        log.append(type(segments[-1]))
        return real_prefill(segments)

    monkeypatch.setattr(chat.vision, "encode", encode)
    monkeypatch.setattr(chat.llm, "prefill", prefill)
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=1) as live:
            assert encoding.wait(3) and not log
            asked, ready, _ = answer_of(live.ask("What?"))
            assert log == [Tokens] and len(asked.frames) == 1 and ready.reused_tokens == 0


def test_a_question_behind_a_long_answer_sees_what_happened_meanwhile(
    tmp_path: Path,
    server: NetworkCamera,  # noqa: F811
) -> None:
    chat = session(tmp_path, "twenty characters...", "b", model=SlowLLM)
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=5) as live:
            live.wait(2, 5)
            events = live.ask("What?")
            asked = next(events)
            told: list[tuple[Asked, PromptReady, Answered]] = []
            behind = threading.Thread(target=lambda: told.append(answer_of(live.ask("And?"))))
            behind.start()
            list(events)
            behind.join(5)
            assert isinstance(asked, Asked) and told[0][0].frames[-1].index - asked.frames[-1].index >= 12


def test_unplugged_in_mid_answer(tmp_path: Path, server: NetworkCamera) -> None:  # noqa: F811
    chat = session(tmp_path, "twenty characters...", "back", model=SlowLLM)
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=10) as live:
            live.wait(2, 5)
            events = live.ask("What?")
            shown = list(itertools.islice(events, 6))
            server.unplug()
            shown += events
            assert isinstance(shown[-1], Answered) and shown[-1].answer == "twenty characters..."
            assert until(lambda: camera.state.name in ("lost", "missing"))
            server.plug()
            before = live.window.looks
            assert until(lambda: camera.state.name == "live" and live.window.looks > before)
            assert answer_of(live.ask("What?"))[2].answer == "back"


def test_calling_off_an_answer_frees_the_model(tmp_path: Path, server: NetworkCamera) -> None:  # noqa: F811
    chat = session(tmp_path, "x" * 100, "yes", model=SlowLLM)
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=10) as live:
            live.wait(2, 5)
            events = live.ask("What?")
            assert len(list(itertools.islice(events, 6))) == 6
            events.close()  # type: ignore[attr-defined]
            started = time.monotonic()
            assert answer_of(live.ask("And?"))[2].answer == "yes"
            assert time.monotonic() - started < 1


def test_a_fault_of_the_models_is_raised_where_it_is_asked(
    tmp_path: Path,
    server: NetworkCamera,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = session(tmp_path)
    monkeypatch.setattr(chat.vision, "encode", lambda pixels: (_ for _ in ()).throw(RuntimeError("no memory")))
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=10) as live, pytest.raises(RuntimeError, match="no memory"):
            live.wait(1, 5)
            list(live.ask("What?"))


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
    server: NetworkCamera,  # noqa: F811
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
    server: NetworkCamera,  # noqa: F811
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
    server: NetworkCamera,  # noqa: F811
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
    server: NetworkCamera,  # noqa: F811
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
def test_ctrl_c_lets_the_camera_go(server: NetworkCamera, moment: str) -> None:  # noqa: F811
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
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert out.endswith(b"[]\n") and b"Traceback" not in err
    assert out.count(b" x") == (moment == "waiting")  # the answer was out, or never came to its end


@pytest.fixture(scope="module")
def plain_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose keys and values depend on their own cell alone: its first layer attends to nothing."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    reader = GGUFReader(path, "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "blk.0.attn_output.weight").data[:] = 0
    reader.data.flush()
    return path


def test_a_slid_cache_is_the_fresh_one_moved(tmp_path: Path, plain_gguf: Path) -> None:
    """Where nothing leaks between cells, sliding must be exact: the right cells went, the right positions stayed."""
    bundle = fake_bundle(tmp_path)
    vision = dataclasses.replace(bundle.manifest.vision, n_embd=32)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, vision=vision))

    class Encoder:
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            seed = int(pixels.astype(np.float64).sum() * 1000) % 2**32
            return np.random.default_rng(seed).standard_normal((1, 4, 32), np.float32)

    with LLM(plain_gguf, n_ctx=1000, threads=1) as llm:
        window = Window(ChatSession(bundle, Encoder(), llm), 4, 4, max_tokens=8)
        for number in range(1, 14):
            window.look(frame(number))
            window.prefill()
            if number == 8:
                list(window.ask("And a question in between?", max_tokens=5))
        assert window.slides == 9
        assert llm.cells == fresh(window)
        segments = window_segments(window.session, window.frames, "What?")
        assert llm.prefill(segments).evaluated == len(segments[-1])
        slid = llm.logits()
        llm.forget()
        llm.prefill(segments)
        np.testing.assert_allclose(slid, llm.logits(), atol=2e-2)  # keys are kept in 16 bits
        llm.drop_cells(2, 7)  # and the test would see a wrong cell
        llm.score(llm.tokenize("?", False))
        assert np.abs(slid - llm.logits()).max() > 0.1


@pytest.mark.bundle
def test_drift_of_the_real_model(bundle: Bundle, photographs: list[Image.Image]) -> None:
    frames = []
    for number, start in enumerate(range(0, 160, 20)):
        picture = photographs[number % 4]
        frames.append(Frame(picture.crop((start, start, start + 200, start + 200)), float(number), number))
    chat = open_session(bundle, threads=1)
    questions = ["What is this?", "What do you see?", "What colour is it?", "What changed?"]
    found = slide_drift(chat, frames, questions, size=3, tokens_per_frame=16, slides=(1, 4))
    assert [drift.slides for drift in found] == [1, 4]
    for drift in found:
        assert 0 <= drift.mean_kl <= drift.greatest_kl < 0.1 and drift.agreement >= 0.75, found
    assert found[-1].greatest_kl > 1e-9  # it is not equal: else something was evaluated anew
    assert chat.vision.encoded_images == 4 + 7  # type: ignore[attr-defined]
    chat.llm.close()  # type: ignore[attr-defined]
