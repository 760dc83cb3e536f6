"""A picture is pasted from the system's clipboard; where there is none, one line says what to do."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageGrab

from dclocal_tui.clipboard import ClipboardError, grab
from tests.tui_app import Bench, picture, running

asyncio_test = pytest.mark.asyncio
linux = pytest.mark.skipif(sys.platform != "linux", reason="stands in for wl-paste")


def holds(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    """The clipboard holds this, or reading it raises it."""

    def grabclipboard() -> Any:
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(ImageGrab, "grabclipboard", grabclipboard)


def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The only wl-paste on the path runs this script."""
    folder.mkdir()
    (folder / "wl-paste").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "wl-paste").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")


def grabbed() -> Image.Image:
    data = grab()
    assert isinstance(data, bytes)
    return Image.open(io.BytesIO(data), formats=["PNG"])


@pytest.mark.parametrize(
    ("mode", "colour", "kept"),
    [
        ("RGB", (200, 10, 20), ("RGB", (200, 10, 20))),
        ("RGBA", (200, 10, 20, 90), ("RGBA", (200, 10, 20, 90))),
        ("L", 77, ("RGB", (77, 77, 77))),
        ("LA", (77, 90), ("RGBA", (77, 77, 77, 90))),
        ("CMYK", (0, 0, 0, 255), ("RGB", (0, 0, 0))),
    ],
)
def test_any_kind_of_picture_is_a_png(monkeypatch: pytest.MonkeyPatch, mode: str, colour: Any, kept: Any) -> None:
    holds(monkeypatch, Image.new(mode, (8, 6), colour))
    found = grabbed()
    assert (found.mode, found.getpixel((3, 3))) == kept and found.size == (8, 6)


def test_copied_files_are_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, ["/a/x.png", "/a/notes.txt", "/a/clip.mp4"])
    assert grab() == ("/a/x.png", "/a/clip.mp4")
    holds(monkeypatch, ["/a/notes.txt"])
    with pytest.raises(ClipboardError, match="neither pictures nor videos"):
        grab()


def test_an_empty_clipboard_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, None)
    with pytest.raises(ClipboardError, match="there is no picture in the clipboard"):
        grab()


@linux
def test_without_a_tool_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClipboardError, match="install wl-clipboard .Wayland. or xclip"):
        grab()


def test_a_failing_tool_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, ChildProcessError("xclip error: Can't open display:\n(null)"))
    with pytest.raises(ClipboardError, match=r"cannot be read \(xclip error: Can't open display: \(null\)\)"):
        grab()


def test_a_picture_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dclocal_tui.clipboard.MAX_PIXELS", 100)
    holds(monkeypatch, Image.new("RGB", (11, 10)))
    with pytest.raises(ClipboardError, match="11×10 pixels"):
        grab()


@linux
def test_a_tool_that_never_answers_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path / "bin", monkeypatch, "exec sleep 3")
    started = time.monotonic()
    with pytest.raises(ClipboardError, match="within 0 s"):
        grab(limit_s=0.2)
    assert time.monotonic() - started < 2


@linux
@pytest.mark.parametrize("says", ["Nothing is copied", "No suitable type of content copied"])
def test_the_tool_says_that_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    tool(tmp_path / "bin", monkeypatch, f"echo '{says}' >&2; exit 1")
    with pytest.raises(ClipboardError, match="there is no picture"):
        grab()


@linux
def test_the_tool_gives_what_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path / "bin", monkeypatch, "echo no picture")
    with pytest.raises(ClipboardError, match="cannot be read"):
        grab()


def kept(bench: Bench) -> list[tuple[str, Any]]:
    """The media of the conversation as the history has them."""
    bench.app.recorder.wait()
    session = bench.app.recorder.session
    assert session is not None
    return [(file.name, file.source) for file in bench.app.history.load(session).messages[0].media]


@linux
@asyncio_test
@pytest.mark.parametrize("way", ["f10", "/paste"])
async def test_a_pasted_picture_is_attached_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    tool(tmp_path / "bin", monkeypatch, f"cat {picture(tmp_path)}")
    async with running(tmp_path / "home", ["red"]) as bench:
        await bench.until_idle()
        await (bench.ask(way) if way.startswith("/") else bench.pilot.press(way))
        await bench.until(lambda: [item.name for item in bench.talk.shelf.items] == ["clipboard.png"])
        await bench.ask_and_wait("Which colour?")
        ((name, source),) = kept(bench)
        assert name == "clipboard.png" and source.parent == tmp_path / "home" / "media"
        with Image.open(source) as saved:
            assert saved.size == (40, 30) and saved.getpixel((0, 0)) == (255, 0, 0)


@asyncio_test
async def test_copied_files_are_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, [str(picture(tmp_path)), str(picture(tmp_path, "blue.png", "blue"))])
    async with running(tmp_path / "home") as bench:
        await bench.pilot.press("f10")
        await bench.until(lambda: [item.name for item in bench.talk.shelf.items] == ["red.png", "blue.png"])


@asyncio_test
async def test_trouble_with_the_clipboard_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(monkeypatch, NotImplementedError("wl-paste or xclip is required"))
    async with running(tmp_path / "home") as bench:
        await bench.pilot.press("f10")
        await bench.until(lambda: bench.notices)
        assert bench.notices[0].startswith("no program here reads the clipboard — ") and "\n" not in bench.notices[0]
        assert not bench.talk.shelf.items


@asyncio_test
async def test_one_types_on_while_the_clipboard_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: time.sleep(1))
    async with running(tmp_path / "home") as bench:
        await bench.until_idle()
        started = time.monotonic()
        await bench.pilot.press("f10", *"hello")
        assert bench.main.prompt.text == "hello" and time.monotonic() - started < 1
        await bench.until(lambda: any("no picture in the clipboard" in notice for notice in bench.notices))
