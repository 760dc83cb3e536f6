"""The webcam in the app: live, frozen, asked about, watched, lost, and always let go.  The camera is a real stream."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from PIL import Image

from dclocal.history import History
from dclocal.webcam import CameraState
from dclocal.webcam_messages import Said, Seen, Taken
from dclocal.webcam_source import shown_name
from dclocal_tui import pace
from dclocal_tui.paths import camera_source
from dclocal_tui.screens import cameras
from dclocal_tui.screens.cameras import Cameras
from dclocal_tui.talk import PASSED_SHOWN
from dclocal_tui.widgets import conversation
from dclocal_tui.widgets.camera_card import CameraCard
from dclocal_tui.widgets.media_card import MediaCard
from tests.mjpeg import NetworkCamera, number_in, numbered
from tests.test_tui_screens import SIZES, looks
from tests.tui_app import Bench, picture, running

asyncio_test = pytest.mark.asyncio
__all__ = ["looks"]


@pytest.fixture
def server() -> Iterator[NetworkCamera]:
    camera = NetworkCamera()
    yield camera
    camera.unplug()


@pytest.fixture(autouse=True)
def no_camera_is_left() -> Iterator[None]:
    yield
    assert until_gone(camera_processes), "a camera's process is left"


def camera_processes() -> list[psutil.Process]:
    """Those that this process started."""
    found = []
    for child in psutil.Process().children():
        try:
            if "dclocal.webcam_child" in child.cmdline():
                found.append(child)
        except psutil.Error:
            pass
    return found


def until_gone(there: Callable[[], object], timeout_s: float = 3.0) -> bool:
    end = time.monotonic() + timeout_s
    while there():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def card_of(bench: Bench) -> CameraCard | None:
    cards = list(bench.main.query(CameraCard))
    return cards[0] if cards else None


def words(bench: Bench) -> str:
    card = card_of(bench)
    return "" if card is None else card.view.words()


def answers(bench: Bench) -> list[str]:
    """As the conversation has them: a watch's turn may be there before its widget is."""
    return [turn.answer for turn in bench.talk.turns]


def number_shown(bench: Bench) -> int:
    card = card_of(bench)
    return -1 if card is None or card._shown is None else number_in(card._shown.image)


def numbers_asked(bench: Bench) -> list[list[int]]:
    """The numbers in the pictures of each turn, as the engine has them."""
    turns = bench.engine.conversation
    return [[number_in(Image.open(io.BytesIO(media.source))) for media in turn.media] for turn in turns]  # type: ignore[arg-type]


async def open_live(bench: Bench, server: NetworkCamera) -> None:
    await bench.until_idle()
    await bench.ask(f"/webcam {server.url}")
    await bench.until(lambda: "live" in words(bench) and number_shown(bench) >= 0)


class ScriptedCamera:
    """A camera that says what the test has it say; `picture` is what is taken."""

    opened: list[ScriptedCamera] = []  # noqa: RUF012

    def __init__(self, source: str, log: Path, on_said: Callable[[Said], None]):
        self.source, self.name, self.say = source, shown_name(source), on_said
        self.looks, self.takes, self.closed, self.picture = 0, 0, False, numbered(0)
        type(self).opened.append(self)

    def look(self, after: int, side: int) -> None:
        self.looks += 1

    def take(self, shown: int | None = None, watch: int = 0) -> int:
        self.takes += 1
        self.say(Taken(self.takes, self.takes, as_jpeg(self.picture)))
        return self.takes

    def show(self, index: int, image: Image.Image) -> None:
        self.say(CameraState("live"))
        self.say(Seen(index, image.size, as_jpeg(image)))

    def close(self) -> None:
        self.closed = True


def as_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedCamera]:
    """The cameras that are opened."""
    ScriptedCamera.opened = []
    monkeypatch.setattr(Cameras, "open_far_camera", ScriptedCamera)
    monkeypatch.setattr(cameras, "clock", lambda: "12:00:00")
    return ScriptedCamera.opened


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
    async with running(tmp_path, ["one"], encode_s=2.0) as bench:
        await open_live(bench, server)
        await bench.ask("What is this?")
        await bench.until(lambda: bench.talk.pending)
        await bench.pilot.press("escape")
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
