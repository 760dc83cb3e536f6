"""The conversation from top to bottom: scrolls with an answer that grows, unless the user looks further up."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from dclocal_tui.state import Turn
from dclocal_tui.widgets.exchange import Exchange

MAX_OPENED = 40
"""Turns drawn when a conversation is opened: each costs some 25 ms."""
MAX_SHOWN = 200
"""Turns drawn of one that grows, as a watch's does for hours; beyond them the older half goes."""


class Conversation(VerticalScroll):
    """The turns, one Exchange each."""

    _hidden = 0

    def compose(self) -> ComposeResult:
        """As high as the view at least: an anchored view would hold a short conversation at its bottom."""
        with Vertical():
            yield Static(id="earlier")

    def on_mount(self) -> None:
        """Stay at the end as it grows."""
        self.query_one("#earlier").display = False
        self.anchor()

    @property
    def exchanges(self) -> list[Exchange]:
        """The turns' widgets in order."""
        return list(self.query(Exchange))

    async def show_turns(self, first: int, turns: Sequence[Turn]) -> None:
        """Show these in place of the turns from `first` on; of a long conversation that is reopened, its end."""
        if first == 0:
            self._hide(max(0, len(turns) - MAX_OPENED))
            turns = turns[self._hidden :]
        with self.app.batch_update():
            for exchange in self.exchanges[max(0, first - self._hidden) :]:
                await exchange.remove()
            if len(exchanges := self.exchanges) >= MAX_SHOWN:
                for exchange in exchanges[: MAX_SHOWN // 2]:
                    await exchange.remove()
                self._hide(self._hidden + MAX_SHOWN // 2)
            await self.query_one(Vertical).mount_all([Exchange(turn) for turn in turns])
        self.anchor()

    def _hide(self, count: int) -> None:
        """Say how many turns are not drawn."""
        self._hidden = count
        earlier = self.query_one("#earlier", Static)
        earlier.update(f"{count} earlier questions are in the history (/export writes them)")
        earlier.display = count > 0

    async def grow(self, text: str) -> None:
        """Add to the last answer."""
        if exchanges := self.exchanges:
            await exchanges[-1].grow(text)

    async def finish(self, turn: Turn) -> None:
        """The last turn is whole."""
        if exchanges := self.exchanges:
            await exchanges[-1].finish(turn)
