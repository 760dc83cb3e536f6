"""The engine's process: the app stays alive and tidy whatever the model's process does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from PIL import Image

from dclocal.bundle import Bundle
from dclocal.chat_events import AnswerOptions
from dclocal.engine import Engine
from dclocal.engine_messages import (
    Answered,
    Attached,
    Died,
    Evaluated,
    Event,
    Failed,
    Media,
    Prepared,
    Ready,
    Restored,
    Said,
    TextPiece,
)
from dclocal.engine_process import MAX_LOG_BYTES
from tests.engine_events import opening, picture, until

NUMBERS = " ".join(map(str, range(1, 100)))
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals")


def pieces(engine: Engine, count: int) -> str:
    """The text of the next `count` pieces."""
    return "".join(until(engine, TextPiece).text for _ in range(count))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Callable[[str], Engine]]:
    """An opened engine whose child runs a session of `tests/engine_openers.py`."""

    def make(opener: str = "talker") -> Engine:
        return Engine(tmp_path / "logs" / "engine.log", f"tests.engine_openers:{opener}")

    with opening(make) as start:
        yield start


@posix
def test_a_crash_in_mid_answer_loses_nothing_shown(real: Callable[..., Engine]) -> None:
    engine = real()
    engine.attach(picture())
    key = until(engine, Attached).key
    engine.ask("Count.", [key])
    shown = pieces(engine, 10)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    seen: list[Event] = []
    started = time.monotonic()
    died = until(engine, Died, seen)
    assert time.monotonic() - started < 2
    shown += "".join(event.text for event in seen if isinstance(event, TextPiece))
    assert (died.signal, died.exit_code) == ("SIGKILL", None) and "SIGKILL" in died.message
    assert engine.conversation == (Said("Count.", (picture(),), shown),)
    engine.restart()
    assert until(engine, Ready).pid != pid
    assert until(engine, Restored).turns == ((key,),)
    engine.ask("Go on.")
    seen = []
    answered = until(engine, Answered, seen)
    assert answered.turn == 1 and answered.stats.image_tokens == 4
    ready = next(event for event in seen if isinstance(event, Evaluated))
    assert ready.prompt_tokens > 4 + len("Count.") + len(shown) + len("Go on.")
    assert [said.text for said in engine.conversation] == ["Count.", "Go on."]


def test_a_restart_in_mid_answer_is_no_crash(real: Callable[..., Engine]) -> None:
    """A model that hangs is started anew: nothing of the old child is heard any more."""
    engine = real()
    number = engine.ask("Count.")
    pieces(engine, 10)
    engine.restart()
    seen: list[Event] = []
    until(engine, Restored, seen)  # and no Died on the way
    assert engine.conversation[0].answer.startswith(NUMBERS[:10])
    engine.ask("Again.", options=AnswerOptions(max_tokens=3))
    until(engine, Answered, seen := [])
    assert not [event for event in seen if event.request == number]


@posix
def test_a_crash_of_native_code_tells_where(real: Callable[..., Engine], tmp_path: Path) -> None:
    engine = real("crasher")
    engine.ask("Count.")
    died = until(engine, Died)
    assert died.signal == "SIGSEGV" and any("Segmentation fault" in line for line in died.lines)
    assert "engine_openers.py" in (tmp_path / "logs" / "engine.log").read_text()
    engine.ask("Still there?")
    failed = engine.next_event(30)
    assert isinstance(failed, Failed) and "open" in failed.what


def test_cancel_stops_the_answer_and_keeps_it(real: Callable[..., Engine]) -> None:
    engine = real()
    engine.ask("Count.")
    shown = pieces(engine, 10)
    engine.cancel()
    seen: list[Event] = []
    answered = until(engine, Answered, seen)
    shown += "".join(event.text for event in seen if isinstance(event, TextPiece))
    assert answered.stop_reason == "cancelled" and answered.answer == shown.strip()
    assert 10 <= len(shown) < 30 and NUMBERS.startswith(shown)
    assert answered.memory_bytes > 1 << 20
    prompt = "Suser\nCount.E\nSassistant\n"  # S and E are the marks, a token each
    assert answered.context_tokens == len(prompt) + len(shown) + len("E\n")
    engine.ask("Again.")
    assert until(engine, Answered).answer == NUMBERS[:256].strip()
    assert [said.answer for said in engine.conversation] == [shown.strip(), NUMBERS[:256].strip()]


def test_nothing_that_the_child_prints_reaches_the_terminal(
    real: Callable[..., Engine], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    engine = real()
    engine.ask("Count.", options=AnswerOptions(max_tokens=3))
    until(engine, Answered)
    engine.close()
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "logs" / "engine.log").read_text()
    assert [line in log for line in ("native output\n", "native error\n", "python output\n")] == [True] * 3


def test_the_log_is_bounded(real: Callable[..., Engine], tmp_path: Path) -> None:
    real("chatterer").close()
    log = (tmp_path / "logs" / "engine.log").read_text()
    assert MAX_LOG_BYTES // 2 - 1000 <= len(log) <= MAX_LOG_BYTES and log.rstrip().endswith("39999")


@pytest.mark.parametrize("busy", [False, True])
@posix
def test_the_child_goes_with_its_parent(busy: bool, tmp_path: Path) -> None:
    code = """
