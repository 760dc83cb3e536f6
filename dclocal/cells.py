"""The cells of a KV cache, as keys: what a prompt wants in them, and how much of it is there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dclocal.prompt import Embeds, Segment

Cell = int | tuple[str, int]
"""What one position of the KV cache holds: a token id, or (image key, row)."""


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
