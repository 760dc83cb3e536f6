"""The file browser: walks folders, filters, marks, previews in the background, and attaches what is chosen."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from textual.widgets import Input, OptionList
from textual_image.widget import HalfcellImage

import tests.test_tui_screens as screens
from dclocal.errors import UserError
from dclocal.video import import_cv2
from dclocal_tui.folder import FolderError, list_folder, matching
from dclocal_tui.peek import SIDE, peek
from dclocal_tui.screens.browse import BrowseScreen
from tests.tui_app import Bench, picture, running

cv2 = import_cv2()

asyncio_test = pytest.mark.asyncio
looks = screens.looks


def video(folder: Path, name: str = "fade.avi", frames: int = 40) -> Path:
    """A video of 64 by 48 at 10 frames a second, which goes from black to white."""
    writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for count in range(frames):
        writer.write(np.full((48, 64, 3), round(255 * count / (frames - 1)), np.uint8))
    writer.release()
    return folder / name


def gallery(folder: Path) -> Path:
    """Two pictures, a video, a hidden picture, a text, and folders with more."""
    folder.mkdir(parents=True, exist_ok=True)
    picture(folder, "blue.png", "blue")
    picture(folder, "red one.png")
    picture(folder, ".secret.png", "black")
    video(folder)
    (folder / "notes.txt").write_text("no picture")
    picture(folder / "trips", "alps.png", "green")
    (folder / ".cache").mkdir()
    return folder


@asynccontextmanager
async def browsing(tmp_path: Path, **options: Any) -> AsyncIterator[Bench]:
    """The app with its browser open at the gallery."""
    folder = gallery(tmp_path / "pictures")
    async with running(tmp_path / "home", **options) as bench:
        await bench.until_idle()
        await bench.ask(f"/browse {folder}")
        await opened(bench)
        yield bench


async def opened(bench: Bench) -> None:
    await bench.until(lambda: isinstance(bench.app.screen, BrowseScreen) and len(lines(bench)) > 1)


def lines(bench: Bench) -> list[str]:
    """The list as it is shown, without sizes."""
    return [str(option.prompt).strip().partition("  ")[0] for option in bench.app.screen.query_one(OptionList).options]


def under_cursor(bench: Bench) -> str:
    return lines(bench)[bench.app.screen.query_one(OptionList).highlighted or 0]


def title(bench: Bench) -> str:
    return str(bench.app.screen.query_one(".box").border_title)


def names(bench: Bench) -> list[str]:
    return [item.name for item in bench.talk.shelf.items]


def test_a_folder_lists_folders_pictures_and_videos(tmp_path: Path) -> None:
    folder = gallery(tmp_path)
    os.symlink(folder / "gone.png", folder / "broken.png")
    os.mkfifo(folder / "pipe.png")
    found = [(entry.name, entry.kind) for entry in list_folder(folder).entries]
    assert found == [("trips", "folder"), ("blue.png", "image"), ("fade.avi", "video"), ("red one.png", "image")]
    hidden = {entry.name for entry in list_folder(folder, hidden=True).entries}
    assert hidden == {".cache", ".secret.png", *(name for name, _ in found)}
    assert list_folder(folder).entries[1].size_bytes == (folder / "blue.png").stat().st_size
    assert [entry.name for entry in matching(list_folder(folder).entries, "ONE red")] == ["red one.png"]


def test_a_folder_that_cannot_be_listed_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="gone cannot be listed .No such file"):
        list_folder(tmp_path / "gone")


def test_a_huge_folder_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dclocal_tui.folder.MAX_ENTRIES", 3)
    listing = list_folder(gallery(tmp_path))
    assert not listing.whole and len(listing.entries) <= 3


def test_a_preview_is_small_and_says_the_size(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "large.png")
    found = peek(tmp_path / "large.png", "image")
    assert found.picture.size == (SIDE, SIDE // 2) and found.about == "3000×1500"


def test_a_video_shows_its_middle_frame(tmp_path: Path) -> None:
    found = peek(video(tmp_path), "video")
    assert found.about == "64×48 · 0:04.0 · 10 fps"
    assert np.asarray(found.picture).mean() == pytest.approx(255 * 20 / 39, abs=5)


def test_a_video_whose_middle_is_far_shows_its_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dclocal_tui.peek.MAX_DECODED", 5)
    monkeypatch.setattr("dclocal.sampling.SEEK_FRAMES", 10**9)
    assert np.asarray(peek(video(tmp_path), "video").picture).mean() < 5


def test_a_preview_of_damaged_files_fails_as_attaching_does(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no")
    (tmp_path / "bad.mp4").write_text("no")
    for name, kind in (("bad.png", "image"), ("bad.mp4", "video")):
        with pytest.raises(UserError, match=f"{name} is not a"):
            peek(tmp_path / name, kind)


@asyncio_test
async def test_enter_attaches_the_file_under_the_cursor(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        assert lines(bench) == ["../", "trips/", "blue.png", "fade.avi", "red one.png"]
        await bench.pilot.press("down", "enter")
        await bench.until(lambda: names(bench) == ["blue.png"])
        await bench.until_idle()
        assert bench.talk.shelf.items[0].attached is not None


@asyncio_test
async def test_space_marks_several_and_enter_attaches_them_in_order(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        await bench.pilot.press("end", "space")
        assert "1 marked" in title(bench)
        await bench.pilot.press("home", "down", "down", "space", "space")
        assert "3 marked" in title(bench)
        await bench.pilot.press("up", "space")
        assert "2 marked" in title(bench) and "●" in lines(bench)[2]
        await bench.pilot.press("home", "down", "space")
        assert "2 marked" in title(bench), "folders are not marked"
        await bench.pilot.press("end", "enter")
        await bench.until(lambda: names(bench) == ["red one.png", "blue.png"])


@asyncio_test
async def test_folders_are_entered_and_left_with_the_cursor_where_it_was(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        for enter, leave in (("enter", "backspace"), ("right", "left")):
            assert under_cursor(bench) == "trips/"
            await bench.pilot.press(enter)
            await bench.until(lambda: lines(bench) == ["../", "alps.png"])
            await bench.pilot.press(leave)
            await bench.until(lambda: len(lines(bench)) == 5)
        await bench.pilot.press("home", "enter")
        await bench.until(lambda: "pictures/" in lines(bench))
        assert under_cursor(bench) == "pictures/"


@asyncio_test
async def test_marks_stay_over_folders(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        await bench.pilot.press("down", "space", "home", "down", "enter")
        await bench.until(lambda: lines(bench) == ["../", "alps.png"])
        await bench.pilot.press("space", "enter")
        await bench.until(lambda: names(bench) == ["blue.png", "alps.png"])


@asyncio_test
async def test_h_shows_hidden_files(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        await bench.pilot.press("down", "h")
        await bench.until(lambda: ".secret.png" in lines(bench) and ".cache/" in lines(bench))
        assert under_cursor(bench) == "blue.png"
        await bench.pilot.press("h")
        await bench.until(lambda: ".secret.png" not in lines(bench))


@asyncio_test
async def test_a_slash_filters(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        await bench.pilot.press("slash", *"rh")
        assert lines(bench) == ["../"]
        await bench.pilot.press("backspace", "e")
        assert lines(bench) == ["../", "red one.png"], "h and backspace are letters here"
        await bench.pilot.press("escape")
        assert len(lines(bench)) == 5 and isinstance(bench.app.screen, BrowseScreen)
        await bench.pilot.press("slash", *"e d", "down", "space")
        assert "1 marked" in title(bench), "Down leaves the filter for the list"
        await bench.pilot.press("slash")
        bench.app.screen.query_one("#filter", Input).value = "blue"
        await bench.pilot.press("enter", "space", "enter")
        await bench.until(lambda: names(bench) == ["red one.png", "blue.png"])


@asyncio_test
async def test_escape_attaches_nothing_and_the_folder_is_remembered(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        await bench.pilot.press("down", "space", "escape")
        await bench.until(lambda: bench.app.screen is bench.main)
        assert names(bench) == []
        await bench.pilot.press("ctrl+o")
        await opened(bench)
        assert title(bench).endswith("pictures") and "blue.png" in lines(bench)


@asyncio_test
async def test_it_opens_by_its_key_where_the_app_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gallery(tmp_path / "pictures"))
    async with running(tmp_path / "home") as bench:
        await bench.pilot.press("ctrl+o")
        await opened(bench)
        assert title(bench).endswith("pictures")


@asyncio_test
async def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as bench:
        await bench.ask(f"/browse {tmp_path}/nowhere")
        await bench.until(lambda: any("nowhere is not a folder" in notice for notice in bench.notices))


@asyncio_test
async def test_a_folder_that_is_gone_is_said_and_the_list_stays(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        (tmp_path / "pictures" / "trips").rename(tmp_path / "moved")
        await bench.pilot.press("enter")
        await bench.until(lambda: "trips cannot be listed" in bench.text_of(".trouble"))
        assert len(lines(bench)) == 5


@asyncio_test
async def test_the_file_under_the_cursor_is_previewed(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        await bench.pilot.press("down")
        await bench.until(lambda: "blue.png\n40×30" in bench.text_of("#about"))
        assert len(bench.app.screen.query(HalfcellImage)) == 1
        await bench.pilot.press("down")
        await bench.until(lambda: "fade.avi\n64×48 · 0:04.0 · 10 fps" in bench.text_of("#about"))
        assert len(bench.app.screen.query(HalfcellImage)) == 1
        await bench.pilot.press("home")
        await bench.until(lambda: bench.text_of("#about") == "")
        assert not bench.app.screen.query(HalfcellImage)


@asyncio_test
async def test_a_damaged_file_is_said_in_place_of_its_preview(tmp_path: Path) -> None:
    async with browsing(tmp_path) as bench:
        (tmp_path / "pictures" / "blue.png").write_text("no picture")
        await bench.pilot.press("down")
        await bench.until(lambda: "blue.png is not a picture that can be read" in bench.text_of("#about"))


@asyncio_test
async def test_names_cannot_style_the_screen(tmp_path: Path) -> None:
    picture(tmp_path / "odd", "[bold]x \x1b[31m.png")
    async with running(tmp_path / "home") as bench:
        await bench.ask(f"/browse {tmp_path / 'odd'}")
        await opened(bench)
        assert lines(bench)[1] == "[bold]x \\x1b[31m.png"


@pytest.mark.parametrize("size", screens.SIZES)
@pytest.mark.parametrize("state", ["picture", "video", "marked", "filtered"])
def test_browsing(
    looks: Any, size: tuple[int, int], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dclocal_tui.screens.browse.human_size", lambda size: "1.0 kB")  # encoders differ

    async def lead(bench: Bench) -> None:
        folder = gallery(tmp_path / "pictures")
        await bench.until_idle()
        await bench.ask(f"/browse {folder}")
        await opened(bench)
        keys = {"picture": ["down"], "video": ["down", "down"], "marked": ["down", "space", "space"]}
        await bench.pilot.press(*keys.get(state, ["slash", *"re", "enter"]))
        bench.app.screen.query_one(".box").border_title = "~/pictures" + ("  2 marked" if state == "marked" else "")
        await bench.until(lambda: bench.app.screen.query(HalfcellImage))

    assert looks(lead, size)
