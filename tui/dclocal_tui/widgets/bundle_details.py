"""What a bundle is, drawn as tables: licences and parity first, then facts, files and where it comes from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as Drawn
from rich.text import Text
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from dclocal.bundle import Bundle
from dclocal.describe import bundle_tables, parity_tables, read_parity
from dclocal.tables import Table


class BundleDetails(VerticalScroll):
    """Scrolls with the arrow keys once Tab has led to it."""

    async def show(self, found: Sequence[Table] | str) -> None:
        """Show tables, or a line in their place."""
        texts = [Content(found)] if isinstance(found, str) else [draw(table) for table in found if table.rows]
        await self.remove_children()
        if self.is_attached:
            await self.mount_all([Static(text) for text in texts])
            self.scroll_home(animate=False)


def details(bundle: Bundle) -> list[Table]:
    """What `dclocal bundle show` prints, in another order.  Raises BundleError where parity.json is damaged."""
    facts, files, licences, *rest = bundle_tables(bundle, {})
    return [licences, *parity_tables(read_parity(bundle)), facts, files, *rest]


def draw(table: Table) -> Group:
    """For any width: cells are folded; nothing in them is markup, since a bundle's words may come from anywhere."""
    drawn = Drawn(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=bool(table.header))
    for column in range(len(table.rows[0])):
        drawn.add_column(Text(table.header[column]) if table.header else "", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return Group(Text(table.title, "bold italic"), drawn) if table.title else Group(drawn)
