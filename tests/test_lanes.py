"""Answers that are generated together are those that are generated one by one, and cost fewer runs of the model."""

from __future__ import annotations

import threading
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal import caption, together
from dclocal.bundle import Bundle, Sampling
from dclocal.chat import ChatSession
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.frames import VideoRequest
from dclocal.lanes import Lanes
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Segment, Tokens
from dclocal.together import Ready, Together
from dclocal.workers import Workers
from tests.tiny_files import read_embeddings

GREEDY = Sampling(temperature=0.0, repeat_penalty=1.0)
LENGTHS = (12, 5, 9)


@pytest.fixture
def prompts(tiny_gguf: Path) -> list[list[Segment]]:
    rows = read_embeddings(tiny_gguf)
    random = np.random.default_rng(0)
    return [
        [Tokens((9, 8, 7)), Embeds(f"picture {count}", rows[random.integers(4, 260, count)]), Tokens((50, 51))]
        for count in (30, 6, 17)
    ]


def alone(model: LLM, prompts: list[list[Segment]], sampling: Sampling) -> list[list[int]]:
    answers = []
    for number, (prompt, length) in enumerate(zip(prompts, LENGTHS)):
        model.prefill(prompt)
        list(model.generate(sampling, seed=number, max_tokens=length))
        answers.append(model.last_tokens)
    return answers


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.8)])
def test_answers_together_are_those_alone(tiny: LLM, prompts: list[list[Segment]], sampling: Sampling) -> None:
    """Of unlike lengths, each by its own seed; a step of all is one run of the model."""
    expected = alone(tiny, prompts, sampling)
    with Lanes(tiny, 3, 64) as lanes:
        for lane, prompt in zip(lanes.lanes, prompts):
            assert lane.prefill(prompt).reused == 0
        answers = [
            lane.generate(sampling, seed=number, max_tokens=length)
            for number, (lane, length) in enumerate(zip(lanes.lanes, LENGTHS))
        ]
        list(zip_longest(*answers))
        assert [lane.last_tokens for lane in lanes.lanes] == expected
        assert max(LENGTHS) - 1 <= lanes.evaluations <= max(LENGTHS) + 4, "bytes that are no character come unevenly"
        assert lanes.lanes[0].prefill(prompts[0]).reused == len(lanes.lanes[0].cells) - 1, "what it had is known"


def test_an_answer_that_is_broken_off_disturbs_no_other(tiny: LLM, prompts: list[list[Segment]]) -> None:
    expected = alone(tiny, prompts, GREEDY)
    with Lanes(tiny, 2, 64) as lanes:
        first, second = lanes.lanes
        first.prefill(prompts[0])
        broken = first.generate(GREEDY, seed=0, max_tokens=LENGTHS[0])
        next(broken)
        second.prefill(prompts[1])
        kept = second.generate(GREEDY, seed=1, max_tokens=LENGTHS[1])
        next(kept)
        next(broken)
        broken.close()  # type: ignore[attr-defined]
        list(kept)
        assert second.last_tokens == expected[1]
        first.prefill(prompts[2])
        list(first.generate(GREEDY, seed=2, max_tokens=LENGTHS[2]))
        assert first.last_tokens == expected[2]


def asked(number: int, session: ChatSession, question: str) -> Ready:
    """A file that was prepared, as if its pictures were said in words."""
    own = ChatSession(session.bundle, session.vision, session.llm, question)
    return Ready({"path": str(number)}, own, (), 1.0)


@pytest.fixture
def session(tmp_path: Path, tiny: LLM) -> ChatSession:
    return ChatSession(fake_bundle(tmp_path), FakeVision(), tiny)


OPTIONS = {"max_tokens": 6, "temperature": 0.0}
ALONE = Workers(1, 0)


def test_lines_come_in_order_whoever_is_done_first(session: ChatSession) -> None:
    """A file that fails, one that is too long for a lane, and more files than lanes."""
    systems = ["a", "bc", "story" * 80, *"defghijklm"]
    single = []
    for text in systems:
        alone = ChatSession(session.bundle, session.vision, session.llm, text)
        single.append([event for event in alone.ask("What?", **OPTIONS)][-1].answer)  # type: ignore[union-attr, arg-type]
    several = Together(session.llm, "What?", OPTIONS, ALONE)
    lines = several.add(Ready({"path": "broken", "error": "why"}, None, (), 0.0))
    for number, text in enumerate(systems):
        lines += several.add(asked(number, session, text))
    assert len(lines) < len(systems), "some are still under way"
    lines += several.rest()
    several.close()
    assert [line["path"] for line in lines] == ["broken", *map(str, range(len(systems)))]
    assert lines[0]["error"] == "why"
    assert [line["answer"] for line in lines[1:]] == single
    assert all(line["ms"] > line["answer_ms"] > 0 for line in lines[1:])


