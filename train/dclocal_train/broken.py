"""Broken pictures in the middle of a run: counted and passed over, and too many of them stop it."""

from __future__ import annotations

import multiprocessing
import sys

from dclocal.errors import UserError

MIN_SEEN = 50  # a share is not judged on fewer pictures
REPORTED = 5


class TooManyBroken(UserError):
    """More pictures than the recipe allows cannot be read."""


class BrokenPictures:
    """Counts shared by all data loader workers of a process; `max_share` of what is seen may be broken."""

    def __init__(self, max_share: float = 0.01):
        self.max_share = max_share
        self._broken, self._good = multiprocessing.Value("q", 0), multiprocessing.Value("q", 0)

    @property
    def broken(self) -> int:
        """How many times a broken picture was met."""
        return int(self._broken.value)

    def count_good(self) -> None:
        """Note an example that could be read."""
        with self._good.get_lock():
            self._good.value += 1

    def count(self, name: str, error: Exception) -> None:
        """Note a broken picture, telling the first few; raises TooManyBroken beyond the share."""
        with self._broken.get_lock():
            self._broken.value += 1
            broken = self._broken.value
        if broken <= REPORTED:
            print(f"dclocal: skipped {name}: {error}", file=sys.stderr)
        seen = broken + self._good.value
        if seen >= MIN_SEEN and broken > self.max_share * seen:
            raise TooManyBroken(
                f"{broken} of {seen} pictures cannot be read, the last {name} ({error})",
                "see `dclocal train --check-data`, or raise max_broken_share in the recipe",
            )
