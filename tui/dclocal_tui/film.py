"""A video as the user looks at it: where the cursor stands, and which part and how many frames are chosen; as data."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from dclocal.engine_messages import BundleFacts
from dclocal.errors import PromptError
from dclocal.frames import VideoRequest
from dclocal.sampling import MAX_FRAMES, Span, show_time, uniform_times
from dclocal.video import VideoError
from dclocal.video_plan import plan_video


@dataclass(frozen=True)
class Film:
    """`fps` frames a second for `duration_s`; from `start_s` to `end_s`, `frames` of them (None: as many as before)."""

    duration_s: float
    fps: float
    start_s: float
    end_s: float
    frames: int | None = None
    cursor_s: float = 0.0

    @property
    def last_s(self) -> float:
        """When the last frame is shown."""
        return max(0.0, self.duration_s - 1 / self.fps)

    @property
    def most(self) -> int:
        """How many frames the part has."""
        return max(1, min(MAX_FRAMES, round((self.end_s - self.start_s) * self.fps)))

    def times(self, count: int) -> list[float]:
        """When the engine will sample `count` frames of the part, in seconds."""
        span = Span(self.start_s, self.end_s, self.duration_s, round(self.duration_s * self.fps))
        return uniform_times(span, count)

    def at(self, time_s: float) -> Film:
        """The cursor at this time, or as near as the video goes."""
        return replace(self, cursor_s=min(max(time_s, 0.0), self.last_s))

    def moved(self, frames: int) -> Film:
        """The cursor so many frames on."""
        return self.at(self.cursor_s + frames / self.fps)

    def from_here(self) -> Film:
        """The part begins at the frame under the cursor.  Raises VideoError where it ends before."""
        if self.cursor_s >= self.end_s:
            raise VideoError(f"the part ends at {show_time(self.end_s)}, before this frame", "press ] further on first")
        return replace(self, start_s=round(self.cursor_s, 3))

    def until_here(self) -> Film:
        """The part ends after the frame under the cursor.  Raises VideoError where it begins after it."""
        after = self.duration_s if self.cursor_s >= self.last_s else round(self.cursor_s + 1 / self.fps, 3)
        if after <= self.start_s:
            raise VideoError(f"the part begins at {show_time(self.start_s)}, after this frame", "press [ further back")
        return replace(self, end_s=after)


def film_of(duration_s: float, fps: float, request: VideoRequest) -> Film:
    """A video as a request has it, the cursor at the beginning of the part."""
    end_s = duration_s if request.end_s is None else min(request.end_s, duration_s)
    return Film(duration_s, fps, request.start_s or 0.0, end_s).at(request.start_s or 0.0)


def request_for(film: Film, count: int, before: VideoRequest) -> VideoRequest:
    """What the engine is asked for; the ways of sampling and pooling stay."""
    start_s = film.start_s or None
    end_s = film.end_s if film.end_s < film.duration_s else None
    return replace(before, frames=count, fps=None, start_s=start_s, end_s=end_s)


def tokens_each(facts: BundleFacts, count: int, wanted: int | None) -> int:
    """The tokens that the engine will keep of each of `count` frames; 0 where they do not fit."""
    room = facts.frame_room
    if room is None:
        return 0
    try:
        return plan_video(
            count,
            wanted,
            room.context,
            room.reserved,
            choices=room.choices,
            defaults=facts.video,
            beside_frame=room.beside,
        )[1]
    except PromptError:
        return 0


def most_frames(film: Film, facts: BundleFacts | None, wanted: int | None) -> int:
    """As many frames as the part has and, once the bundle is known, the context has room for; at least one."""
    if facts is None:
        return film.most
    return max(1, bisect_left(range(1, film.most + 1), True, key=lambda count: not tokens_each(facts, count, wanted)))
