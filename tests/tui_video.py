"""What the tests of videos in the app share: a clip whose frames are told by their greys, and a look at the screen."""

from __future__ import annotations

import shutil

import pytest

from dclocal_tui.decoder import Thumbnail
from dclocal_tui.film import Film
from dclocal_tui.screens.main import MainScreen
from dclocal_tui.screens.video import VideoScreen
from dclocal_tui.widgets.filmstrip import FilmFrame
from tests.tui_app import Bench

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: apt-get install ffmpeg"
)
FRAMES, FPS = 40, 10


def frame_of(thumbnail: Thumbnail) -> int:
    """Which frame a picture is, by its grey."""
    red, _, _ = thumbnail.image.getpixel((20, 20))  # type: ignore[misc]
    return round(red / 6)


def screen(bench: Bench) -> VideoScreen:
    assert isinstance(bench.app.screen, VideoScreen)
    return bench.app.screen


def film(bench: Bench) -> Film:
    found = screen(bench)._film
    assert found is not None
    return found


def cells(bench: Bench) -> list[str]:
    return [str(cell.query_one(".time").render()) for cell in screen(bench).query(FilmFrame) if cell.display]


async def settle(bench: Bench) -> None:
    """Until every picture that is to be seen is there, and the large one is that under the cursor."""
    shown = screen(bench)

    def drawn() -> bool:
        large, known = shown._large, shown._film
        cells = [cell for cell in shown.query(FilmFrame) if cell.display]
        frames = [cell._frame for cell in cells]
        return bool(
            known is not None
            and large is not None
            and abs(large.time_s - known.cursor_s) < 0.06
            and frames
            and all(frame is not None and frame.thumbnail is not None for frame in frames)
            and all(cell.query_one(".picture").children[0].size.area for cell in cells)
        )

    await bench.until(drawn)


async def opened(bench: Bench, key: str = "f8") -> None:
    await bench.until_idle()
    await bench.pilot.press(key)
    await bench.until(lambda: isinstance(bench.app.screen, VideoScreen))
    await settle(bench)


async def closed(bench: Bench, key: str) -> None:
    await bench.pilot.press(key)
    await bench.until(lambda: isinstance(bench.app.screen, MainScreen))
    await bench.until_idle()