def test_two_workers_tell_their_lines_in_order(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file is ready only once three of the others are; one is too long for a lane, one fails."""
    systems = ["a", "bc", "story" * 80, *"defgh"]
    workers, others = Workers(2, 2), threading.Semaphore(0)
    shares = set()

    def prepare(session: ChatSession, path: str, *_: object) -> Ready:
        shares.add(workers.share)
        if path == "0":
            for _ in range(3):
                assert others.acquire(timeout=20)
        others.release()
        if path == "4":
            return Ready({"path": path, "error": "why"}, None, (), 0.0)
        return asked(int(path), session, systems[int(path)])

    monkeypatch.setattr(caption, "prepare", prepare)
    paths = [str(number) for number in range(len(systems))]
    lines = list(caption.caption_all(session, paths, "What?", OPTIONS, VideoRequest(), workers))
    assert [line["path"] for line in lines] == paths and lines.pop(4)["error"] == "why"
    del systems[4]
    for line, text in zip(lines, systems, strict=True):
        alone = ChatSession(session.bundle, session.vision, session.llm, text)
        assert line["answer"] == [event for event in alone.ask("What?", **OPTIONS)][-1].answer  # type: ignore[union-attr, arg-type]
    assert 1 in shares and workers.share == 2


def test_a_failure_gives_its_lane_back(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    several = Together(session.llm, "What?", OPTIONS, ALONE)
    lines = several.add(asked(0, session, "a"))
    real = ChatSession._prefill
    monkeypatch.setattr(ChatSession, "_prefill", lambda *_: 1 / 0)
    for number in range(1, 2 * together.MOST_LANES):
        lines += several.add(asked(number, session, "b"))
    monkeypatch.setattr(ChatSession, "_prefill", real)
    lines += several.add(asked(99, session, "c")) + several.rest()
    assert ["error" in line for line in lines] == [False, *[True] * (2 * together.MOST_LANES - 1), False]
    assert "division by zero" in lines[1]["error"]
    several.close()


def test_lanes_take_no_more_memory_than_they_may(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = session.llm
    assert isinstance(llm, LLM)
    assert llm.cell_bytes == 2 * 2 * 2 * 32
    monkeypatch.setattr(together, "LANES_BYTES", 3 * 64 * llm.cell_bytes)
    lanes = together.make_lanes(llm, 64)
    assert lanes is not None and len(lanes.lanes) == 3
    lanes.close()
    monkeypatch.setattr(together, "LANES_BYTES", 64 * llm.cell_bytes)
    assert together.make_lanes(llm, 64) is None
    assert together.make_lanes(llm, 4096) is None and together.make_lanes(FakeLLM([]), 64) is None


def test_who_is_told_to_stop_asks_for_no_further_piece(session: ChatSession) -> None:
    """A prompt that is too long for a lane is answered alone, to its end; it is not once it is to stop."""
    pieces = []
    for stopping in (False, True):
        several = Together(session.llm, "What?", OPTIONS, ALONE, lambda stopping=stopping: stopping)  # type: ignore[misc]
        several.add(asked(0, session, "a"))
        lines = several.add(asked(1, session, "story" * 80))
        pieces.append(len(session.llm.last_tokens))
        assert len(lines + several.rest()) == (0 if stopping else 2)
        several.close()
    assert pieces[0] > pieces[1] > 0


@pytest.mark.bundle
def test_captions_are_the_answers_of_chat(bundle: Bundle, photographs: list[Image.Image], tmp_path: Path) -> None:
    """Two workers, each with lanes of its own; the same model on files, one after the other."""
    from dclocal.session import open_session

    models, single, files = open_session(bundle), [], []
    for number, picture in enumerate(photographs[:6]):
        own = ChatSession(bundle, models.vision, models.llm)
        single.append([event for event in own.ask("What is this?", [own.attach(picture)], **OPTIONS)][-1].answer)  # type: ignore[union-attr, arg-type]
        files.append(str(tmp_path / f"{number}.png"))
        picture.save(files[-1])
    before = models.vision.encoded_images
    lines = list(caption.caption_all(models, files, "What is this?", OPTIONS, VideoRequest(), Workers(2, 2)))
    assert [line["answer"] for line in lines] == single
    assert models.vision.encoded_images - before == len(files)
