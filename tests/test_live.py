"""A window on a live picture: what a slide leaves in the cache, what a question costs, and how it all ends."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dclocal.bundle import VideoDefaults
from dclocal.cells import Cell, Prefill, common_prefix, segment_cells
from dclocal.chat import Answered, ChatSession, Event, PromptReady
from dclocal.errors import PromptError
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.live import Asked, Live
from dclocal.prompt import Segment, Tokens
from dclocal.video import Frame
from dclocal.webcam import Camera
from dclocal.window import Window, same_picture, slide_range, thumbnail, window_segments
from tests.mjpeg import NetworkCamera, numbered
from tests.test_webcam import no_thread_is_left, until  # noqa: F401

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


def test_live_questions_on_a_camera(tmp_path: Path, server: NetworkCamera) -> None:
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
    server: NetworkCamera,
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
    server: NetworkCamera,
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


def test_unplugged_in_mid_answer(tmp_path: Path, server: NetworkCamera) -> None:
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


def test_calling_off_an_answer_frees_the_model(tmp_path: Path, server: NetworkCamera) -> None:
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
    server: NetworkCamera,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = session(tmp_path)
    monkeypatch.setattr(chat.vision, "encode", lambda pixels: (_ for _ in ()).throw(RuntimeError("no memory")))
    with Camera(server.url) as camera:
        camera.first()
        with Live(camera, Window(chat, 2, 4), rate=10) as live, pytest.raises(RuntimeError, match="no memory"):
            live.wait(1, 5)
            list(live.ask("What?"))


def test_a_small_thing_that_moves_is_a_change_and_noise_is_none() -> None:
    """A twentieth of the picture's width, in a colour of the same grey as what is behind it."""
    room = np.full((480, 640, 3), (60, 90, 160), np.uint8)
    noisy = np.clip(room + np.random.default_rng(0).normal(0, 12, room.shape), 0, 255).astype(np.uint8)
    assert same_picture(thumbnail(Image.fromarray(room)), thumbnail(Image.fromarray(noisy)))
    there = room.copy()
    there[200:232, 300:332] = (200, 30, 100)
    assert Image.fromarray(there).convert("L").getpixel((310, 210)) == pytest.approx(89, abs=3)
    assert not same_picture(thumbnail(Image.fromarray(room)), thumbnail(Image.fromarray(there)))
