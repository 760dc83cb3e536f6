"""Tables on standard output: drawn by rich on a terminal, else aligned text that scripts can cut."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

FIGURE = re.compile(r"-?\d[\d.e+-]*( [A-Za-z%/]+)?")


@dataclass(frozen=True)
class Table:
    """Rows of texts; `title` and `header` may be empty.  A column is right-aligned where all of it is numbers."""

    rows: Sequence[Sequence[str]]
    title: str = ""
    header: Sequence[str] = ()


def print_tables(tables: Sequence[Table]) -> None:
    """Print them one after the other, an empty line between; one without rows is left out."""
    draw = _draw if sys.stdout.isatty() else _print_plain
    for index, table in enumerate(table for table in tables if table.rows):
        if index:
            print()
        draw(table)


def _print_plain(table: Table) -> None:
    if table.title:
        print(table.title)
    rows = [table.header, *table.rows] if table.header else table.rows
    right = [_is_numeric(table, column) for column in range(len(rows[0]))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) if end else cell.ljust(width) for cell, width, end in zip(row, widths, right)]
        print("  ".join(cells).rstrip())


def _draw(table: Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text  # not markup: a bundle's own words must not style the terminal

    drawn = Drawn(title=Text(table.title) if table.title else None, title_justify="left", box=SIMPLE_HEAD)
    drawn.show_header = bool(table.header)
    for column in range(len(table.rows[0])):
        heading = Text(table.header[column]) if table.header else ""
        drawn.add_column(heading, justify="right" if _is_numeric(table, column) else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column under a heading holds figures: a number and perhaps its unit, or a dash where there is none."""
    cells = [row[column] for row in table.rows if row[column] not in ("", "-")]
    return bool(table.header and cells) and all(FIGURE.fullmatch(cell) for cell in cells)
