"""What of a video the model has and what is chosen for it: counts, times, tokens, and both in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dclocal.engine_messages import BundleFacts
from dclocal.frames import VideoRequest
from dclocal.manifest import VideoDefaults
from dclocal.sampling import show_time
from dclocal_tui.film import Film, film_of, most_frames, request_for, tokens_each
from dclocal_tui.shelf import Item

GIVEN, CHOSEN = "●", "○"
SAME_S = 1e-3
"""Two times no further apart are the same frame's."""


@dataclass(frozen=True)
class Plan:
    """A film as it is chosen, its medium as it stands, and the bundle's facts once it is open."""

    film: Film
    item: Item
    facts: BundleFacts | None

    @property
    def before(self) -> VideoRequest:
        """What the engine was asked for."""
        return self.item.media.video or VideoRequest()

    @property
    def given(self) -> tuple[float, ...]:
        """The times of the frames that the model has."""
        return self.item.attached.times_s if self.item.attached else ()

    @property
    def most(self) -> int:
        """How many frames can be had."""
        return most_frames(self.film, self.facts, self.before.tokens_per_frame)

    @property
    def count(self) -> int:
        """How many frames are chosen."""
        defaults = self.facts.video if self.facts else VideoDefaults()
        return min(self.film.frames or len(self.given) or self.before.frames or defaults.frames, self.most)

    @property
    def changed(self) -> bool:
        """Whether something else is chosen than what the engine was asked for."""
        film, asked = self.film, film_of(self.film.duration_s, self.film.fps, self.before)
        if (film.start_s, film.end_s) != (asked.start_s, asked.end_s):
            return True
        return film.frames is not None and self.count != replace(self, film=replace(film, frames=None)).count

    @property
    def request(self) -> VideoRequest | None:
        """What the engine shall be asked for; None where nothing is changed."""
        return request_for(self.film, self.count, self.before) if self.changed else None

    @property
    def times_s(self) -> tuple[float, ...]:
        """When to look for the frames that are chosen: where they were given, else where they will be sampled."""
        if self.given and not self.changed:
            return tuple(time_s + SAME_S / 10 for time_s in self.given)  # they are rounded
        return tuple(self.film.times(self.count))

    @property
    def choice(self) -> str:
        """The part, the frames and their tokens, on one line."""
        film, count = self.film, self.count
        whole = film.start_s == 0 and film.end_s == film.duration_s
        part = "the whole video" if whole else f"{show_time(film.start_s)} – {show_time(film.end_s)}"
        part += f" · {count:,} frame{'s' * (count > 1)}"
        if self.facts is None:
            return f"{part}; their tokens are known once the model is loaded"
        each = tokens_each(self.facts, count, self.before.tokens_per_frame)
        if self.item.attached and self.given and not self.changed:
            each = self.item.attached.tokens // len(self.given)
        return f"{part} (at most {self.most:,}) × {each} = {count * each:,} visual tokens"

    def note(self, window: range) -> str:
        """What the frames are, of which the strip shows a window."""
        if self.changed:
            again = " as another video: a question shows it as it was" if self.item.asked else ""
            text = f"{CHOSEN} Enter gives these{again}"
        else:
            text = f"{GIVEN} the model is given these" if self.given else f"{CHOSEN} these are being prepared"
        count = self.count
        return text + (f" · {window.start + 1}–{window.stop} of {count:,} are shown" if len(window) < count else "")


def is_among(time_s: float, times_s: Sequence[float]) -> bool:
    """Whether a frame is shown at one of these times."""
    return any(abs(time_s - other_s) < SAME_S for other_s in times_s)
