"""Earlier conversations: found by any word said in them, opened, renamed, deleted, exported."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from dclocal.errors import UserError
from dclocal.history import History

KEYS = "Enter opens · F2 renames · Del deletes · ^S exports · Esc"


class SessionsScreen(ModalScreen[int | None]):
    """Hands back the number of the conversation to open, None where none is."""

    BINDINGS: ClassVar = [
        ("escape", "close"),
        ("f2", "rename"),
        Binding("delete", "delete", priority=True),
        ("ctrl+s", "export"),
        ("down", "move(1)"),
        ("up", "move(-1)"),
    ]

    def __init__(self, history: History, current: int | None, export: Callable[[int, str], list[Path]]):
        super().__init__()
        self._history, self._current, self._export = history, current, export
        self._deleting: int | None = None
        self._asking: Callable[[int, str], None] | None = None

    def compose(self) -> ComposeResult:
        """A search, the list, a line to type a name in."""
        with Vertical(classes="box") as box:
            box.border_title, box.border_subtitle = "Conversations", KEYS
            yield Input(placeholder="search what was said", id="search")
            yield OptionList()
            yield Static(classes="trouble")
            yield Input(id="asked")

    def on_mount(self) -> None:
        """All of them, the last used first."""
        for field in self.query(Input):
            field.cursor_blink = False
        self.query_one("#asked").display = False
        self.query_one(OptionList).can_focus = False
        self._list("")

    @property
    def _chosen(self) -> int | None:
        chooser = self.query_one(OptionList)
        if chooser.highlighted is None:
            return None
        return int(str(chooser.get_option_at_index(chooser.highlighted).id))

    def _list(self, words: str, keep: int = 0) -> None:
        chooser = self.query_one(OptionList)
        chooser.clear_options()
        try:
            chooser.add_options(self._found(words) if words.strip() else self._all())
        except UserError as error:
            self._tell(str(error))
        if chooser.option_count:
            chooser.highlighted = min(keep, chooser.option_count - 1)

    def _all(self) -> list[Option]:
        options = []
        for info in self._history.sessions():
            when = datetime.fromtimestamp(info.updated).strftime("%Y-%m-%d %H:%M")
            mark = "● " if info.id == self._current else "  "
            options.append(Option(Content.assemble(mark, info.title, (f"  {when}", "$text-muted")), id=str(info.id)))
        return options

    def _found(self, words: str) -> list[Option]:
        options: dict[int, Option] = {}
        for hit in self._history.search(words):
            line = Content.assemble("  ", hit.title, (f"  {' '.join(hit.snippet.split())}", "$text-muted"))
            options.setdefault(hit.session, Option(line, id=str(hit.session)))
        return list(options.values())

    @on(Input.Changed, "#search")
    def _search(self, event: Input.Changed) -> None:
        self._deleting = None
        self._tell("")
        self._list(event.value)

    @on(Input.Submitted, "#search")
    def _open(self) -> None:
        if self._chosen is not None:
            self.dismiss(self._chosen)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(int(str(event.option_id)))

    @on(Input.Submitted, "#asked")
    def _named(self, event: Input.Submitted) -> None:
        act, chosen = self._asking, self._chosen
        self._stop_asking()
        if act is not None and chosen is not None and event.value.strip():
            try:
                act(chosen, event.value.strip())
            except UserError as error:
                self._tell(str(error))

    def action_move(self, step: int) -> None:
        """Highlight the next or the one before."""
        chooser = self.query_one(OptionList)
        self._deleting = None
        if step > 0:
            chooser.action_cursor_down()
        else:
            chooser.action_cursor_up()

    def action_rename(self) -> None:
        """Ask for another title."""
        if self._chosen is not None:
            self._ask("another title", self._history.load(self._chosen).info.title, self._rename)

    def action_export(self) -> None:
        """Ask for a file to write to."""
        if self._chosen is not None:
            self._ask("FILE.md or FILE.json", f"conversation-{self._chosen}.md", self._write)

    def action_delete(self) -> None:
        """Delete it, at the second press."""
        chosen = self._chosen
        if self._asking is not None:
            self.query_one("#asked", Input).action_delete_right()
            return
        if chosen is None:
            return
        if self._deleting != chosen:
            self._deleting = chosen
            self._tell("Delete again deletes it for good")
            return
        self._deleting = None
        try:
            self._history.delete(chosen)
            self._tell("")
        except UserError as error:
            self._tell(str(error))
        self._list(self.query_one("#search", Input).value, self.query_one(OptionList).highlighted or 0)

    def action_close(self) -> None:
        """Leave the line at the bottom, else the screen."""
        if self._asking is not None:
            self._stop_asking()
        else:
            self.dismiss(None)

    def _rename(self, session: int, title: str) -> None:
        self._history.rename(session, title)
        self._list(self.query_one("#search", Input).value)

    def _write(self, session: int, name: str) -> None:
        written = self._export(session, name)
        self._tell(f"written: {written[0]}")

    def _ask(self, what: str, value: str, act: Callable[[int, str], None]) -> None:
        self._asking = act
        line = self.query_one("#asked", Input)
        line.placeholder, line.value, line.display = what, value, True
        line.focus()

    def _stop_asking(self) -> None:
        self._asking = None
        self.query_one("#asked").display = False
        self.query_one("#search").focus()

    def _tell(self, text: str) -> None:
        self.query_one(".trouble", Static).update(Content(text))
