"""What the model's process printed: the end of its log file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from dclocal_tui.clean import clean

SHOWN_BYTES = 64 << 10


class LogScreen(ModalScreen[None]):
    """Closed by Esc, F6 or q."""

    BINDINGS: ClassVar = [("escape,f6,q", "dismiss")]

    def __init__(self, file: Path):
        super().__init__()
        self._file = file

    def compose(self) -> ComposeResult:
        """The newest lines, at the end of them."""
        with VerticalScroll(classes="box") as box:
            box.border_title, box.border_subtitle = str(self._file), "Esc closes"
            yield Static(Content(clean(tail(self._file)) or "nothing was printed"))

    def on_mount(self) -> None:
        """The newest is at the end."""
        self.query_one(".box").scroll_end(animate=False)


def tail(file: Path) -> str:
    """The last SHOWN_BYTES of a file, from the beginning of a line; why it cannot be read."""
    try:
        with file.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - SHOWN_BYTES)
            stream.seek(start)
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    return text.partition("\n")[2] if start else text
