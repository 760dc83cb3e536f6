"""The last line: what is under way, and what answers cost."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Label

from dclocal_tui.state import Status

MEGABYTE = 1 << 20


class StatusLine(Horizontal):
    """Shows `status`; at 80 columns all of it fits."""

    status: reactive[Status] = reactive(Status())

    def compose(self) -> ComposeResult:
        """The activity at the left, figures at the right."""
        yield Label(id="activity")
        yield Label(id="figures")

    def watch_status(self, status: Status) -> None:
        """Write the line anew."""
        if not self.children:
            return
        left = "  ".join(part for part in (status.bundle, status.activity) if part)
        self.query_one("#activity", Label).update(Content(left or "starting"))
        self.query_one("#figures", Label).update(Content(figures(status)))

    def on_mount(self) -> None:
        """Show what there is from the start."""
        self.watch_status(self.status)


def figures(status: Status) -> str:
    """Tokens in the context, time to first token, speed and memory, as far as they are known."""
    parts = []
    if status.n_ctx:
        parts.append(f"{status.context_tokens:,}/{status.n_ctx:,} tokens")
    if status.ttft_ms is not None:
        parts.append(f"first {status.ttft_ms / 1000:.2f} s")
    if status.tokens_per_s:
        parts.append(f"{status.tokens_per_s:.0f} tok/s")
    if status.memory_bytes:
        parts.append(f"{status.memory_bytes / MEGABYTE:,.0f} MB")
    return " · ".join(parts)
