"""The conversation from top to bottom: scrolls with an answer that grows, unless the user looks further up.

Of a long one that is reopened the end is drawn, and what is before as the user scrolls up to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from dclocal_tui.state import Turn

if TYPE_CHECKING:
    from dclocal_tui.widgets.exchange import Exchange

SLICE = 6
"""Turns drawn at once: each costs some 25 ms."""
DRAWER = "earlier"
NEAR = 2
"""Lines from the top at which the turns before are drawn."""
MAX_SHOWN = 200
"""Turns drawn of one that grows, as a watch's does for hours; beyond them the older half is taken off again."""


class Conversation(VerticalScroll):
    """The turns, one Exchange each."""

    def __init__(self) -> None:
        super().__init__()
        self._earlier: tuple[Turn, ...] = ()
        self._showing = asyncio.Lock()

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
        """The widgets of the turns that are drawn, in order."""
        from dclocal_tui.widgets.exchange import Exchange

        return list(self.query(Exchange))

    async def show_turns(self, first: int, turns: Sequence[Turn]) -> None:
        """Show these in place of the turns from `first` on; of many, the last are drawn."""
        from dclocal_tui.widgets.exchange import Exchange

        async with self._showing:
            self.workers.cancel_group(self, DRAWER)
            kept = max(0, first - len(self._earlier))
            if not kept:
                self._set_earlier((*self._earlier[:first], *turns[:-SLICE]))
                turns = turns[-SLICE:]
            with self.app.batch_update():
                for exchange in self.exchanges[kept:]:
                    await exchange.remove()
                await self._fold()
                await self.query_one(Vertical).mount_all([Exchange(turn) for turn in turns])
        self.anchor()
        self._draw_earlier()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw what is before once the user comes near."""
        super().watch_scroll_y(old_value, new_value)
        if self._earlier and new_value <= NEAR and not self._showing.locked():
            self._draw_earlier()

    @work(exclusive=True, group=DRAWER)
    async def _draw_earlier(self) -> None:
        """Draw turns above those that are drawn, which stay where they are on the screen.

        Nobody may wait for it: it waits for the screen to be laid out.  Called off, it has drawn a turn or left it
        among the earlier ones.
        """
        from dclocal_tui.widgets.exchange import Exchange

        await self._laid_out()
        while self._earlier and self.scroll_y <= NEAR and (drawn := self.exchanges):
            at_end = self.scroll_y >= self.max_scroll_y
            below = drawn[0].virtual_region.y - self.scroll_y
            turns = self._earlier[-SLICE:]
            mounting = self.query_one(Vertical).mount_all([Exchange(turn) for turn in turns], before=drawn[0])
            self._set_earlier(self._earlier[:-SLICE])
            await mounting
            await self._laid_out()
            if not at_end:
                self.scroll_to(y=drawn[0].virtual_region.y - below, animate=False, immediate=True)

    async def _laid_out(self) -> None:
        drawn = asyncio.Event()
        self.call_after_refresh(drawn.set)
        await drawn.wait()

    def _set_earlier(self, turns: tuple[Turn, ...]) -> None:
        self._earlier = turns
        line = self.query_one("#earlier", Static)
        line.update(f"{len(turns)} earlier questions: PageUp shows them")
        line.display = bool(turns)

    async def _fold(self) -> None:
        """Take the older half of very many turns off; they come again as the user scrolls up."""
        if len(drawn := self.exchanges) >= MAX_SHOWN:
            old = drawn[: MAX_SHOWN // 2]
            self._set_earlier((*self._earlier, *(exchange.turn for exchange in old)))
            for exchange in old:
                await exchange.remove()

    async def grow(self, text: str) -> None:
        """Add to the last answer."""
        if exchanges := self.exchanges:
            await exchanges[-1].grow(text)

    async def finish(self, turn: Turn) -> None:
        """The last turn is whole."""
        if exchanges := self.exchanges:
            await exchanges[-1].finish(turn)
