"""How many frames of a video, and how many tokens of each: as many as the context has room for."""

from __future__ import annotations

from dclocal.errors import PromptError
from dclocal.manifest import VideoDefaults, VisionSpec
from dclocal.pooling import token_choices

DEFAULT_FRAMES = 16
DEFAULT_CHOICES = (144, 36, 16, 4)


def plan_video(
    frames_wanted: int | None,
    tokens_wanted: int | None,
    context: int,
    reserved: int,
    *,
    choices: tuple[int, ...] = DEFAULT_CHOICES,
    defaults: VideoDefaults | None = None,
    beside_frame: int = 0,
) -> tuple[int, int]:
    """(frames, tokens of each) that fit a context of `context` tokens of which `reserved` are for text.

    What is wanted is kept or refused.  Frames default to the bundle's `defaults`, else 16; their tokens to the
    largest of `choices` that fits and is no more than the bundle's.  `beside_frame` counts the tokens of text around
    each.  Raises PromptError with the figures where it does not fit.
    """
    room = context - reserved
    frames = frames_wanted or (defaults.frames if defaults else DEFAULT_FRAMES)
    if tokens_wanted is not None and tokens_wanted not in choices:
        raise PromptError(
            f"{tokens_wanted} tokens a frame cannot be had here", f"known: {', '.join(map(str, sorted(choices)[::-1]))}"
        )
    most = defaults.tokens_per_frame if defaults else max(choices)
    known = [tokens_wanted] if tokens_wanted else sorted((n for n in choices if n <= most), reverse=True)
    for tokens in known or [min(choices)]:
        if frames * (tokens + beside_frame) <= room:
            return frames, tokens
    least = (known or [min(choices)])[-1]
    each = least + beside_frame
    fitting = max(0, room // each)
    if frames_wanted is None and fitting:
        return fitting, least
    what = f"{frames} frames of {least} tokens" + (f" and {beside_frame} of text" if beside_frame else "")
    raise PromptError(
        f"{what} are {frames * each:,}, the context holds {context:,} and {reserved:,} are for question and answer",
        f"at most {fitting} such frames fit" if fitting else "shorten the question or the answer",
    )


def frame_choices(spec: VisionSpec, pool: str) -> tuple[int, ...]:
    """The tokens that a frame can have, most first."""
    return tuple(token_choices(spec.tokens, spec.grid, pool))
