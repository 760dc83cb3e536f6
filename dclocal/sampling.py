"""Which frames of a video are looked at: spread evenly, or where the scene changes; by the times they are shown at."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dclocal.files import printable
from dclocal.video import Frame, VideoError, VideoReader

LEAD_S = 0.25
"""From so long before a wanted time on, frames are kept until the next one's time is known."""
SEEK_FRAMES = 250
"""A gap of more frames than this is jumped, not decoded: x264's greatest distance between key frames."""
END_TOLERANCE_S = 1.0
MAX_FRAMES = 4096
THUMBNAIL = (32, 18)
MAX_CANDIDATES = 3000
GAP_SHARE = 4
"""Two frames of scene sampling are at least span / (frames · GAP_SHARE) apart."""


@dataclass(frozen=True)
class Span:
    """The part of a video that is looked at, in seconds, and what the whole has."""

    start_s: float
    end_s: float
    duration_s: float
    frame_count: int

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


def never() -> bool:
    """The work is not called off."""
    return False


def parse_time(text: str) -> float:
    """Seconds from "12", "62.5", "1:02" or "0:01:02.5".  Raises VideoError."""
    if not re.fullmatch(r"(\d{1,6}:)?(\d{1,6}:)?\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        raise VideoError(f"the time {printable(text)!r:.60} cannot be read", "write 12, 1:02 or 0:01:02.5")
    parts = [float(part) for part in text.split(":")]
    if any(part >= 60 for part in parts[1:]):
        raise VideoError(f"the time {text!r:.60} has 60 or more after a colon", "write 12, 1:02 or 0:01:02.5")
    seconds = 0.0
    for part in parts:
        seconds = 60 * seconds + part
    return seconds


def show_time(seconds: float) -> str:
    """As people write it: 0:01.9, 12:03.0, 1:00:05.5."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}" if hours else str(minutes)
    return f"{clock}:{rest / 10:04.1f}"


def open_span(
    reader: VideoReader, start_s: float | None = None, end_s: float | None = None, stop: Callable[[], bool] = never
) -> Span:
    """The part from `start_s` to `end_s` (None: to the end) of what `reader` holds.

    A file that does not say how long it is, is decoded once to find out.  Raises VideoError for a part that is empty.
    """
    info, start = reader.info, start_s or 0.0
    duration, count = info.duration_s, info.frame_count
    if duration is None or count is None:
        duration, count = _measure(reader, stop, float("inf") if end_s is None else end_s)
    end = duration if end_s is None else min(end_s, duration)
    if start >= duration:
        raise VideoError(
            f"{reader.name} is {show_time(duration)} long, the start is {show_time(start)}", "start earlier"
        )
    if start >= end:
        raise VideoError(f"the part from {show_time(start)} to {show_time(end)} is empty", "end later than you start")
    return Span(start, end, duration, count)


def _measure(reader: VideoReader, stop: Callable[[], bool], until_s: float) -> tuple[float, int]:
    """Seconds and frames, by decoding them all, or those up to `until_s`."""
    reader.reopen()
    last = 0.0
    while reader.next_time_s is not None and last < until_s and not stop():
        last = reader.next_time_s
        reader.skip()
    count = reader.next_index
    reader.reopen()
    step = last / (count - 1) if count > 1 else 1 / reader.info.fps
    return last + step, count


def uniform_times(span: Span, count: int) -> list[float]:
    """The centres of `count` equal parts, in seconds."""
    return [span.start_s + (index + 0.5) * span.seconds / count for index in range(count)]


def frames_at_rate(span: Span, fps: float) -> int:
    """How many frames `fps` of them a second are, at least one.  Raises VideoError beyond MAX_FRAMES."""
    count = max(1, math.floor(span.seconds * fps + 0.5))
    if count > MAX_FRAMES:
        raise VideoError(
            f"{fps:g} frames a second of {show_time(span.seconds)} are {count:,} frames", f"take at most {MAX_FRAMES:,}"
        )
    return count


def frames_at(reader: VideoReader, times: Sequence[float], stop: Callable[[], bool] = never) -> Iterator[Frame]:
    """The frame that is shown at each of `times` (seconds, ascending), each frame once.

    Ends early where the file breaks off before its stated end, and notes that in `reader`.  Raises VideoError.
    """
    shown: Frame | None = None
    given, longest = -1.0, 0.0
    for time_s in times:
        here = shown.time_s if shown else 0.0
        if reader.info.seekable and (time_s - here) * reader.info.fps > SEEK_FRAMES and reader.next_time_s is not None:
            shown = None
            reader.seek(time_s)
        passed, longest = _pass_over(reader, time_s - LEAD_S, longest, stop)
        if passed:
            shown = None
            if reader.next_time_s is None or reader.next_time_s > time_s:  # the last one passed over is shown then
                reader.seek(time_s)
        while reader.next_time_s is not None and (shown is None or reader.next_time_s <= time_s):
            if stop():
                return
            if (frame := reader.take()) is None:
                break
            longest = max(longest, frame.time_s - shown.time_s) if shown else longest
            shown = frame
        if shown is None or _broken_off(reader, shown, time_s, longest):
            reader.broken_off_s = shown.time_s if shown else here
            return
        if shown.time_s > given:
            given = shown.time_s
            yield shown


def _pass_over(reader: VideoReader, end_s: float, longest: float, stop: Callable[[], bool]) -> tuple[int, float]:
    """Decode frames before `end_s` without making pictures of them; how many, and the longest that any was shown."""
    passed = 0
    while reader.next_time_s is not None and reader.next_time_s < end_s and not stop():
        before = reader.next_time_s
        reader.skip()
        passed += 1
        longest = max(longest, reader.next_time_s - before) if reader.next_time_s is not None else longest
    return passed, longest


def _broken_off(reader: VideoReader, last: Frame, time_s: float, longest: float) -> bool:
    """Whether the frames ended long before `time_s`: later than a frame of this video may be shown."""
    if reader.next_time_s is not None or last.index + 1 == reader.info.frame_count:
        return False
    return time_s - last.time_s > max(END_TOLERANCE_S, 1.5 / reader.info.fps, longest)


def scene_times(
    reader: VideoReader,
    span: Span,
    count: int,
    stop: Callable[[], bool] = never,
    on_frame: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """When the `count` largest changes happen, the span's first frame always among them; leaves `reader` anew.

    A change is the mean difference of small grey pictures of neighbouring frames, of at most MAX_CANDIDATES.
    """
    candidates = max(1, min(MAX_CANDIDATES, math.ceil(span.seconds * reader.info.fps)))
    step = span.seconds / candidates
    wanted = [span.start_s + index * step for index in range(candidates)]
    times: list[float] = []
    changes: list[float] = []
    before: np.ndarray | None = None
    for frame in frames_at(reader, wanted, stop):
        grey = np.asarray(frame.image.convert("L").resize(THUMBNAIL), np.float32)
        changes.append(0.0 if before is None else float(np.abs(grey - before).mean()))
        times.append(max(frame.time_s, span.start_s))
        before = grey
        on_frame(len(times), candidates)
    reader.reopen()
    return largest_changes(times, changes, count, span.seconds / (count * GAP_SHARE))


def largest_changes(times: Sequence[float], changes: Sequence[float], count: int, gap_s: float) -> list[float]:
    """Up to `count` of `times`, ascending: the first, then those of the largest `changes` that lie `gap_s` apart."""
    chosen = list(times[:1])
    for index in sorted(range(1, len(times)), key=lambda index: (-changes[index], index)):
        if len(chosen) >= count:
            break
        if all(abs(times[index] - other) >= gap_s for other in chosen):
            chosen.append(times[index])
    return sorted(chosen)


def sample(path: str | Path, count: int, start_s: float | None = None, end_s: float | None = None) -> Iterator[Frame]:
    """`count` frames of a video file, spread evenly over a part of it."""
    with VideoReader(path) as reader:
        span = open_span(reader, start_s, end_s)
        yield from frames_at(reader, uniform_times(span, count))
