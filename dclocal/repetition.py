"""The guard against answers that loop: a text that has begun to repeat itself is ended, and said once."""

from __future__ import annotations

import re
import time

LONGEST_UNIT = 240  # characters of a stretch that is looked for again
MANY, SOME, FEW = (16, 120), (8, 48), (4, 24)  # times that a unit must stand in a row, and characters they must cover


class GuardedAnswer:
    """An answer as it comes: `text` is what is kept of it, `first` and `last` are when its pieces came, and `repeats`
    is whether it has begun to repeat itself; then `tokens` is how many tokens are kept.

    An answer that goes on starts with the `text` and `tokens` that it has.
    """

    def __init__(self, text: str = "", tokens: int = 0) -> None:
        self.text, self.tokens, self.first, self.last, self.repeats = text, 0, 0.0, 0.0, False
        self._ends = [(len(text), tokens)]  # (characters, tokens) after each piece

    def add(self, piece: str, tokens: int) -> str:
        """The text of the next piece, with which `tokens` tokens are out, to show; what leads an answer is left out."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        piece = piece if self.text else piece.lstrip()  # some formats lead an answer with a space
        self.text += piece
        self._ends.append((len(self.text), tokens))
        if (length := unrepeated_length(self.text)) is not None:
            self.repeats, self.text = True, self.text[:length]
            self.tokens = next(count for characters, count in self._ends if characters >= length)
        return piece


def unrepeated_length(text: str) -> int | None:
    """The length of `text` with the stretch that it ends in repeating once, or None where it does not repeat itself.

    Prose of three words or more repeats with the fourth time in a row (24 characters or more), one or two words with
    the eighth (48), and what tables, code, rules and numbers are made of with the sixteenth (120): those repeat
    honestly.  Lists whose items differ, by their numbers alone even, never do.
    """
    for size in range(1, min(LONGEST_UNIT, len(text) // FEW[0]) + 1):
        if text[-size:] != text[-2 * size : -size]:
            continue
        start = len(text) - 2 * size
        while start and text[start - 1] == text[start - 1 + size]:
            start -= 1
        times, covered = _needed(text[start : start + size])
        if len(text) - start >= max(times * size, covered):
            return re.compile(r"[.!?]*").match(text, start + size).end()  # type: ignore[union-attr]
    return None


def _needed(unit: str) -> tuple[int, int]:
    words = re.findall(r"[^\W\d_]+", unit)
    if not words or re.search(r"[|{}\[\]()<>=\\_`~^$@/+]", unit):
        return MANY
    return FEW if len(words) >= 3 else SOME
