"""Videos as people have them: the right frames, at the times that ffprobe says."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal.prefetch import prefetch
from dclocal.sampling import frames_at, largest_changes, open_span, sample, scene_times
from dclocal.video import Frame, VideoError, VideoReader, probe
from tests.numbered_video import HEIGHT, KINDS, STREAMED, WIDTH, make, needs_ffmpeg, number_in

pytestmark = needs_ffmpeg
TEN_BITS = ["-c:v", "libx264", "-pix_fmt", "yuv420p10le"]
EVERY = ["-vf", "select='not(mod(n\\,7))+not(mod(n\\,11))'", "-vsync", "vfr"]


def probed_times(file: Path) -> list[float]:
    """When each frame is shown, by ffprobe."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "frame=best_effort_timestamp_time"]
    done = subprocess.run([*command, "-of", "json", str(file)], capture_output=True, check=True)
    return [float(frame["best_effort_timestamp_time"]) for frame in json.loads(done.stdout)["frames"]]


def shown(times: list[float], wanted: list[float]) -> list[int]:
    """The frame that is shown at each moment, by its definition."""
    return [max(index for index, start in enumerate(times) if start <= moment + 1e-9) for moment in wanted]


def check(file: Path, count: int = 8, numbers: Callable[[int], int] = lambda index: index) -> list[Frame]:
    """Samples agree with ffprobe to the frame, and carry the numbers that they should."""
    times = probed_times(file)
    frames = list(sample(file, count))
    with VideoReader(file) as reader:
        span = open_span(reader)
    wanted = [(part + 0.5) * span.duration_s / count for part in range(count)]
    expected = sorted(set(shown(times, wanted)))
    assert [frame.index for frame in frames] == expected
    assert [frame.time_s for frame in frames] == pytest.approx([times[index] for index in expected], abs=1e-3)
    assert [number_in(frame.image) for frame in frames] == [numbers(index) for index in expected]
    return frames


@pytest.mark.parametrize("suffix", KINDS)
def test_every_container(tmp_path: Path, suffix: str) -> None:
    file = make(tmp_path / f"clip.{suffix}", 50, KINDS[suffix])
    frames = check(file)
    info = probe(file)
    assert len(frames) == 8 and (info.width, info.height, info.fps) == (WIDTH, HEIGHT, 25)
    assert info.duration_s == pytest.approx(2.0, abs=0.05) and info.frame_count == 50


def test_ten_bits_and_odd_sizes(tmp_path: Path) -> None:
    check(make(tmp_path / "ten.mp4", 30, TEN_BITS))
    odd = make(tmp_path / "odd.mkv", 20, ["-c:v", "ffv1"], width=63, height=47)
    assert check(odd)[0].image.size == (63, 47)
    one = make(tmp_path / "one.mkv", 3, ["-c:v", "ffv1"], width=1, height=1)
    assert [frame.image.size for frame in sample(one, 5)] == [(1, 1)] * 3


def test_a_stream_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    file = make(tmp_path / "stream.mkv", 40, STREAMED)
    info = probe(file)
    assert (info.duration_s, info.frame_count, info.seekable) == (None, None, False)
    check(file)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_goes_by_time(tmp_path: Path, suffix: str) -> None:
    """A slideshow or a phone's film: frame 10 of 20 is not what is shown at half time."""
    kept = [number for number in range(100) if number % 7 == 0 or number % 11 == 0]
    file = make(tmp_path / f"vfr.{suffix}", 100, [*EVERY, "-c:v", "libx264", "-pix_fmt", "yuv420p"])
    assert len(probed_times(file)) == len(kept)
    check(file, 6, lambda index: kept[index])


