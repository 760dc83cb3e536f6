"""The webcam in the app: live, frozen, asked about, watched, lost, and always let go.  The camera is a real stream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from dclocal_tui.widgets.media_card import MediaCard
from tests.mjpeg import NetworkCamera, number_in
from tests.tui_app import picture, running
from tests.tui_webcam import (
    answers,
    camera_processes,
    card_of,
    no_camera_is_left,
    number_shown,
    numbers_asked,
    open_live,
    scripted,
    until_gone,
    words,
)

asyncio_test = pytest.mark.asyncio
__all__ = ["no_camera_is_left", "scripted"]


# Live and frozen


@asyncio_test
async def test_the_preview_moves_and_a_question_is_about_the_newest_picture(
    tmp_path: Path, server: NetworkCamera
) -> None:
    async with running(tmp_path, ["a pattern", "another"]) as bench:
        await open_live(bench, server)
        first = number_shown(bench)
        await bench.until(lambda: number_shown(bench) > first + 5)
        sent = server.sent
        await bench.ask_and_wait("What is this?")
        [[asked]] = numbers_asked(bench)
        assert sent - 2 <= asked <= server.sent
        assert "[1] What is this?" in str(bench.exchanges[0].query_one(".question").render())
        await bench.ask_and_wait("And now?")
        assert numbers_asked(bench)[1][0] > asked and bench.talk.turns[1].numbers == (2,)
        name = str(next(iter(bench.main.query(MediaCard))).query_one(".name").render())
        assert name.startswith("[1] ") and name.endswith("camera.jpg")
        bench.app.recorder.wait()
        [info] = bench.app.history.sessions()
        kept = bench.app.history.load(info.id).messages[0].media[0]
        assert isinstance(kept.source, Path) and number_in(Image.open(kept.source)) == asked


@asyncio_test
async def test_a_frozen_picture_is_the_one_on_the_screen_and_is_asked_about(
    tmp_path: Path, server: NetworkCamera
) -> None:
    async with running(tmp_path, ["one", "two", "three"]) as bench:
        await open_live(bench, server)
        await bench.pilot.press("ctrl+f")
        shown = number_shown(bench)
        await bench.until(lambda: bench.talk.shelf.items and bench.talk.shelf.items[0].attached)
        await bench.until(lambda: server.sent > shown + 10)
        assert number_shown(bench) == shown and "frozen" in words(bench)
        await bench.ask_and_wait("What is this?")
        await bench.ask_and_wait("Which colour?")
        assert numbers_asked(bench) == [[shown], []]
        await bench.pilot.press("ctrl+f")
        await bench.until(lambda: number_shown(bench) > shown + 10)
        await bench.ask_and_wait("And now?")
        assert numbers_asked(bench)[2][0] > shown + 10


@asyncio_test
async def test_a_question_right_after_freezing(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["one"]) as bench:
        await open_live(bench, server)
        await bench.type("What?")
        bench.main.action_freeze()
        shown = number_shown(bench)
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["one"])
        await bench.until_idle()
        assert numbers_asked(bench) == [[shown]] and len(bench.talk.shelf.items) == 1


@asyncio_test
async def test_space_on_the_card_freezes_and_goes_on_and_delete_closes(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path) as bench:
        await open_live(bench, server)
        card = card_of(bench)
        assert card is not None
        card.focus()
        await bench.pilot.press("space")
        await bench.until(lambda: "frozen" in words(bench) and len(bench.talk.shelf.items) == 1)
        await bench.pilot.press("space")
        await bench.until(lambda: "live" in words(bench))
        assert not bench.talk.shelf.items  # never asked about
        await bench.pilot.press("delete")
        await bench.until(lambda: card_of(bench) is None)
        assert not bench.main.query_one("MediaPanel").display


@asyncio_test
async def test_a_new_conversation_is_shown_the_frozen_picture_again(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["one", "two"]) as bench:
        await open_live(bench, server)
        await bench.pilot.press("ctrl+f")
        shown = number_shown(bench)
        await bench.ask_and_wait("What is this?")
        await bench.pilot.press("ctrl+n")
        await bench.ask_and_wait("And to you?")
        assert numbers_asked(bench) == [[shown]] and len(bench.exchanges) == 1


@asyncio_test
async def test_other_pictures_go_with_the_live_one(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path / "home", ["no"], media=[picture(tmp_path)]) as bench:
        await open_live(bench, server)
        await bench.ask_and_wait("The same?")
        assert bench.talk.turns[0].numbers == (1, 2)


@asyncio_test
async def test_a_question_that_is_stopped_takes_its_picture_with_it(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["one"], seeing=True) as bench:
        await open_live(bench, server)
        await bench.ask("What is this?")
        await bench.until(lambda: bench.talk.pending)
        await bench.pilot.press("escape")
        bench.engine.seeing.clear()
        await bench.until(lambda: bench.main.prompt.text == "What is this?" and not bench.exchanges)
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["one"])
        assert len(numbers_asked(bench)[0]) == 1


# Doing badly


@asyncio_test
async def test_a_camera_that_is_lost_comes_back(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["gone"]) as bench:
        await open_live(bench, server)
        server.unplug()
        await bench.until(lambda: "reconnecting" in words(bench))
        last = number_shown(bench)
        await bench.ask("What was this?")
        await bench.until(lambda: any("this is its last picture" in notice for notice in bench.notices))
        await bench.until(lambda: answers(bench) == ["gone"])
        server.plug()
        await bench.until(lambda: "live" in words(bench) and number_shown(bench) > last)


@asyncio_test
async def test_a_covered_lens(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path) as bench:
        await open_live(bench, server)
        server.mode = "black"
        await bench.until(lambda: "black picture" in words(bench) and "lens" in words(bench))
        card = card_of(bench)
        assert card is not None and card.has_class("-black")


@asyncio_test
async def test_no_camera(tmp_path: Path) -> None:
    async with running(tmp_path, ["text alone"]) as bench:
        await bench.until_idle()
        await bench.ask("/webcam 97")
        await bench.until(lambda: "no camera" in words(bench) and "does not exist" in words(bench))
        await bench.ask("What is this?")
        await bench.until(lambda: any("camera 97 has given no picture yet" in notice for notice in bench.notices))
        await bench.until(lambda: bench.main.prompt.text == "What is this?")
        assert not bench.talk.turns
        await bench.pilot.press("ctrl+f")
        assert "frozen" not in words(bench)
        await bench.pilot.press("f9")
        await bench.until(lambda: card_of(bench) is None)
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["text alone"])


@asyncio_test
async def test_what_is_no_camera_and_what_needs_one(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.ask("/webcam ftp://a/b")
        await bench.until(lambda: any("is no address of a camera" in notice for notice in bench.notices))
        assert bench.main.prompt.text and card_of(bench) is None
        bench.main.prompt.text = ""
        await bench.pilot.press("ctrl+f")
        await bench.until(lambda: any("no camera is open" in notice for notice in bench.notices))
        for line, wrong in (("/watch 5s What?", "open a camera first"), ("/watch often What?", "no interval")):
            await bench.ask(line)
            await bench.until(lambda wrong=wrong: any(wrong in notice for notice in bench.notices))
            bench.main.prompt.text = ""


@asyncio_test
async def test_what_is_printed_there_reaches_the_log_and_not_the_screen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_DEBUG", "1")
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "DEBUG")
    (tmp_path / "bad.mp4").write_bytes(b"abc")
    async with running(tmp_path) as bench:
        await bench.ask(f"/webcam {tmp_path / 'bad.mp4'}")
        await bench.until(lambda: words(bench).startswith("the end\n"))
        await bench.until(lambda: "VIDEOIO" in (tmp_path / "tui-camera.log").read_text())
    assert capfd.readouterr() == ("", "")


@asyncio_test
async def test_the_end_of_its_process_is_told_and_it_opens_again(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["still here"]) as bench:
        await open_live(bench, server)
        [process] = camera_processes()
        process.kill()
        await bench.until(lambda: "its process ended with SIGKILL" in words(bench))
        await bench.pilot.press("f9")
        await bench.pilot.press("f9")
        await bench.until(lambda: "live" in words(bench))
        await bench.ask_and_wait("What is this?")
        assert bench.answers == ["still here"]


@asyncio_test
async def test_the_camera_outlives_the_engine(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path, ["again"]) as bench:
        await open_live(bench, server)
        bench.engine.die()
        await bench.until(lambda: bench.talk.dead)
        shown = number_shown(bench)
        await bench.until(lambda: number_shown(bench) > shown)
        await bench.ask("What is this?")
        assert bench.main.prompt.text == "What is this?" and not bench.talk.shelf.items
        await bench.pilot.press("f5")
        await bench.until_idle()
        await bench.pilot.press("enter")
        await bench.until(lambda: bench.answers == ["again"])


@asyncio_test
async def test_it_is_let_go_at_quitting_and_where_the_app_fails(tmp_path: Path, server: NetworkCamera) -> None:
    async with running(tmp_path / "one") as bench:
        await open_live(bench, server)
        await bench.pilot.press("ctrl+q")
    assert until_gone(camera_processes)
    with pytest.raises(ZeroDivisionError):
        async with running(tmp_path / "two") as bench:
            await open_live(bench, server)
            bench.app.call_later(lambda: 1 / 0)
            await asyncio.sleep(0.5)
    assert until_gone(camera_processes)


def test_it_is_let_go_where_its_parent_is_killed(tmp_path: Path, server: NetworkCamera) -> None:
    script = (
        "import sys, time; from pathlib import Path; from dclocal.webcam_process import FarCamera\n"
        f"far = FarCamera({server.url!r}, Path({str(tmp_path / 'log')!r}), lambda said: None)\n"
        "print(far.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert until_gone(lambda: server.connections == 0, 10)
    server.mode = "stall"
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([child], timeout=3)
    assert not alive
