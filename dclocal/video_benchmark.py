"""What a question about a video costs on this machine: each stage's time, and counts of the work that it did."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from dclocal.benchmark import Measure
from dclocal.chat import ChatSession, PromptReady, TextPiece
from dclocal.frames import VideoRequest, attach_video, batches
from dclocal.progress import Progress
from dclocal.prompt import Tokens
from dclocal.sampling import frames_at, open_span, uniform_times
from dclocal.video import Frame, VideoError, VideoReader, import_cv2

if TYPE_CHECKING:
    from dclocal.chat import Attachment, Vision

FRAMES = 16
QUESTIONS = ("What happens in the video?", "What is to be seen at the end?")
FPS = 30
Value = TypeVar("Value")


@dataclass(frozen=True)
class Times:
    """Milliseconds of one run's stages.

    `decode`: opening the file and decoding as far as the last frame that is wanted; `fit`: the frames to pixels;
    `encode`: pixels to embeddings; `frames_ready`: all of these from an open file, decoding beside encoding, as
    `dclocal video` does it; `prefill`: the first question's; `first_token` and `second_question`: from asking to the
    first piece of the answer.
    """

    decode: float
    fit: float
    encode: float
    frames_ready: float
    prefill: float
    first_token: float
    second_question: float


@dataclass(frozen=True)
class Counts:
    """The work of one run, the same in each: frames decoded to find those that are shown, calls of the vision encoder
    and the frames they encoded, and the tokens of each question's prompt that were not in the cache."""

    frames_shown: int
    frames_decoded: int
    encoder_calls: int
    frames_encoded: int
    tokens_per_frame: int
    tokens_prefilled: int
    tokens_prefilled_second: int


@dataclass(frozen=True)
class VideoBenchmark:
    """A video's measures, in milliseconds, and counts; `video` says what it is."""

    video: str
    measures: tuple[Measure, ...]
    counts: Counts