import sys, time; from pathlib import Path; from dclocal.engine import Engine
from dclocal.engine_messages import Ready, TextPiece
engine = Engine(Path(sys.argv[1]), "tests.engine_openers:talker"); engine.open()
while not isinstance(engine.next_event(30), Ready): pass
if sys.argv[2] == "True":
    engine.ask("Count.")
    while not isinstance(engine.next_event(30), TextPiece): pass
print(engine.pid, flush=True); time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "log"), str(busy)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=5)
    assert gone or child.status() == psutil.STATUS_ZOMBIE  # nobody may be there to reap it


def test_ctrl_c_does_not_end_the_child(real: Callable[..., Engine]) -> None:
    engine = real()
    assert engine.pid is not None
    if sys.platform != "win32":
        os.kill(engine.pid, signal.SIGINT)
    engine.ask("Count.")
    assert until(engine, Answered).stop_reason == "length"


def test_events_come_to_a_loop_that_goes_on_meanwhile(real: Callable[..., Engine]) -> None:
    engine, ticks = real(), 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def talk() -> str:
        ticking, text = asyncio.create_task(tick()), ""
        engine.ask("Count.", options=AnswerOptions(max_tokens=60))
        async for event in engine.events():
            if isinstance(event, TextPiece):
                text += event.text
            if isinstance(event, Answered):
                engine.close()
        ticking.cancel()
        return text

    assert asyncio.run(asyncio.wait_for(talk(), 30)) == NUMBERS[:60]
    assert ticks > 10


@pytest.fixture
def embedded(bundle: Bundle, tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "engine.log") as engine:
        engine.open(str(bundle.path), threads=1)
        until(engine, Ready)
        yield engine


def ask(engine: Engine, text: str, media: Sequence[str] = (), **options: int) -> tuple[Evaluated, Answered]:
    engine.ask(text, media, AnswerOptions(**options))
    return until(engine, Evaluated), until(engine, Answered)


@pytest.mark.bundle
def test_the_embedded_bundle(embedded: Engine, photographs: list[Image.Image], tmp_path: Path) -> None:
    """Prepared, a question about a photograph evaluates its own words; called off, an answer goes on as it would."""
    file = tmp_path / "photo.png"
    photographs[1].save(file)
    embedded.attach(Media(str(file)))
    attached = until(embedded, Attached)
    assert attached.tokens == 144
    embedded.prepare([attached.key])
    assert until(embedded, Prepared).tokens > 144
    ready, answered = ask(embedded, "What is this?", [attached.key], max_tokens=24)
    assert ready.prompt_tokens - ready.reused_tokens < 16 and answered.stats.image_cached
    whole = answered.answer
    embedded.edit(0, "Describe this picture in many words.", options=AnswerOptions(max_tokens=64))
    pieces(embedded, 2)
    embedded.cancel()
    cut = until(embedded, Answered)
    assert cut.media == (attached.key,)
    assert cut.stop_reason in ("cancelled", "end") and cut.stats.answer_tokens <= 8
    embedded.edit(0, "What is this?", options=AnswerOptions(max_tokens=1))
    until(embedded, Answered)
    embedded.continue_answer(AnswerOptions(max_tokens=23))
    assert until(embedded, Answered).answer == whole
    assert "llama" in (tmp_path / "engine.log").read_text()


@pytest.mark.bundle
@posix
def test_the_embedded_bundle_restarts(embedded: Engine, photographs: list[Image.Image], tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    photographs[1].save(file)
    embedded.attach(Media(str(file)))
    key = until(embedded, Attached).key
    _, first = ask(embedded, "What is this?", [key], max_tokens=24)
    _, second = ask(embedded, "Are you sure?", max_tokens=8)
    assert embedded.pid is not None
    os.kill(embedded.pid, signal.SIGKILL)
    until(embedded, Died)
    embedded.restart()
    until(embedded, Restored)
    embedded.retry(AnswerOptions(max_tokens=8))
    again = until(embedded, Answered)
    assert (again.turn, again.answer, again.stats.image_tokens) == (1, second.answer, 144)
    assert [said.answer for said in embedded.conversation] == [first.answer, second.answer]
