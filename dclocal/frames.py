"""The frames of a video into a conversation: planned, decoded in a thread, encoded meanwhile, pooled, attached."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dclocal.images import image_key, to_pixels
from dclocal.manifest import ImageSpec, VideoDefaults
from dclocal.pooling import pool_tokens
from dclocal.prefetch import prefetch
from dclocal.progress import Progress, silent
from dclocal.prompt import Message, TokenRun, render, token_runs
from dclocal.sampling import Span, frames_at, frames_at_rate, never, open_span, scene_times, show_time, uniform_times
from dclocal.video import Frame, VideoError, VideoReader
from dclocal.video_plan import frame_choices, plan_video

if TYPE_CHECKING:
    from dclocal.chat import Attachment, ChatSession

BATCH = 4
ANSWER_SHARE = 4
"""However long an answer may be, no more than this part of the context is kept for it."""
TALK_TOKENS = 256
"""Kept for a question that is not known yet."""


@dataclass(frozen=True)
class VideoRequest:
    """Which frames of a video, and how many tokens of each; None is the bundle's choice or the whole video.

    `fps` frames a second take the place of `frames`; `sample` is uniform or scene; `pool` and `times` are as in
    `manifest.VideoDefaults`.
    """

    frames: int | None = None
    fps: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    sample: str = "uniform"
    tokens_per_frame: int | None = None
    pool: str | None = None
    times: bool | None = None

    def over(self, defaults: VideoDefaults) -> VideoDefaults:
        """The bundle's way with frames, but for what is asked for."""
        pool = defaults.pool if self.pool is None else self.pool
        return dataclasses.replace(defaults, pool=pool, times=defaults.times if self.times is None else self.times)


@dataclass(frozen=True)
class FrameTime:
    """A frame's number in its video, from 0, and when it is shown."""

    index: int
    time_s: float


@dataclass(frozen=True)
class AttachedVideo:
    """The frames that a conversation was given, in order; `summary` says so in words."""

    attachments: tuple[Attachment, ...]
    frames: tuple[FrameTime, ...]
    tokens_per_frame: int
    summary: str


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame ready for the vision encoder: float32 `[3, size, size]`, and the key of its picture."""

    time_s: float
    index: int
    key: str
    pixels: np.ndarray


def attach_video(
    session: ChatSession,
    reader: VideoReader,
    request: VideoRequest,
    *,
    question: str | None = None,
    max_tokens: int | None = None,
    progress: Progress = silent,
    stop: Callable[[], bool] = never,
) -> AttachedVideo:
    """Sample, encode and pool a video's frames, and make them known to `session`.

    `question` and `max_tokens` are what room is kept for; once `stop` says so, what is there is all.
    Raises VideoError, or PromptError where the frames that are wanted do not fit the context.
    """
    span = open_span(reader, request.start_s, request.end_s, stop)
    wanted = request.frames if request.fps is None else frames_at_rate(span, request.fps)
    manifest = session.bundle.manifest
    video = request.over(manifest.video)
    count, tokens = plan_video(
        wanted,
        request.tokens_per_frame,
        session.llm.n_ctx,
        reserved_tokens(session, question, max_tokens),
        choices=frame_choices(manifest.vision, video.pool),
        defaults=video,
        beside_frame=tokens_beside_frame(session, video, span),
    )

    def frames(closed: Callable[[], bool]) -> Iterator[list[Prepared]]:
        def stopped() -> bool:
            return closed() or stop()

        def searching(done: int, total: int) -> None:
            progress("looking for changes of scene", done, total)

        if request.sample == "scene":
            times = scene_times(reader, span, count, stopped, searching)
        else:
            times = uniform_times(span, count)
        return batches(frames_at(reader, times, stopped), manifest.vision.image)

    attachments, found = [], []
    with closing(prefetch(frames)) as ready:  # type: ignore[type-var]
        for batch in ready:
            attachments += attach_frames(session, batch, tokens, video)
            found += [FrameTime(frame.index, round(frame.time_s, 6)) for frame in batch]
            progress("encoding frames", len(found), count)
    if not found:
        raise VideoError(
            f"{reader.name}: no frame can be decoded from {show_time(span.start_s)} on",
            "the file breaks off there: choose an earlier part with --end",
        )
    if reader.broken_off_s is None:
        progress("encoding frames", len(found), len(found))
    return AttachedVideo(tuple(attachments), tuple(found), tokens, _summary(reader, span, found, count, tokens))


def batches(frames: Iterable[Frame], spec: ImageSpec) -> Iterator[list[Prepared]]:
    """Frames fitted and normalised, BATCH at a time, so that no more than that many pictures are held.

    With AnyRes a frame is one tile: the whole picture.
    """
    if spec.fit == "anyres":
        spec = dataclasses.replace(spec, fit="stretch", pinpoints=())
    batch: list[Prepared] = []
    for frame in frames:
        pixels = to_pixels([frame.image], spec)[0]
        batch.append(Prepared(frame.time_s, frame.index, image_key(frame.image), pixels))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def attach_frames(
    session: ChatSession, batch: Sequence[Prepared], tokens: int, video: VideoDefaults
) -> list[Attachment]:
    """Encode frames at once, keep `tokens` of each, and make them known as pictures of the conversation."""
    spec = session.bundle.manifest.vision
    started = time.perf_counter()
    embeds = session.vision.encode(np.stack([frame.pixels for frame in batch]))
    pooled = pool_tokens(embeds, spec.grid, tokens, video.pool)
    encode_ms = 1000 * (time.perf_counter() - started) / len(batch)
    attachments = []
    for frame, values in zip(batch, pooled):
        label = frame_label(frame.time_s) if video.times else ""
        key = f"{frame.key}:{tokens}:{video.pool}" + (f"@{frame.time_s:.1f}" if label else "")
        attachments.append(session.attach_embeds(key, values, label=label, encode_ms=encode_ms))
    return attachments


def frame_label(time_s: float) -> str:
    """What stands before a frame where the bundle wants its time."""
    return f"At {time_s:.1f} s: "


def reserved_tokens(session: ChatSession, question: str | None, max_tokens: int | None) -> int:
    """The tokens of the text around the frames, and of the answer."""
    manifest = session.bundle.manifest
    said = [message for message in session.messages if message.role == "system"]
    pieces = render(manifest.prompt, [*said, Message("user", question or "?")], answer_next=True)
    runs = token_runs(pieces, session.llm.tokenize)
    text = sum(len(run.ids) for run in runs if isinstance(run, TokenRun))
    answer = min(max_tokens or manifest.sampling.max_tokens, session.llm.n_ctx // ANSWER_SHARE)
    talk = min(TALK_TOKENS, session.llm.n_ctx // ANSWER_SHARE) if question is None else 0
    return text + answer + talk


def tokens_beside_frame(session: ChatSession, video: VideoDefaults, span: Span) -> int:
    beside = len(session.llm.tokenize(session.bundle.manifest.prompt.image_suffix, True))
    return beside + (len(session.llm.tokenize(frame_label(span.duration_s), False)) if video.times else 0)


def _summary(reader: VideoReader, span: Span, found: Sequence[FrameTime], count: int, tokens: int) -> str:
    total = max(span.frame_count, len(found))
    first, last = show_time(found[0].time_s), show_time(found[-1].time_s)
    text = f"{len(found):,} of {total:,} frames, {tokens} tokens each, {first} … {last}"
    if reader.broken_off_s is None:
        return text
    return f"{text}; the file breaks off after {show_time(reader.broken_off_s)}, {count:,} frames were wanted"
