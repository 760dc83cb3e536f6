"""The conversation from top to bottom: scrolls with an answer that grows, unless the user looks further up."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll

from dclocal_tui.state import Turn
from dclocal_tui.widgets.exchange import Exchange


class Conversation(VerticalScroll):
    """The turns, one Exchange each."""

    def compose(self) -> ComposeResult:
        """As high as the view at least: an anchored view would hold a short conversation at its bottom."""
        yield Vertical()

    def on_mount(self) -> None:
        """Stay at the end as it grows."""
        self.anchor()

    @property
    def exchanges(self) -> list[Exchange]:
        """The turns' widgets in order."""
        return list(self.query(Exchange))

    async def show_turns(self, first: int, turns: Sequence[Turn]) -> None:
        """Show these in place of the turns from `first` on."""
        with self.app.batch_update():
            for exchange in self.exchanges[first:]:
                await exchange.remove()
            await self.query_one(Vertical).mount_all([Exchange(turn) for turn in turns])
        self.anchor()

    async def grow(self, text: str) -> None:
        """Add to the last answer."""
        if exchanges := self.exchanges:
            await exchanges[-1].grow(text)

    async def finish(self, turn: Turn) -> None:
        """The last turn is whole."""
        if exchanges := self.exchanges:
            await exchanges[-1].finish(turn)