def test_rotated_films_are_upright(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain.mp4", 10, KINDS["mp4"])
    turned = tmp_path / "turned.mp4"
    command = ["ffmpeg", "-v", "error", "-i", plain, "-metadata:s:v", "rotate=90", "-c", "copy", turned]
    subprocess.run(command, check=True)
    info, frame = probe(turned), next(iter(sample(turned, 1)))
    assert (info.width, info.height) == frame.image.size == (HEIGHT, WIDTH)
    picked = ["-vf", f"select=eq(n\\,{frame.index})", "-frames:v", "1", tmp_path / "upright.png"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", turned, *picked], check=True)  # which turns by itself
    expected = Image.open(tmp_path / "upright.png").convert("L").point(lambda value: 255 * (value > 127))
    found = frame.image.convert("L").point(lambda value: 255 * (value > 127))
    assert np.mean(np.asarray(expected) == np.asarray(found)) > 0.99


def test_a_long_film_is_jumped_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve hours must not be read whole; and where jumps fail, it is decoded instead, to the same frames."""
    file = make(tmp_path / "long.mp4", 1000, [*KINDS["mp4"], "-preset", "ultrafast"], fps=25)
    with VideoReader(file) as reader:
        jumped = list(frames_at(reader, [1.0, 19.99, 38.0]))
        assert reader.decoded < 250
    monkeypatch.setattr(VideoReader, "seek", lambda self, time_s: self.reopen())
    with VideoReader(file) as reader:
        decoded = list(frames_at(reader, [1.0, 19.99, 38.0]))
    for frames in (jumped, decoded):
        assert [(frame.index, number_in(frame.image)) for frame in frames] == [(25, 25), (499, 499), (950, 950)]
        assert [frame.time_s for frame in frames] == pytest.approx([1.0, 19.96, 38.0])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system does not count what is read")
def test_twelve_hours_are_not_read(tmp_path: Path) -> None:
    noise = "nullsrc=s=64x48:r=0.05:d=43200,geq=random(1)*255:128:128"
    file = tmp_path / "long.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", noise, "-c:v", "mpeg4", "-g", "10", "-q:v", "1", file]
    subprocess.run(command, check=True)

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    before = read_bytes()
    frames = list(sample(file, 4))
    assert [frame.time_s for frame in frames] == pytest.approx([5400, 16200, 27000, 37800], abs=21)
    assert read_bytes() - before < file.stat().st_size / 4


def test_a_part(tmp_path: Path) -> None:
    file = make(tmp_path / "clip.mp4", 50, KINDS["mp4"])
    assert [frame.index for frame in sample(file, 2, 1.0, 1.4)] == [27, 32]  # at 1.1 s and 1.3 s
    assert [frame.index for frame in sample(file, 100, 1.9, 99)] == [47, 48, 49]
    for start, end, message in ((2.0, None, "is 0:02.0 long"), (1.0, 0.5, "is empty")):
        with pytest.raises(VideoError, match=message):
            list(sample(file, 2, start, end))


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_broken_tail(tmp_path: Path, suffix: str) -> None:
    """What was decoded is used, and that something is missing is known."""
    file = make(tmp_path / f"clip.{suffix}", 100, KINDS[suffix])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with VideoReader(file) as reader:
        span = open_span(reader)
        frames = list(frames_at(reader, [0.1, 0.5, 3.9]))
        assert span.duration_s == pytest.approx(4.0, abs=0.1)
        assert [frame.index for frame in frames] == [2, 12]
        assert reader.broken_off_s is not None and 0.5 < reader.broken_off_s < 3


def test_scenes(tmp_path: Path) -> None:
    """Frame 0, and where the number's squares change most: here where it jumps."""
    colours = [(200, 0, 0)] * 11 + [(0, 200, 0)] * 17 + [(0, 0, 255)] * 12
    raw = b"".join(bytes(colour) * (WIDTH * HEIGHT) for colour in colours)
    file = tmp_path / "scenes.mp4"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", "10", "-i", "-"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-pix_fmt", "yuv420p", file], input=raw, check=True)
    with VideoReader(file) as reader:
        times = scene_times(reader, open_span(reader), 3)
        frames = list(frames_at(reader, times))
    assert times == pytest.approx([0.0, 1.1, 2.8]) and [frame.index for frame in frames] == [0, 11, 28]


def test_changes_keep_their_distance() -> None:
    times = [0.0, 1.0, 1.1, 5.0, 9.0]
    assert largest_changes(times, [0, 9, 8, 7, 1], 3, 0.5) == [0.0, 1.0, 5.0]
    assert largest_changes(times, [0, 9, 8, 7, 1], 9, 0.5) == [0.0, 1.0, 5.0, 9.0]
    assert largest_changes([], [], 3, 0.5) == []


def test_calling_off_leaves_no_thread() -> None:
    made = []

    def work(stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
        for number in range(1000):
            made.append(number)
            yield number

    before = threading.active_count()
    items = prefetch(work, depth=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 5  # no more than the depth ahead
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_several_threads_give_all_they_have() -> None:
    """Each waits for the other once, so that one after the other they would never end."""
    both = threading.Barrier(2)

    def work(stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
        both.wait(timeout=20)
        yield from range(5)

    before = threading.active_count()
    assert sorted(prefetch(work, work)) == sorted([*range(5)] * 2)
    assert threading.active_count() == before


def test_a_threads_error_is_raised_after_what_it_gave() -> None:
    def work(stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
        yield 1
        raise VideoError("broken")

    items = prefetch(work)
    assert next(items) == 1
    with pytest.raises(VideoError, match="broken"):
        next(items)
