"""Batches of like length: rows with pictures and rows without are not mixed, nor short ones with long ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch


def row_length(row: dict[str, Any]) -> int:
    """Words of all turns, negative for a row without a picture."""
    words = sum(len(str(turn.get("value", "")).split()) for turn in row.get("conversations") or [])
    return max(1, words) if "image" in row else -max(1, words)


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """A shuffled order whose runs of `batch` (a whole step's rows, over all processes) are of one kind and like
    length; decided by (seed, epoch) alone, so that every process and a resumed run see the same."""

    MEGABATCH = 50

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called at the start of each pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        pictures = [index for index, length in enumerate(self.lengths) if length > 0]
        texts = [index for index, length in enumerate(self.lengths) if length < 0]
        whole: list[list[int]] = []
        rest: list[int] = []
        for kind in (pictures, texts):
            batches = self._batches(kind, generator)
            if batches and len(batches[-1]) < self.batch:
                rest += batches.pop()
            whole += batches
        order = torch.randperm(len(whole), generator=generator).tolist()
        return iter([index for batch in order for index in whole[batch]] + rest)

    def _batches(self, indices: list[int], generator: torch.Generator) -> list[list[int]]:
        shuffled = [indices[place] for place in torch.randperm(len(indices), generator=generator).tolist()]
        size = self.MEGABATCH * self.batch
        ordered: list[int] = []
        for start in range(0, len(shuffled), size):
            ordered += sorted(shuffled[start : start + size], key=lambda index: -abs(self.lengths[index]))
        return [ordered[start : start + self.batch] for start in range(0, len(ordered), self.batch)]
