"""Every key and typed command, over the main screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from dclocal_tui.keys import ACTIONS, TYPING, shown


class HelpScreen(ModalScreen[None]):
    """Closed by Esc, F1 or q."""

    BINDINGS: ClassVar = [("escape,f1,q", "dismiss")]

    def compose(self) -> ComposeResult:
        """Two columns: keys as they are set now, and what they do."""
        keys = {name: self.app._keymap.get(name, key) for name, key, _ in ACTIONS}
        rows = [*TYPING, *((shown(keys[name]), text) for name, _, text in ACTIONS)]
        width = max(len(key) for key, _ in rows)
        with VerticalScroll(classes="box") as box:
            box.border_title, box.border_subtitle = "Keys", "Esc closes"
            for key, text in rows:
                with Horizontal():
                    name = Static(Content.styled(key, "bold $accent"))
                    name.styles.width = width + 2
                    yield name
                    yield Static(text, classes="what")
