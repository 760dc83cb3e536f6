"""The webcam watched, drawn at a pace that the terminal keeps, opened by the command line; and how it looks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from dclocal.history import History
from dclocal.webcam import CameraState
from dclocal.webcam_messages import Said, Seen
from dclocal_tui import pace
from dclocal_tui.paths import camera_source
from dclocal_tui.screens import cameras
from dclocal_tui.talk import PASSED_SHOWN
from dclocal_tui.widgets import conversation
from tests.mjpeg import NetworkCamera, numbered
from tests.test_tui_screens import SIZES, looks
from tests.tui_app import Bench, running
from tests.tui_webcam import (
    ScriptedCamera,
    answers,
    as_jpeg,
    card_of,
    no_camera_is_left,
    number_shown,
    open_live,
    scripted,
    words,
)

asyncio_test = pytest.mark.asyncio
__all__ = ["looks", "no_camera_is_left", "scripted"]


# Watching


@asyncio_test
async def test_a_watch_asks_again_and_the_model_remembers_the_last_alone(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["hello", *map(str, range(40))]) as bench:
        await bench.until_idle()
        await bench.ask_and_wait("Hi")
        await open_live(bench, server)
        await bench.ask("/watch 0.3 What changed?")
        await bench.until(lambda: len(answers(bench)) >= 4 and answers(bench)[3] == "2")
        assert words(bench).endswith("asking every 0.3 s")
        await bench.pilot.press("escape")
        await bench.until_idle()
        count = len(bench.talk.turns)
        await asyncio.sleep(0.7)
        assert len(bench.talk.turns) == count and "asking" not in words(bench)
        assert [turn.text for turn in bench.engine.conversation] == ["Hi", "What changed?"]
        said = bench.engine.conversation[-1].answer
        assert said == answers(bench)[-1] == bench.talk.turns[-1].answer
        question = str(bench.exchanges[2].query_one(".question").render())
        assert question.startswith(bench.talk.turns[2].when) and "What changed?" in question
        bench.app.recorder.wait()
        saved = bench.app.history.load(bench.app.history.sessions()[0].id)
        assert len(saved.messages) == 2 * count and len(saved.messages[4].media) == 1
        await bench.ask_and_wait("Why?")
        assert [turn.text for turn in bench.engine.conversation] == ["Hi", "What changed?", "Why?"]


@asyncio_test
async def test_an_unchanged_picture_is_not_asked_about_again(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, list("abcdef")) as bench:
        await open_live(bench, server)
        server.mode = "freeze"
        await asyncio.sleep(0.3)
        await bench.ask("/watch 0.2 What changed?")
        await bench.until(lambda: "no change" in words(bench))
        await asyncio.sleep(0.6)
        assert len(bench.talk.turns) == 1
        server.mode = "count"
        await bench.until(lambda: len(bench.talk.turns) > 1)
        await bench.ask("/watch off")
        await bench.until(lambda: "asking" not in words(bench))


@asyncio_test
async def test_a_watch_lives_through_a_crash_and_is_restored_as_the_engine_has_it(
    tmp_path: Path, server: NetworkCamera
) -> None:
    async with running(tmp_path, list("abcdefghijklmnopqrstuvwxyz")) as bench:
        await open_live(bench, server)
        await bench.ask("/watch 0.3 What changed?")
        await bench.until(lambda: len(answers(bench)) >= 3)
        bench.engine.die()
        await bench.until(lambda: bench.talk.dead)
        count = len(bench.talk.turns)
        await bench.pilot.press("f5")
        await bench.until(lambda: len(bench.talk.turns) > count + 1 and answers(bench)[-1])
        assert len(bench.engine.conversation) <= 2 and bench.talk.turns[0].passed
        await bench.pilot.press("ctrl+n")
        await bench.until(lambda: any("another conversation has begun" in notice for notice in bench.notices))
        assert not bench.talk.turns


@asyncio_test
async def test_freezing_ends_a_watch_and_a_question_of_the_users_own_does_not(
    tmp_path: Path, server: NetworkCamera
) -> None:
    async with running(tmp_path, list("abcdefghijklmnopqrstuvwxyz")) as bench:
        await open_live(bench, server)
        await bench.ask("/watch 0.4 What changed?")
        await bench.until(lambda: answers(bench) and not bench.talk.pending)
        await bench.type("And this?")
        await bench.until(lambda: not bench.talk.pending)
        count = len(bench.talk.turns)
        await asyncio.sleep(1.0)
        assert len(bench.talk.turns) == count
        await bench.pilot.press("enter")
        await bench.until(lambda: "And this?" in [turn.text for turn in bench.talk.turns[:-1]])
        await bench.pilot.press("ctrl+f")
        await bench.until(lambda: "frozen" in words(bench) and "asking" not in words(bench))
        await bench.until_idle()
        held = [turn.text for turn in bench.engine.conversation]
        assert held[-2:] == ["And this?", "What changed?"] and held.count("What changed?") == 2


@asyncio_test
async def test_a_question_that_cannot_be_asked_ends_the_watch(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, list("abc"), n_ctx=20) as bench:
        await open_live(bench, server)
        await bench.ask(f"/watch 0.2 {'What? ' * 40}")
        await bench.until(lambda: any("came to nothing" in notice for notice in bench.notices))
        assert not bench.talk.turns and bench.main.prompt.text == ""


@asyncio_test
async def test_hours_of_watching_hold_a_few_pictures(
    tmp_path: Path, scripted: list[ScriptedCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_SHOWN", 16)
    async with running(tmp_path, ["x"] * 20) as bench:
        await bench.until_idle()
        await bench.pilot.press("f9")
        scripted[0].show(0, numbered(0))
        await bench.until(lambda: number_shown(bench) == 0)
        await bench.ask("/watch 0.01 What?")
        for count in range(20):
            scripted[0].picture = numbered(count)
            await bench.until(lambda count=count: len(bench.talk.turns) > count)
        await bench.ask("/watch off")
        await bench.until_idle()
        assert len(bench.talk.shelf.items) <= PASSED_SHOWN + 1
        assert len(bench.engine._record.media) <= PASSED_SHOWN + 1
        assert len(bench.exchanges) <= 16
        assert f"{len(bench.talk.turns) - len(bench.exchanges)} earlier" in bench.text_of("#earlier")
        session = bench.app.recorder.session
        bench.app.recorder.wait()
    async with running(tmp_path, ["because"], history=History(tmp_path)) as bench:
        await bench.until_idle()
        assert session is not None
        await bench.main._reopen(session)
        await bench.until_idle()
        assert len(bench.talk.turns) >= 20 and len(bench.engine.conversation) == 1
        assert bench.talk.turns[-1].when == "12:00:00" and len(bench.talk.shelf.items) == 1
        await bench.ask_and_wait("Why?")
        assert len(bench.engine.conversation) == 2 and answers(bench)[-1] == "because"


# Pace


@asyncio_test
async def test_no_picture_is_asked_for_before_the_terminal_has_taken_the_last(
    tmp_path: Path, scripted: list[ScriptedCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = True
    monkeypatch.setattr(cameras, "is_behind", lambda driver: behind)
    async with running(tmp_path) as bench:
        await bench.until_idle()
        await bench.pilot.press("f9")
        [camera] = scripted
        assert camera.looks == 1 and camera.source == "0"
        camera.show(0, numbered(0))
        await asyncio.sleep(0.6)
        assert camera.looks == 1
        behind = False
        await bench.until(lambda: camera.looks == 2)
        await bench.pilot.press("f1")
        camera.show(1, numbered(1))
        await asyncio.sleep(0.6)
        assert camera.looks == 2  # another screen covers it
        await bench.pilot.press("escape")
        await bench.until(lambda: camera.looks == 3)
        await bench.pilot.press("f9")
        assert camera.closed


def test_pace() -> None:
    assert pace.pause_after(0.01) == pytest.approx(0.19)
    assert pace.pause_after(0.5) == 2.0
    waiting: Queue[str] = Queue()
    driver = SimpleNamespace(_writer_thread=SimpleNamespace(_queue=waiting))
    assert not pace.is_behind(driver) and not pace.is_behind(None)
    driver.write = waiting.put
    pace.mark(driver)
    assert pace.is_behind(driver)
    waiting.get()
    assert not pace.is_behind(driver)


# The command line, and how it looks


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("webcam:0", "0"),
        ("webcam:", "0"),
        ("webcam:http://a/b", "http://a/b"),
        ("rtsp://a/b", "rtsp://a/b"),
        ("http://a/live.mjpg?x=1", "http://a/live.mjpg?x=1"),
        ("http://a/cat.png", None),
        ("clip.mjpeg", None),
    ],
)
def test_cameras_on_the_command_line(text: str, source: str | None) -> None:
    assert camera_source(text) == source


@asyncio_test
async def test_the_command_line_opens_it(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, media=[f"webcam:{server.url}"]) as bench:
        await bench.until(lambda: "live · 80×64" in words(bench))


def scene() -> Image.Image:
    image = Image.new("RGB", (160, 120), (30, 60, 120))
    image.paste((230, 200, 40), (20, 60, 90, 110))
    return image


async def shown(bench: Bench, *said: Said) -> ScriptedCamera:
    await bench.until_idle()
    await bench.pilot.press("f9")
    camera = ScriptedCamera.opened[-1]
    for each in said:
        camera.say(each)
    await bench.pilot.pause()
    return camera


LIVE = (CameraState("live"), Seen(0, (640, 480), as_jpeg(scene())))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", ["live", "frozen", "missing", "watched"])
def test_how_a_camera_looks(looks: Any, scripted: list[ScriptedCamera], size: tuple[int, int], state: str) -> None:
    async def lead(bench: Bench) -> None:
        if state == "missing":
            problem = "camera 0 (/dev/video0) does not exist — plug a camera in"
            await shown(bench, CameraState("opening"), CameraState("missing", problem))
            return
        camera = await shown(bench, *LIVE)
        camera.picture = scene()
        await bench.until(lambda: card_of(bench)._shown is not None)  # type: ignore[union-attr]
        if state == "frozen":
            await bench.pilot.press("ctrl+f")
            await bench.until(lambda: bench.talk.shelf.items and bench.talk.shelf.items[0].attached)
        if state == "watched":
            await bench.ask("/watch 1h What changed?")
            await bench.until(lambda: bench.answers == ["nothing"])
        await bench.until_idle()

    assert looks(lead, size, ("nothing",))
