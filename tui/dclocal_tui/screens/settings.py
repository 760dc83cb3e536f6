"""The settings as a form; what is empty is the bundle's own choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from dclocal.errors import UserError
from dclocal.settings import RULES, Settings, SettingsError

# field → what the form calls it, and how its text is read
FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "temperature": ("Temperature", float),
    "max_tokens": ("Longest answer, tokens", int),
    "frames": ("Frames of a video", int),
    "system": ("System prompt", str),
}


class SettingsScreen(ModalScreen[Settings | None]):
    """Hands back the settings once `save` has written them, None where nothing was changed."""

    BINDINGS: ClassVar = [("escape,f3", "dismiss(None)"), ("ctrl+s", "save")]

    def __init__(self, settings: Settings, save: Callable[[Settings], None]):
        super().__init__()
        self._settings, self._save = settings, save

    def compose(self) -> ComposeResult:
        """A row for each field."""
        with Vertical(classes="box") as box:
            box.border_title, box.border_subtitle = "Settings", "Ctrl+S saves · Esc closes"
            for name, (label, _) in FIELDS.items():
                value = getattr(self._settings, name)
                with Horizontal(classes="row"):
                    yield Label(label)
                    yield Input("" if value is None else str(value), id=name, placeholder="as the bundle says")
            with Horizontal(classes="row"):
                yield Label("Theme")
                themes = sorted(self.app.available_themes)
                yield Select([(theme, theme) for theme in themes], value=self.app.theme, id="theme", allow_blank=False)
            yield Static(classes="trouble")
            yield Button("Save", variant="primary", compact=True)

    def on_mount(self) -> None:
        """Begin at the first field."""
        self.query_one("#temperature").focus()
        for field in self.query(Input):
            field.cursor_blink = False

    def on_button_pressed(self) -> None:
        """Save."""
        self.action_save()

    def on_input_submitted(self) -> None:
        """Enter saves, too."""
        self.action_save()

    def action_save(self) -> None:
        """Write what the form says, or say what is wrong with it."""
        try:
            changed = replace(self._settings, theme=str(self.query_one("#theme", Select).value), **self._values())
            self._save(changed)
        except UserError as error:
            self.query_one(".trouble", Static).update(Content(str(error)))
            return
        self.dismiss(changed)

    def _values(self) -> dict[str, Any]:
        """The fields as values; raises SettingsError for one that is not what it may be."""
        values: dict[str, Any] = {}
        for name, (label, read) in FIELDS.items():
            text = self.query_one(f"#{name}", Input).value.strip()
            fits, expected = RULES[name]
            if not text:
                values[name] = getattr(Settings(), name)
                continue
            try:
                values[name] = read(text)
            except ValueError:
                values[name] = None
            if not fits(values[name]):
                raise SettingsError(f"{label} is {text!r:.40}", f"expected {expected}")
        return values
