"""What is no video, or no moment of one: one clear line for each."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dclocal import video as video_module
from dclocal.errors import UserError
from dclocal.sampling import open_span, parse_time, show_time
from dclocal.video import VideoError, VideoReader, probe
from tests.numbered_video import HEIGHT, KINDS, STREAMED, WIDTH, make, needs_ffmpeg

pytestmark = needs_ffmpeg


def bad_file(folder: Path, kind: str) -> Path:
    file = folder / f"{kind}.mp4"
    if kind == "text":
        file.write_text("not a video at all\n" * 99)
    elif kind == "empty":
        file.touch()
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "sound":
        subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=0.2", file], check=True)
    elif kind == "cut":
        make(file, 50, KINDS["mp4"])
        file.write_bytes(file.read_bytes()[:1500])
    elif kind == "playlist":  # would open another file
        make(folder / "other.mp4", 5, KINDS["mp4"])
        file.write_text("ffconcat version 1.0\nfile other.mp4\n")
    return file


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("empty", "is empty"),
        ("folder", "is a folder"),
        ("pipe", "not a regular file"),
        ("text", "not a video"),
        ("playlist", "not a video"),
        ("sound", "sound alone, or was cut short"),
        ("cut", "sound alone, or was cut short"),
        ("nul\0", "cannot be a file's name"),
    ],
)
def test_what_is_no_video(tmp_path: Path, kind: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"{kind}.mp4" if "\0" in kind else bad_file(tmp_path, kind)
    with pytest.raises(VideoError, match=message) as caught:
        probe(file)
    assert str(caught.value).isprintable() and " — " in str(caught.value)
    assert capfd.readouterr().err == ""  # nor OpenCV's, nor FFmpeg's own remarks


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(tmp_path / "clip.mkv", 30, STREAMED)
    monkeypatch.setattr(video_module, "MAX_DECODED", 20)
    with pytest.raises(VideoError, match="20 frames were decoded"), VideoReader(file) as reader:
        open_span(reader)
    monkeypatch.setattr(video_module, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(VideoError, match="64×48 pixels"):
        probe(file)


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    file = make(tmp_path / "clip.mkv", 10, STREAMED)
    with VideoReader(file) as reader:
        file.unlink()
        with pytest.raises(VideoError, match="is gone"):
            open_span(reader)


@pytest.mark.parametrize(
    ("text", "seconds"), [("12", 12), ("62.5", 62.5), ("1:02", 62), ("0:01:02.5", 62.5), ("90", 90), ("100:00", 6000)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "1:60", "1:2:3:4", "1,5", "1e3", "٣"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="write 12, 1:02"):
        parse_time(text)


def test_times_are_shown() -> None:
    assert [show_time(value) for value in (1.94, 59.96, 723, 3605.5)] == ["0:01.9", "1:00.0", "12:03.0", "1:00:05.5"]
