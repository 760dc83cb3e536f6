"""A video's frames in the app: seen as the model has them, scrubbed, and chosen anew; every key, and the mouse."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.geometry import Offset

from dclocal.engine_messages import Media
from dclocal.frames import VideoRequest
from dclocal.sampling import sample
from dclocal.settings import Settings
from dclocal_tui.widgets.filmstrip import FilmFrame
from dclocal_tui.widgets.media_card import MediaCard
from dclocal_tui.widgets.scrubber import Scrubber
from tests.tui_app import running
from tests.tui_video import FRAMES, cells, closed, film, frame_of, needs_ffmpeg, opened, screen, settle

asyncio_test = pytest.mark.asyncio
pytestmark = needs_ffmpeg


@asyncio_test
async def test_the_frames_that_the_model_has_are_shown_and_marked(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        given = bench.talk.shelf.items[0].attached.times_s  # type: ignore[union-attr]
        assert cells(bench) == ["● 0:00.5", "● 0:01.5", "● 0:02.5", "● 0:03.5"]
        frames = [cell._frame for cell in screen(bench).query(FilmFrame) if cell.display]
        pictures = [frame.thumbnail for frame in frames if frame and frame.thumbnail]
        assert [frame_of(thumbnail) for thumbnail in pictures] == [5, 15, 25, 35]
        assert [round(thumbnail.time_s, 6) for thumbnail in pictures] == list(given)
        assert bench.text_of("#choice") == "the whole video · 4 frames (at most 40) × 4 = 16 visual tokens"
        assert bench.text_of("#note") == "● the model is given these"
        marks = str(bench.app.screen.query_one(Scrubber).render()).splitlines()[0]
        assert marks.count("●") == 4 and "○" not in marks


@asyncio_test
@pytest.mark.parametrize(
    ("keys", "frame"),
    [
        (["right"], 1),
        (["right", "right", "left"], 1),
        (["left"], 0),
        (["shift+right"], 10),
        (["shift+right", "shift+right", "shift+left"], 10),
        (["end"], 39),
        (["end", "right"], 39),
        (["end", "home"], 0),
        (["pagedown"], 5),
        (["pagedown", "pagedown", "pageup"], 5),
        (["end", "pageup"], 35),
    ],
)
async def test_the_cursor(tmp_path: Path, grey_clip: Path, keys: list[str], frame: int) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        await bench.pilot.press(*keys)
        await bench.until(lambda: f"frame {frame + 1}" in bench.text_of("#here"))
        large = screen(bench)._large
        assert large is not None and frame_of(large) == frame
        has = "the model is given this frame" in bench.text_of("#here")
        assert has == (frame in (5, 15, 25, 35))
        here = [cell for cell in screen(bench).query(FilmFrame) if cell.has_class("-here")]
        assert len(here) == 1


@asyncio_test
async def test_a_part_and_a_count_are_given_in_place_of_the_frames_before(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, ["moves"], media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        before = bench.talk.shelf.items[0].attached
        await bench.pilot.press("shift+right", "left_square_bracket", "shift+right", "left", "right_square_bracket")
        await bench.pilot.press("minus", "plus", "equals_sign", "plus", "plus", "plus")
        await settle(bench)
        assert (film(bench).start_s, film(bench).end_s) == (1.0, 2.0)
        assert bench.text_of("#choice") == "0:01.0 – 0:02.0 · 8 frames (at most 10) × 4 = 32 visual tokens"
        assert bench.text_of("#note") == "○ Enter gives these · 3–8 of 8 are shown"
        assert cells(bench) == ["○ 0:01.3", "○ 0:01.4", "● 0:01.5", "○ 0:01.6", "○ 0:01.8", "○ 0:01.9"]
        await closed(bench, "enter")
        (item,) = bench.talk.shelf.items
        assert item.number == 1 and item.media.video == VideoRequest(frames=8, start_s=1.0, end_s=2.0)
        assert item.attached is not None and before is not None and item.attached.key != before.key
        expected = [frame.time_s for frame in sample(grey_clip, 8, 1.0, 2.0)]
        assert list(item.attached.times_s) == pytest.approx(expected)
        await bench.ask_and_wait("What happens?")
        assert bench.answers == ["moves"]
        (said,) = bench.engine.conversation
        assert [media.video for media in said.media] == [item.media.video]
        card = bench.main.query_one(MediaCard)
        assert str(card.query_one(".state").render()).startswith("8 frames at 1.0  1.1  1.3  1.4  1.5  1.6  1.8  1.9 s")
        await opened(bench)
        assert cells(bench)[:3] == ["● 0:01.0", "● 0:01.1", "● 0:01.3"]
        assert bench.text_of("#note") == "● the model is given these · 1–6 of 8 are shown"


@asyncio_test
async def test_frames_that_a_question_shows_stay_and_others_come_anew(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, ["one", "two"], media=[grey_clip], settings=Settings(frames=4)) as bench:
        await bench.until_idle()
        await bench.ask_and_wait("What happens?")
        await opened(bench)
        await bench.pilot.press("minus")
        assert "Enter gives these as another video" in bench.text_of("#note")
        await closed(bench, "enter")
        first, second = bench.talk.shelf.items
        assert len(first.attached.times_s) == 4 and len(second.attached.times_s) == 3  # type: ignore[union-attr]
        assert not second.asked
        await bench.ask_and_wait("And now?")
        assert bench.talk.turns[1].numbers == (2,)
        assert [media.video.frames for said in bench.engine.conversation for media in said.media] == [4, 3]  # type: ignore[union-attr]


@asyncio_test
@pytest.mark.parametrize("key", ["escape", "f8"])
async def test_leaving_changes_nothing(tmp_path: Path, grey_clip: Path, key: str) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        before = bench.talk.shelf.items
        await bench.pilot.press("shift+right", "left_square_bracket", "plus")
        await closed(bench, key)
        assert bench.talk.shelf.items == before


@asyncio_test
async def test_enter_without_a_change_changes_nothing(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        before = bench.talk.shelf.items
        await bench.pilot.press("plus", "minus", "end", "right_square_bracket", "home", "left_square_bracket")
        await closed(bench, "enter")
        assert bench.talk.shelf.items == before


@asyncio_test
async def test_the_mouse_on_the_scrubber_and_on_a_frame(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=4)) as bench:
        await opened(bench)
        scrubber = screen(bench).query_one(Scrubber)
        middle = Offset((scrubber.size.width - 1) // 2, 1)
        await bench.pilot.click(Scrubber, offset=middle)
        assert film(bench).cursor_s == pytest.approx(2.0, abs=0.05)
        await bench.pilot.mouse_down(Scrubber, offset=middle)
        await bench.pilot.hover(Scrubber, offset=Offset(0, 1))
        await bench.pilot.mouse_up(Scrubber, offset=Offset(0, 1))
        assert film(bench).cursor_s == 0.0
        await bench.pilot.hover(Scrubber, offset=middle)
        assert film(bench).cursor_s == 0.0
        await settle(bench)
        third = list(screen(bench).query(FilmFrame))[2]
        await bench.pilot.click(third)
        await bench.until(lambda: "frame 26" in bench.text_of("#here"))
        assert third.has_class("-here")


@asyncio_test
async def test_a_part_cannot_end_before_it_begins(tmp_path: Path, grey_clip: Path) -> None:
    async with running(tmp_path, media=[grey_clip]) as bench:
        await opened(bench)
        await bench.pilot.press("shift+right", "left_square_bracket", "home", "right_square_bracket")
        assert bench.text_of("#note") == "the part begins at 0:01.0, after this frame — press [ further back"
        assert (film(bench).start_s, film(bench).end_s) == (1.0, 4.0)
        await bench.pilot.press("shift+right", "right_square_bracket", "end", "left_square_bracket")
        assert bench.text_of("#note").startswith("the part ends at 0:01.1, before this frame")
        assert (film(bench).start_s, film(bench).end_s) == (1.0, 1.1)
        assert bench.text_of("#choice").startswith("0:01.0 – 0:01.1 · 1 frame (at most 1)")


@asyncio_test
async def test_no_more_frames_than_fit(tmp_path: Path, grey_clip: Path) -> None:
    """The engine refuses one more than the screen allows."""
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=6), n_ctx=100) as bench:
        await opened(bench)
        most = int(bench.text_of("#choice").split("at most ")[1].split(")")[0])
        assert 6 < most < FRAMES
        for _ in range(most):
            await bench.pilot.press("plus")
        assert bench.text_of("#note").startswith(f"no more than {most} frames")
        assert film(bench).frames == most
        await closed(bench, "enter")
        attached = bench.talk.shelf.items[0].attached
        assert attached is not None and len(attached.times_s) == most
        bench.talk.attach(Media(str(grey_clip), VideoRequest(frames=most + 1), "more"))
        await bench.until(lambda: "frames of" in bench.talk.shelf.items[1].error)


@asyncio_test
async def test_tokens_are_the_engines_own(tmp_path: Path, grey_clip: Path) -> None:
    """With more frames each keeps fewer tokens: the screen foretells what is attached."""
    async with running(tmp_path, media=[grey_clip], settings=Settings(frames=2), n_ctx=100) as bench:
        await opened(bench)
        while "× 4" in bench.text_of("#choice"):
            await bench.pilot.press("plus")
        foretold = int(bench.text_of("#choice").split("= ")[1].split(" ")[0])
        await closed(bench, "enter")
        attached = bench.talk.shelf.items[0].attached
        assert attached is not None and attached.tokens == foretold and "1 tokens each" in attached.summary
