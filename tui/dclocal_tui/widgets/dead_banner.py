"""Says that the model's process has ended, and which key starts it again."""

from __future__ import annotations

from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static


class DeadBanner(Static):
    """Shown while `why` says something."""

    why: reactive[str] = reactive("")

    def watch_why(self, why: str) -> None:
        """Show or hide it."""
        self.display = bool(why)
        self.update(Content(f"{why}\nF5 starts it again, the conversation is kept · F6 shows its log"))
