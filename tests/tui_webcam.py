"""What the tests of the webcam in the app share: a real stream, a scripted camera, and looks at the screen."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from dclocal.webcam import CameraState
from dclocal.webcam_messages import Said, Seen, Taken
from dclocal.webcam_source import shown_name
from dclocal_tui.screens import cameras
from dclocal_tui.screens.cameras import Cameras
from dclocal_tui.widgets.camera_card import CameraCard
from tests.mjpeg import NetworkCamera, number_in, numbered
from tests.tui_app import Bench


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
