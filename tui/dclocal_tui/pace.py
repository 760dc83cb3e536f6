"""How often a moving picture may be drawn: no more often than the terminal takes it, and the app has time for it."""

from __future__ import annotations

from typing import Any

PERIOD_S = 0.2
POLL_S = 0.05
IDLE_SHARE = 4
"""A picture that takes long to draw is followed by so many times as long without one."""


def pause_after(drawing_s: float) -> float:
    """Seconds until the next picture, after one that took `drawing_s` to reach the terminal."""
    return max(PERIOD_S - drawing_s, IDLE_SHARE * drawing_s)


def mark(driver: Any) -> None:
    """Let `is_behind` say when the terminal has taken all that was drawn so far."""
    if driver is not None:
        driver.write("")


def is_behind(driver: Any) -> bool:
    """Whether the terminal has yet to take what was drawn before a mark: Textual's driver writes from a thread."""
    writer = getattr(driver, "_writer_thread", None)
    queue = getattr(writer, "_queue", None)
    return queue is not None and queue.qsize() > 0
