"""The paths that the one being typed may become, in one or a few lines above the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

MAX_SHOWN = 5


class Completions(Static):
    """Hidden while there is nothing to offer."""

    def offer(self, candidates: Sequence[str]) -> None:
        """Show these; Tab takes them."""
        self.display = bool(candidates)
        lines = list(candidates[:MAX_SHOWN])
        if len(candidates) > MAX_SHOWN:
            lines.append(f"… {len(candidates) - MAX_SHOWN} more")
        self.border_subtitle = "Tab completes"
        self.update(Content("\n".join(lines)))