class CountedVision:
    """A vision encoder that counts its calls and their pictures."""

    def __init__(self, vision: Vision):
        self._vision = vision
        self.calls = self.pictures = 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[n, 3, size, size]` to float32 `[n, tokens, n_embd]`."""
        self.calls += 1
        self.pictures += len(pixels)
        return self._vision.encode(pixels)


def measure_video(
    session: ChatSession, file: Path, runs: int, progress: Progress, frames: int = FRAMES
) -> VideoBenchmark:
    """Every stage, `runs` times each after one warm-up, of asking twice about `frames` frames of a video.

    Raises VideoError, or PromptError where the frames do not fit the context.
    """
    found = []
    for run in range(runs + 1):
        progress("measuring the video", run, runs + 1)
        found.append(_run(session, file, frames))
    progress("measuring the video", runs + 1, runs + 1)
    times, counts = [one for one, _ in found[1:]], found[-1][1]
    measures = tuple(_measure(label, [getattr(one, name) for one in times]) for name, label in _labels(counts).items())
    with VideoReader(file) as reader:
        info = reader.info
    length = "" if info.duration_s is None else f", {info.duration_s:.1f} s"
    return VideoBenchmark(f"{info.width}×{info.height}, {info.codec}, {info.fps:g} frames/s{length}", measures, counts)


def _run(session: ChatSession, file: Path, frames: int) -> tuple[Times, Counts]:
    decode, fit, encode = _stages(session, file, frames)
    _empty_cache(session)
    vision = CountedVision(session.vision)
    own = ChatSession(session.bundle, vision, session.llm)
    with VideoReader(file) as reader:
        video, frames_ready = _timed(lambda: attach_video(own, reader, VideoRequest(frames=frames)))
    first = _ask(own, QUESTIONS[0], video.attachments)
    second = _ask(own, QUESTIONS[1], ())
    counts = Counts(
        frames_shown=len(video.frames),
        frames_decoded=reader.decoded,
        encoder_calls=vision.calls,
        frames_encoded=vision.pictures,
        tokens_per_frame=video.tokens_per_frame,
        tokens_prefilled=first.tokens,
        tokens_prefilled_second=second.tokens,
    )
    times = Times(decode, fit, encode, frames_ready, first.prefill_ms, first.first_token_ms, second.first_token_ms)
    return times, counts


def _stages(session: ChatSession, file: Path, frames: int) -> tuple[float, float, float]:
    """Milliseconds of decoding, fitting and encoding, one after the other."""
    pictures, decode = _timed(lambda: _decoded(file, frames))
    prepared, fit = _timed(lambda: list(batches(pictures, session.bundle.manifest.vision.image)))
    pixels = [np.stack([frame.pixels for frame in batch]) for batch in prepared]
    _, encode = _timed(lambda: [session.vision.encode(batch) for batch in pixels])
    return decode, fit, encode


@dataclass(frozen=True)
class _Asked:
    """The tokens of a question's prompt that were evaluated, and milliseconds from asking."""

    tokens: int
    prefill_ms: float
    first_token_ms: float


def _ask(session: ChatSession, question: str, attachments: Sequence[Attachment]) -> _Asked:
    """Ask, and break off after the first piece of the answer."""
    tokens, prefill_ms = 0, 0.0
    started = time.perf_counter()
    with closing(session.ask(question, attachments, temperature=0.0)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, PromptReady):
                tokens, prefill_ms = event.prompt_tokens - event.reused_tokens, event.prefill_ms
            elif isinstance(event, TextPiece):
                break
        return _Asked(tokens, prefill_ms, _milliseconds_since(started))


def _empty_cache(session: ChatSession) -> None:
    """Leave nothing in the KV cache that a prompt with a video begins with."""
    session.llm.prefill([Tokens(tuple(session.llm.tokenize("x", False)))])


def _decoded(file: Path, frames: int) -> list[Frame]:
    with VideoReader(file) as reader:
        return list(frames_at(reader, uniform_times(open_span(reader), frames)))


def _timed(work: Callable[[], Value]) -> tuple[Value, float]:
    started = time.perf_counter()
    return work(), _milliseconds_since(started)


def _milliseconds_since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)


def _labels(counts: Counts) -> dict[str, str]:
    shown = f"{counts.frames_shown} frames"
    return {
        "decode": f"decode {counts.frames_decoded:,} frames, keep {counts.frames_shown}",
        "fit": f"fit {shown} to the encoder",
        "encode": f"encode {shown}",
        "frames_ready": "these three, decoding beside encoding",
        "prefill": f"prefill {counts.tokens_prefilled:,} tokens",
        "first_token": "first question, first token",
        "second_question": "second question, first token",
    }


def _measure(label: str, figures: Sequence[float]) -> Measure:
    return Measure(label, "ms", statistics.median(figures), min(figures), max(figures))


def write_test_card(file: Path, width: int = 1920, height: int = 1080, seconds: int = 60) -> None:
    """A video in which every frame differs, FPS a second: ffmpeg's test card as H.264, or where there is no ffmpeg
    a moving bar on noise by OpenCV as MPEG-4.  Raises VideoError where neither can write it."""
    if (ffmpeg := shutil.which("ffmpeg")) is not None:
        source = f"testsrc2=s={width}x{height}:r={FPS}:d={seconds}"
        command = [ffmpeg, "-v", "error", "-y", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"]
        for codec in (["-c:v", "libx264", "-preset", "veryfast"], ["-c:v", "mpeg4", "-q:v", "4"]):
            if subprocess.run([*command, *codec, str(file)], capture_output=True).returncode == 0:
                return
    _write_moving_bar(file, width, height, seconds)


def _write_moving_bar(file: Path, width: int, height: int, seconds: int) -> None:
    cv2 = import_cv2()
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), float(FPS), (width, height))
    if not writer.isOpened():
        raise VideoError("no test video can be written here", "give one: dclocal bench --video FILE")
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    try:
        for number in range(FPS * seconds):
            frame = np.roll(noise, number, axis=1)
            frame[:, number * width // (FPS * seconds) :][:, : width // 20] = 255
            writer.write(np.ascontiguousarray(frame))
    finally:
        writer.release()
