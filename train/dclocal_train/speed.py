"""How fast a run is: rows, images and tokens a second, in the log beside the loss."""

from __future__ import annotations

import time


class Speed:
    """Counts what one process has trained on, and tells rates over all of them since the last time."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._counts = {"rows_per_s": 0, "images_per_s": 0, "tokens_per_s": 0}

    def count(self, rows: int, images: int, tokens: int) -> None:
        """Note a batch; its tokens include visual ones and padding."""
        for name, value in zip(self._counts, (rows, images, tokens)):
            self._counts[name] += value

    def rates(self, processes: int) -> dict[str, float]:
        """`rows_per_s`, `images_per_s` and `tokens_per_s` since the last call; all processes do like work."""
        spent = max(1e-9, time.perf_counter() - self._since)
        rates = {name: round(processes * count / spent, 2) for name, count in self._counts.items()}
        self._since, self._counts = time.perf_counter(), dict.fromkeys(self._counts, 0)
        return rates
