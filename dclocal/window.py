"""A rolling window of frames as a prompt: the oldest leaves the cache, the newest enters, the question comes behind.

The cache after a slide is close to a fresh one, not equal: what stays was evaluated when the lost frame was there.
So the whole is evaluated anew every `refresh_every` slides, and each time where the model's cache cannot slide.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from dclocal.cells import Cell, common_prefix, segment_cells
from dclocal.chat import ChatSession, Event, LanguageModel
from dclocal.frames import ANSWER_SHARE, TALK_TOKENS, FrameTime, batches, frame_label
from dclocal.pooling import pool_tokens
from dclocal.prompt import Message, Piece, Segment, render, to_segments
from dclocal.sampling import THUMBNAIL
from dclocal.video_plan import frame_choices, plan_video

if TYPE_CHECKING:
    from PIL.Image import Image

    from dclocal.video import Frame

REFRESH_EVERY = 16
SAME_MEAN, SAME_CELL = 1.0, 16.0
"""Two pictures are one where their thumbnails differ by less than these, of 255: on average, and in any pixel."""


class SlidingModel(LanguageModel, Protocol):
    """A language model whose cache can lose cells in the middle, where `can_slide` says so."""

    can_slide: bool
    cells: list[Cell]

    def drop_cells(self, start: int, end: int) -> None: ...


@dataclass(frozen=True, eq=False)
class WindowFrame:
    """A frame of the window: its embeddings float32 `[tokens, n_embd]`, their key, and the text before it."""

    key: str
    embeds: np.ndarray
    label: str
    when: FrameTime


class Window:
    """The last `size` frames that it was shown, and the cache of `session`'s model kept ready for a question on them.

    Encodes a picture only if it differs from the one encoded last.  `looks` counts all frames, `changes` those
    encoded, `slides` the slides since the cache was last evaluated whole.  Not safe for use from several threads at
    once.  Raises PromptError where the frames do not fit the context.
    """

    def __init__(
        self,
        session: ChatSession,
        size: int,
        tokens_per_frame: int | None = None,
        *,
        max_tokens: int | None = None,
        refresh_every: int = REFRESH_EVERY,
    ):
        self.session, self.refresh_every = session, refresh_every
        self.llm = cast(SlidingModel, session.llm)
        self.size, self.tokens = self._planned(size, tokens_per_frame, max_tokens)
        self.frames: deque[WindowFrame] = deque(maxlen=self.size)
        self.looks = self.changes = self.slides = 0
        self._last: tuple[np.ndarray, str, np.ndarray] | None = None  # thumbnail, key, embeddings

    def look(self, frame: Frame) -> bool:
        """Take a frame in; whether it differs from the one before.  Nothing is evaluated yet."""
        small = thumbnail(frame.image)
        changed = self._last is None or not same_picture(small, self._last[0])
        if self._last is None or changed:
            self._last = small, *self._encoded(frame)
            self.changes += 1
        _, key, embeds = self._last
        label = frame_label(frame.time_s) if self.session.bundle.manifest.video.times else ""
        key += f"@{frame.time_s:.1f}" if label else ""
        self.frames.append(WindowFrame(key, embeds, label, FrameTime(frame.index, round(frame.time_s, 3))))
        self.looks += 1
        return changed

    def prefill(self) -> int:
        """Make the cache hold the window up to its last picture; how many cells were evaluated."""
        segments = window_segments(self.session, self.frames)[:-1]
        wanted = list(segment_cells(segments))
        if self.llm.cells[: len(wanted)] == wanted:
            return 0
        self._slide(wanted)
        return self.llm.prefill(segments).evaluated

    def ask(
        self, text: str, *, max_tokens: int | None = None, temperature: float | None = None, seed: int = 0
    ) -> Iterator[Event]:
        """Ask about the window as it is, as `ChatSession.ask` does; what was said before is not a part of it."""
        asked = ChatSession(self.session.bundle, self.session.vision, self.session.llm, self.session.system)
        shown = [asked.attach_embeds(frame.key, frame.embeds, label=frame.label) for frame in self.frames]
        if shown:
            self._slide(list(segment_cells(window_segments(self.session, self.frames)[:-1])))
        yield from asked.ask(text, shown, max_tokens=max_tokens, temperature=temperature, seed=seed)

    def _slide(self, wanted: Sequence[Cell]) -> None:
        """Bring the cache closer to `wanted` without evaluating anything."""
        found = slide_range(self.llm.cells, wanted) if self.llm.can_slide else None
        if found is None:
            self.slides = self.slides if common_prefix(self.llm.cells, wanted) > self._head(wanted) else 0
            return
        if self.slides >= self.refresh_every:
            self.llm.drop_cells(0, len(self.llm.cells))
            self.slides = 0
            return
        self.llm.drop_cells(*found)
        self.slides += 1

    @staticmethod
    def _head(wanted: Sequence[Cell]) -> int:
        """How many cells stand before the first picture."""
        return next((index for index, cell in enumerate(wanted) if isinstance(cell, tuple)), len(wanted))

    def _encoded(self, frame: Frame) -> tuple[str, np.ndarray]:
        manifest = self.session.bundle.manifest
        prepared = next(batches([frame], manifest.vision.image))[0]
        embeds = self.session.vision.encode(prepared.pixels[None])
        pooled = pool_tokens(embeds, manifest.vision.grid, self.tokens, manifest.video.pool)[0]
        return f"{prepared.key}:{self.tokens}:{manifest.video.pool}", pooled

    def _planned(self, size: int, tokens: int | None, max_tokens: int | None) -> tuple[int, int]:
        """(frames, tokens of each) that fit the context beside a question and its answer."""
        manifest, llm = self.session.bundle.manifest, self.session.llm
        text = sum(len(segment) for segment in window_segments(self.session, []))
        answer = min(max_tokens or manifest.sampling.max_tokens, llm.n_ctx // ANSWER_SHARE)
        beside = len(llm.tokenize(manifest.prompt.image_suffix, True))
        beside += len(llm.tokenize(frame_label(1e5), False)) if manifest.video.times else 0
        return plan_video(
            size,
            tokens,
            llm.n_ctx,
            text + answer + min(TALK_TOKENS, llm.n_ctx // ANSWER_SHARE),
            choices=frame_choices(manifest.vision, manifest.video.pool),
            defaults=manifest.video,
            beside_frame=beside,
        )


def window_segments(session: ChatSession, frames: Iterable[WindowFrame], text: str = "?") -> list[Segment]:
    """The prompt of a question about `frames` as `ChatSession` lays it out; its last segment is the question's own."""
    system = [Message("system", session.system)] if session.system else []
    frames = list(frames)
    question = Message("user", text, tuple(frame.key for frame in frames))
    labels = {frame.key: frame.label for frame in frames}
    pieces: list[Piece] = []
    for piece in render(session.bundle.manifest.prompt, [*system, question], answer_next=True):
        if label := labels.get(piece.image or ""):
            pieces.append(Piece(label))
        pieces.append(piece)
    return to_segments(pieces, session.llm.tokenize, {frame.key: frame.embeds for frame in frames})


def slide_range(held: Sequence[Cell], wanted: Sequence[Cell]) -> tuple[int, int] | None:
    """The run of `held` cells without which it shares the most with `wanted`; None where that saves no picture."""
    start = common_prefix(held, wanted)
    if start in (len(held), len(wanted)):
        return None
    ends = [index for index in range(start + 1, len(held)) if held[index] == wanted[start]]
    gains = [(common_prefix(held[end:], wanted[start:]), -end) for end in ends]
    gain, end = max(gains, default=(0, 0))
    saved = held[-end : -end + gain]
    return (start, -end) if any(isinstance(cell, tuple) for cell in saved) else None


def thumbnail(image: Image) -> np.ndarray:
    """float32 `[18, 32, 3]`: a small picture in colour, 0 to 255."""
    from PIL.Image import Resampling

    return np.asarray(image.convert("RGB").resize(THUMBNAIL, Resampling.BOX), np.float32)


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two thumbnails show the same, but for noise: each of their pixels is the mean of many."""
    apart = np.abs(one - other)
    return float(apart.mean()) < SAME_MEAN and float(apart.max()) < SAME_CELL
