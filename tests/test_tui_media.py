"""Pictures and videos in the app: attached in every way, numbered, prepared while one types; clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events
from textual_image.widget import HalfcellImage

from dclocal.settings import Settings
from dclocal_tui.paths import complete, fragment_at_end, media_of, named_media, pasted_paths
from dclocal_tui.widgets.media_card import MediaCard
from tests.tui_app import Bench, picture, running

asyncio_test = pytest.mark.asyncio


def cards(bench: Bench) -> list[str]:
    """Name and state of each card."""
    return [
        f"{card.query_one('.name').render()} | {card.query_one('.state').render()}"
        for card in bench.main.query(MediaCard)
    ]


@asyncio_test
async def test_pictures_of_the_command_line_are_numbered_and_shown(tmp_path: Path) -> None:
    media = [picture(tmp_path, "red.png"), picture(tmp_path, "blue.png", "blue")]
    async with running(tmp_path / "home", ["two", "still"], media=media) as bench:
        await bench.until_idle()
        assert cards(bench) == ["[1] red.png | 40×30 · 4 tokens", "[2] blue.png | 40×30 · 4 tokens"]
        assert len(bench.main.query(HalfcellImage)) == 2
        await bench.ask_and_wait("What are these?")
        assert "[1] [2] What are these?" in str(bench.exchanges[0].query_one(".question").render())
        assert [media.name for media in bench.engine.conversation[0].media] == ["red.png", "blue.png"]
        await bench.ask_and_wait("And now?")
        assert bench.talk.turns[1].numbers == ()


@asyncio_test
async def test_the_picture_is_prepared_before_enter(tmp_path: Path) -> None:
    async with running(tmp_path, ["yes"], media=[picture(tmp_path)], seeing=True) as bench:
        await bench.until(lambda: "preparing…" in bench.text_of("#activity"))
        bench.engine.seeing.clear()
        await bench.until_idle()
        before = bench.engine.llm.evaluated_tokens
        await bench.ask_and_wait("Now?")
        assert bench.engine.vision.encoded_images == 1
        asked_and_next_turn = len("Now?E\nSassistant\n") + len("E\nSuser\n")
        assert bench.engine.llm.evaluated_tokens - before <= asked_and_next_turn


@asyncio_test
async def test_a_question_waits_for_its_picture(tmp_path: Path) -> None:
    async with running(tmp_path, ["red"], media=[picture(tmp_path)], loading=True) as bench:
        await bench.ask("Which colour?")
        assert bench.talk.pending is not None and bench.talk.pending.request is None
        bench.engine.loading.clear()
        await bench.until(lambda: bench.answers == ["red"])
        assert len(bench.engine.conversation[0].media) == 1


@asyncio_test
async def test_attach_and_remove_by_command(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as bench:
        await bench.ask(f"/attach {picture(tmp_path, 'a b.png')}")
        await bench.until(lambda: cards(bench) == ["[1] a b.png | 40×30 · 4 tokens"])
        assert bench.main.prompt.text == ""
        await bench.ask("/remove 1")
        await bench.until(lambda: not cards(bench))
        await bench.ask("/remove 7")
        await bench.until(lambda: any("[7] cannot be taken off" in notice for notice in bench.notices))


@asyncio_test
async def test_delete_takes_the_focused_picture_off_and_numbers_are_not_reused(tmp_path: Path) -> None:
    media = [picture(tmp_path, "red.png"), picture(tmp_path, "blue.png", "blue")]
    async with running(tmp_path / "home", ["x"], media=media) as bench:
        await bench.until_idle()
        await bench.pilot.press("tab", "tab", "delete")
        await bench.until(lambda: len(cards(bench)) == 1)
        await bench.ask(f"/attach {picture(tmp_path, 'green.png', 'green')}")
        await bench.until(lambda: len(cards(bench)) == 2)
        numbers = [card[:3] for card in cards(bench)]
        assert numbers == ["[2]", "[3]"]
        assert bench.main.focused is bench.main.prompt


@asyncio_test
async def test_a_path_in_a_question(tmp_path: Path) -> None:
    red = picture(tmp_path, "red.png")
    async with running(tmp_path / "home", ["red"]) as bench:
        await bench.ask_and_wait(f"What is @{red}?")
        assert bench.talk.turns[0].text == "What is red.png?" and bench.talk.turns[0].numbers == (1,)
        await bench.ask("What is @/no/such.png?")
        await bench.until(
            lambda: any("/no/such.png? does not exist" in n or "/no/such.png" in n for n in bench.notices)
        )
        assert len(bench.talk.turns) == 1 and bench.main.prompt.text


@asyncio_test
async def test_a_pasted_path_attaches_and_other_text_is_typed(tmp_path: Path) -> None:
    red = picture(tmp_path, "my red.png")
    async with running(tmp_path / "home") as bench:
        bench.app.post_message(events.Paste(f"'{red}' "))
        await bench.until(lambda: len(cards(bench)) == 1)
        bench.app.post_message(events.Paste("just words"))
        await bench.until(lambda: bench.main.prompt.text == "just words")
        assert len(cards(bench)) == 1


@asyncio_test
async def test_a_file_that_is_no_picture_is_told_beside_its_name(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    async with running(tmp_path / "home", ["fine"], media=[tmp_path / "bad.png"]) as bench:
        await bench.until(lambda: cards(bench) and "is not a picture that can be read" in cards(bench)[0])
        await bench.ask_and_wait("Without it")
        assert bench.answers == ["fine"] and bench.talk.turns[0].numbers == ()


@asyncio_test
async def test_a_question_about_a_bad_picture_comes_back(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    async with running(tmp_path / "home", media=[tmp_path / "bad.png"], loading=True) as bench:
        await bench.ask("What is it?")
        bench.engine.loading.clear()
        await bench.until(lambda: bench.main.prompt.text == "What is it?")
        assert not bench.exchanges and any("cannot be shown" in notice for notice in bench.notices)


@asyncio_test
async def test_a_video_shows_the_times_that_the_model_was_given(tmp_path: Path) -> None:
    film = video(tmp_path / "film.avi")
    async with running(tmp_path / "home", ["moves"], media=[film], settings=Settings(frames=3)) as bench:
        await bench.until(lambda: cards(bench) and "3 of 30 frames" in cards(bench)[0])
        times = bench.talk.shelf.items[0].attached.times_s  # type: ignore[union-attr]
        assert len(times) == 3 and all(f"{time_s:.1f}" in cards(bench)[0] for time_s in times)
        await bench.ask_and_wait("What happens?")
        assert bench.answers == ["moves"]


@asyncio_test
async def test_stopping_an_answer_keeps_what_is_being_attached(tmp_path: Path) -> None:
    async with running(tmp_path / "home", ["1234567890" * 2], piece_s=0.05) as bench:
        await bench.ask("Count")
        await bench.until(lambda: bool(bench.answers and bench.answers[0]))
        await bench.ask(f"/attach {picture(tmp_path)}")
        await bench.pilot.press("escape")
        await bench.until(lambda: cards(bench) and "4 tokens" in cards(bench)[0])


@asyncio_test
async def test_the_example(tmp_path: Path) -> None:
    async with running(tmp_path, ["a red circle"]) as bench:
        assert "F7" in str(bench.main.query_one("Welcome").render())
        await bench.pilot.press("f7", "enter")
        await bench.until(lambda: bench.answers == ["a red circle"])
        assert bench.talk.turns[0].text == "What is this?" and bench.talk.turns[0].numbers == (1,)


@asyncio_test
async def test_tab_completes_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "holiday", "beach.png")
    picture(tmp_path / "holiday", "beach-2.png")
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    async with running(tmp_path / "home") as bench:
        await bench.type("What is @hol")
        await bench.until(lambda: bench.main.prompt.candidates == ["holiday/"])
        assert "holiday/" in bench.text_of("Completions")
        await bench.pilot.press("tab")
        await bench.until(lambda: len(bench.main.prompt.candidates) == 2)
        await bench.pilot.press("tab", "tab")
        assert bench.main.prompt.text in ("What is @holiday/beach-2.png", "What is @holiday/beach.png")


def test_completion_offers_folders_and_media_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.mp4", "c.txt", ".hidden.png"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    assert complete(f"{tmp_path}/") == [f"{tmp_path}/a.png", f"{tmp_path}/b.mp4", f"{tmp_path}/folder/"]
    assert complete(f"{tmp_path}/.h") == [f"{tmp_path}/.hidden.png"]
    assert complete("/no/such/folder/x") == []


def test_which_path_is_being_typed() -> None:
    assert fragment_at_end("/attach my pic") == "my pic"
    assert fragment_at_end("see @a/b") == "a/b"
    assert fragment_at_end('see @"a b') == "a b"
    assert fragment_at_end("me@host") is None
    assert fragment_at_end("plain") is None


def test_paths_in_text(tmp_path: Path) -> None:
    red, spaced = picture(tmp_path), picture(tmp_path, "a b.png")
    assert named_media(f'Is @{red}, or @"{spaced}"?') == ("Is red.png, or a b.png?", [str(red), str(spaced)], [])
    assert named_media("mail me@x.org, see @you") == ("mail me@x.org, see @you", [], [])
    assert named_media("@https://x.org/cat.png what?") == ("cat.png what?", ["https://x.org/cat.png"], [])


def test_pasted_paths(tmp_path: Path) -> None:
    red, spaced = picture(tmp_path), picture(tmp_path, "a b.png")
    assert pasted_paths(f"{red}\n") == [str(red)]
    assert pasted_paths(str(spaced)) == [str(spaced)]
    assert pasted_paths(str(spaced).replace(" ", "\\ ")) == [str(spaced)]
    assert pasted_paths(f"'{red}' '{spaced}'") == [str(red), str(spaced)]
    assert pasted_paths("file://" + str(spaced).replace(" ", "%20")) == [str(spaced)]
    assert pasted_paths("it's words") == [] and pasted_paths(str(tmp_path)) == []


def test_media_by_name(tmp_path: Path) -> None:
    assert media_of("x.MP4", 7).video.frames == 7  # type: ignore[union-attr]
    assert media_of("x.png").video is None
    assert media_of("https://x.org/a%20b.png?size=2").name == "a b.png"


def video(path: Path) -> Path:
    """Thirty frames at 10 a second."""
    from dclocal.video import import_cv2

    cv2 = import_cv2()
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for index in range(30):
        writer.write(np.full((48, 64, 3), index * 8, np.uint8))
    writer.release()
    return path
