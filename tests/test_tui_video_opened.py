"""A video's frames in the app, opened from everywhere and at any moment, a bad one too; and how they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dclocal.settings import Settings
from dclocal_tui.screens.main import MainScreen
from dclocal_tui.screens.video import VideoScreen
from dclocal_tui.widgets.media_card import MediaCard
from tests.test_tui_screens import SIZES, looks  # noqa: F401
from tests.tui_app import Bench, picture, running
from tests.tui_video import closed, needs_ffmpeg, opened, screen, settle

asyncio_test = pytest.mark.asyncio
pytestmark = needs_ffmpeg


@asyncio_test
async def test_the_card_of_many_frames_stays_short(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=20)) as bench:
        await bench.until_idle()
        state = str(bench.main.query_one(MediaCard).query_one(".state").render()).split("\n")[0]
        assert state.startswith("20 frames at 0.") and "…  3." in state and len(state.split()) == 21


@asyncio_test
async def test_from_the_card_and_by_command(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[picture(tmp_path), grey_clip]) as bench:
        await bench.until_idle()
        for key in ("enter", "v"):
            list(bench.main.query(MediaCard))[1].focus()
            await opened(bench, key)
            assert str(screen(bench).query_one(".box").border_title) == "[2] clip.mp4"
            await closed(bench, "escape")
        bench.main.query(MediaCard).first().focus()
        await bench.pilot.press("enter")
        assert isinstance(bench.app.screen, MainScreen)
        bench.main.prompt.focus()
        await bench.type("/video 2")
        await opened(bench, "enter")
        await closed(bench, "escape")
        await bench.ask("/video 1")
        await bench.until(lambda: "[1] is no video" in bench.notices)
        await bench.type("/video")
        await opened(bench, "enter")


@asyncio_test
async def test_without_a_video_the_key_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        await bench.pilot.press("f8")
        await bench.until(lambda: any("there is no video yet" in notice for notice in bench.notices))


@asyncio_test
async def test_before_the_model_is_loaded(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=4), loading=True) as bench:
        await bench.pilot.press("f8")
        await bench.until(lambda: isinstance(bench.app.screen, VideoScreen))
        await settle(bench)
        assert "their tokens are known once the model is loaded" in bench.text_of("#choice")
        assert bench.text_of("#note") == "○ these are being prepared"
        bench.engine.loading.clear()
        await bench.until(lambda: bench.text_of("#note") == "● the model is given these")
        assert "16 visual tokens" in bench.text_of("#choice")


@asyncio_test
async def test_a_change_while_it_is_being_attached(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, ["yes"], media=[grey_clip], settings=Settings(frames=4), loading=True) as bench:
        await bench.pilot.press("f8")
        await bench.until(lambda: isinstance(bench.app.screen, VideoScreen))
        await settle(bench)
        await bench.pilot.press("minus", "minus")
        await bench.pilot.press("enter")
        bench.engine.loading.clear()
        await bench.until(lambda: bench.talk.shelf.items[0].attached is not None)
        await bench.until_idle()
        assert len(bench.talk.shelf.items[0].attached.times_s) == 2  # type: ignore[union-attr]
        await bench.ask_and_wait("Is it this?")
        assert [media.video.frames for media in bench.engine.conversation[0].media] == [2]  # type: ignore[union-attr]


@asyncio_test
async def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    async with running(tmp_path / "home", media=[bad]) as bench:
        await bench.until_idle()
        await bench.pilot.press("f8")
        await bench.until(lambda: isinstance(bench.app.screen, VideoScreen))
        await bench.until(lambda: "is not a video that can be read" in bench.text_of("#note"))
        await bench.pilot.press("left", "end", "plus", "minus", "pagedown", "left_square_bracket")
        await closed(bench, "enter")


@asyncio_test
async def test_after_a_crash_the_chosen_frames_come_back(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, ["yes"], media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        await bench.pilot.press("minus")
        await closed(bench, "enter")
        await bench.ask_and_wait("What happens?")
        before = bench.talk.shelf.items[0].attached
        bench.engine.die()
        await bench.until(lambda: bench.talk.dead)
        await bench.pilot.press("f5")
        await bench.until(lambda: bench.talk.ready and not bench.talk.status.activity)
        after = bench.talk.shelf.items[0].attached
        assert after is not None and before is not None
        assert after.times_s == before.times_s and len(after.times_s) == 3


@asyncio_test
async def test_no_thread_is_left(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip]) as bench:
        await opened(bench)
        decoder = screen(bench)._decoder
        await closed(bench, "escape")
        await bench.until(
            lambda: decoder._closed and not bench.app.screen.workers._workers - bench.main.workers._workers
        )


SNAPSHOT_FRAMES = 6


async def looked_at(bench: Bench) -> None:
    await opened(bench)
    await bench.pilot.press("pagedown", "pagedown")
    await settle(bench)


async def chosen_anew(bench: Bench) -> None:
    await looked_at(bench)
    await bench.pilot.press("left_square_bracket", "plus", "plus", "pagedown", "pagedown")
    await settle(bench)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lead", [looked_at, chosen_anew])
def test_the_screen(looks: Any, grey_clip: Path, size: tuple[int, int], lead: Any) -> None:  # noqa: F811
    assert looks(lead, size, media=[str(grey_clip)], settings=Settings(frames=SNAPSHOT_FRAMES))


@pytest.mark.parametrize("size", SIZES)
def test_the_card_after_a_question(looks: Any, grey_clip: Path, size: tuple[int, int]) -> None:  # noqa: F811
    async def lead(bench: Bench) -> None:
        await bench.until_idle()
        await bench.ask_and_wait("What happens?")

    assert looks(lead, size, ("It gets lighter.",), media=[str(grey_clip)], settings=Settings(frames=SNAPSHOT_FRAMES))
