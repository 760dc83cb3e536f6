"""How fast a run is: rows and tokens a second, in the log beside the loss."""

from __future__ import annotations

import time


class Speed:
    """Counts what one process has trained on, and tells rates over all of them since the last time."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._rows = self._tokens = 0

    def count(self, rows: int, tokens: int) -> None:
        """Note a batch: its rows, and its tokens, visual ones and padding included."""
        self._rows, self._tokens = self._rows + rows, self._tokens + tokens

    def rates(self, processes: int) -> dict[str, float]:
        """`rows_per_s` and `tokens_per_s` since the last call; all processes do like work."""
        spent = max(1e-9, time.perf_counter() - self._since)
        rates = {
            "rows_per_s": round(processes * self._rows / spent, 3),
            "tokens_per_s": round(processes * self._tokens / spent, 1),
        }
        self._since, self._rows, self._tokens = time.perf_counter(), 0, 0
        return rates
