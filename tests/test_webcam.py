"""Cameras as they are: pictures that are never old, a cable that is pulled, a covered lens, and addresses that are
none.  The stream is real: motion JPEG over HTTP, each picture with its number."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dclocal import webcam as webcam_module
from dclocal import webcam_source
from dclocal.errors import UserError
from dclocal.video import FILE_OPTIONS, OPENING, OPTIONS_VARIABLE, VideoError, VideoReader
from dclocal.webcam import Camera
from dclocal.webcam_source import CameraError, kind_of, open_source, shown_name
from tests.mjpeg import NetworkCamera, number_in

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def until(true: Callable[[], object], timeout_s: float = 10.0) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert until(lambda: not [thread for thread in threading.enumerate() if thread.name in ("camera", "live")], 1)


def test_a_slow_reader_gets_the_newest_not_the_next(server: NetworkCamera) -> None:
    with Camera(server.url) as camera:
        first = camera.first()
        for _ in range(3):
            time.sleep(0.7)  # 14 pictures
            frame = camera.newest()
            assert frame is not None and server.sent - number_in(frame.image) <= 3
            assert frame.index - first.index >= 8
            first = frame
        assert camera.newest(frame.index + 100) is None  # nothing newer yet
        following = camera.newest(frame.index, timeout_s=2)
        assert following is not None and following.index > frame.index and following.time_s > frame.time_s


def test_it_connects_again_with_growing_pauses(server: NetworkCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    tried: list[float] = []
    real = webcam_module.open_source

    def counted(source: str) -> webcam_source.Source:
        tried.append(time.monotonic())
        return real(source)

    monkeypatch.setattr(webcam_module, "open_source", counted)
    with Camera(server.url) as camera:
        last = camera.first()
        camera.on_state = lambda state: states.append(state.name)
        server.unplug()
        assert until(lambda: camera.state.name == "lost", 8)
        assert "stopped giving pictures" in camera.state.problem
        assert until(lambda: len(tried) >= 4, 8)
        assert camera.state.name == "missing" and camera.newest() is not None  # the last picture is still there
        server.plug()
        assert until(lambda: camera.state.name == "live", 10)
        frame = camera.newest()
        assert frame is not None and frame.index > last.index
    assert states[:2] == ["lost", "missing"] and states[-2:] == ["live", "closed"]
    pauses = np.diff(tried[1:4])
    assert 0.5 < pauses[0] < pauses[1] < 4 and pauses[1] >= 1.9  # 1 s and 2 s, after the first half


def test_a_covered_lens(server: NetworkCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam_module, "BLACK_S", 0.5)
    with Camera(server.url) as camera:
        camera.first()
        began = time.monotonic()
        server.mode = "black"
        assert until(lambda: camera.state.name == "black", 4)
        assert time.monotonic() - began > 0.45 and "lens" in camera.state.problem
        server.mode = "count"
        assert until(lambda: camera.state.name == "live", 4)


def test_a_stalled_stream_ends_in_time(server: NetworkCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam_source, "TIMEOUT_MS", 1000)
    with Camera(server.url) as camera:
        camera.first()
        server.mode = "stall"
        assert until(lambda: camera.state.name == "lost", 4)
        server.mode = "count"
        assert until(lambda: camera.state.name == "live", 8)
        server.mode = "stall"
        closing = time.monotonic()
    assert time.monotonic() - closing < 3


def test_what_is_not_there() -> None:
    for source, message in (
        ("/dev/video97", "/dev/video97 does not exist"),
        ("97", "does not exist"),
        ("http://user:secret@127.0.0.1:9/x", "http://127.0.0.1:9/x gives no pictures"),
        ("clip-that-is-none.mp4", "does not exist"),
    ):
        started = time.monotonic()
        with Camera(source) as camera, pytest.raises(UserError, match=message) as caught:
            camera.first()
        assert "secret" not in str(caught.value) and " — " in str(caught.value)
        assert time.monotonic() - started < 5


def test_a_device_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webcam_source, "_check_device", lambda path, source: None)  # it is there, and does not open
    with pytest.raises(CameraError, match="close the program that is using it") as caught:
        open_source("/dev/video97")
    assert caught.value.state == "busy"


def test_addresses() -> None:
    assert [kind_of(text) for text in ("0", "/dev/video2", "rtsp://a/b", "HTTP://a/", "clip.mp4", "12/a.mp4")] == [
        "device", "device", "stream", "stream", "file", "file",
    ]  # fmt: skip
    for text in ("ftp://a/b", "file:///etc/passwd", "concat://a|b", "http://", "http://a/\n", "http://[a/"):
        with pytest.raises(CameraError, match="no address of a camera"):
            kind_of(text)
    assert shown_name("rtsp://me:p@ss@cam/1") == "rtsp://cam/1" and shown_name("http://a/@b") == "http://a/@b"


@needs_ffmpeg
def test_streams_reach_no_file_and_files_no_network(
    server: NetworkCamera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers with a playlist of files is refused; and the allowance is gone when a stream is open."""
    clip = make_clip(tmp_path, 1)
    with Camera(server.url) as camera:
        camera.first()
        assert os.environ[OPTIONS_VARIABLE] == FILE_OPTIONS and "http" not in FILE_OPTIONS
        with VideoReader(clip) as reader:
            assert reader.info.frame_count == 25
        with pytest.raises(VideoError):
            VideoReader(server.url)
    server.playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    with pytest.raises(CameraError, match="gives no pictures"):
        open_source(server.url)
    import cv2

    with webcam_source._streams_allowed():
        assert not cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG).isOpened()
        assert not cv2.VideoCapture(f"concat:{clip}|{clip}", cv2.CAP_FFMPEG).isOpened()
        assert OPENING.locked()
    assert cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG).isOpened()
    monkeypatch.setenv(OPTIONS_VARIABLE, "mine;1")
    with webcam_source._streams_allowed():
        assert os.environ[OPTIONS_VARIABLE] == "mine;1"


def make_clip(folder: Path, seconds: int) -> Path:
    file = folder / "clip.mp4"
    source = ["-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d={seconds}"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-pix_fmt", "yuv420p", file], check=True)
    return file


@needs_ffmpeg
def test_a_file_plays_in_real_time(tmp_path: Path) -> None:
    with Camera(str(make_clip(tmp_path, 2))) as camera:
        camera.first()
        started = time.monotonic()
        time.sleep(1.0)
        frame = camera.newest()
        assert frame is not None and frame.time_s == pytest.approx(1.0, abs=0.35)
        assert until(lambda: camera.over, 4) and 1.6 < time.monotonic() - started < 3
        assert camera.state.name == "ended" and camera.state.problem == ""
        frame = camera.newest()
        assert frame is not None and frame.time_s == pytest.approx(1.96, abs=0.001)


@needs_ffmpeg
def test_a_slow_machine_passes_frames_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose frames take longer than they last must not fall behind the clock."""
    real = Camera._seen
    monkeypatch.setattr(Camera, "_seen", lambda *given: (time.sleep(0.2), real(*given))[1])
    with Camera(str(make_clip(tmp_path, 2))) as camera:
        camera.first()
        started = time.monotonic()
        assert until(lambda: camera.over, 6)
        assert time.monotonic() - started < 3.2
        frame = camera.newest()
        assert frame is not None and frame.index < 15
