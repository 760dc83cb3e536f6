"""The cells of a KV cache, as keys: what a prompt wants in them, and how much of it is there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dclocal.errors import PromptError
from dclocal.prompt import Embeds, Segment

Cell = int | tuple[str, int]
"""What one position of the KV cache holds: a token id, or (image key, row)."""


@dataclass(frozen=True)
class Prefill:
    """Tokens in the prompt, how many the cache already held, and how many were evaluated."""

    total: int
    reused: int
    evaluated: int


def plan_prefill(held: Sequence[Cell], segments: Sequence[Segment], n_ctx: int) -> tuple[list[Cell], Prefill]:
    """The cells that a prompt wants, and how many of those `held` serve it; the last is always evaluated.

    Raises PromptError for an empty prompt, or one that does not fit a context of `n_ctx`.
    """
    wanted = list(segment_cells(segments))
    if not wanted:
        raise PromptError("the prompt is empty", "ask something")
    if len(wanted) >= n_ctx:
        raise PromptError(
            f"the prompt has {len(wanted)} tokens, the context holds {n_ctx}",
            "send fewer images or start anew with /reset",
        )
    reused = min(common_prefix(held, wanted), len(wanted) - 1)
    return wanted, Prefill(len(wanted), reused, len(wanted) - reused)


def utf8(text: str) -> bytes:
    """The text's bytes.

    Raises PromptError for text that is not Unicode (bytes of another encoding on the command line).
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the text is not valid UTF-8 at character {error.start + 1}", "retype it") from error


def segment_cells(segments: Sequence[Segment]) -> Iterator[Cell]:
    """What each position of these segments holds."""
    for segment in segments:
        if isinstance(segment, Embeds):
            yield from ((segment.key, row) for row in range(len(segment)))
        else:
            yield from segment.ids


def common_prefix(held: Sequence[object], wanted: Sequence[object]) -> int:
    """How many cells from the start are the same in both."""
    for index, (one, other) in enumerate(zip(held, wanted)):
        if one != other:
            return index
    return min(len(held), len(wanted))
