"""What an empty conversation shows: how to begin."""

from __future__ import annotations

from textual.widgets import Static

FIRST = "[b]Welcome.[/b]  Press [b]F7[/b] for an example picture and a first question; Enter sends it."
USUAL = """\
[b]Attach[/b] a picture or video: drop a file on the terminal, type [b]@path[/b] in a question, or [b]/attach PATH[/b].
[b]Ask[/b] below; the answer comes while you read it, [b]Esc[/b] stops it.
[b]F1[/b] shows every key, [b]F2[/b] earlier conversations, [b]Ctrl+P[/b] all commands."""


class Welcome(Static):
    """Shown until something is asked; `first_run` offers the example."""

    def __init__(self, first_run: bool):
        super().__init__(f"{FIRST}\n\n{USUAL}" if first_run else USUAL)
