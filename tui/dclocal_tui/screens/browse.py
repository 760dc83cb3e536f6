"""Files to attach: folders walked, names filtered, several marked, the one under the cursor previewed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from dclocal.describe import human_size
from dclocal.errors import UserError
from dclocal.files import printable
from dclocal_tui.folder import Entry, Listing, list_folder, matching
from dclocal_tui.peek import Peek, peek
from dclocal_tui.widgets.media_card import Preview

KEYS = "Enter attaches · Space marks · / filter · h hidden · Esc"
UP = "up"
TITLE_CHARACTERS = 54
REST_S = 0.15
"""How long the cursor rests on a file before it is previewed."""


class BrowseScreen(ModalScreen[tuple[Path, ...]]):
    """Hands back the files that were chosen; `folder` is the one that is listed."""

    BINDINGS: ClassVar = [
        ("escape", "close"),
        ("space", "mark"),
        ("backspace,left", "up"),
        ("right", "enter_folder"),
        ("slash", "filter"),
        ("down", "to_list"),  # from the filter
        ("h", "hidden"),
    ]

    def __init__(self, folder: Path, preview: Preview):
        super().__init__()
        self.folder = folder
        self._preview = preview
        self._listing = Listing(folder, ())
        self._shown: list[Entry] = []
        self._marked: dict[Path, None] = {}  # in the order of marking
        self._hidden = False
        self._eyes = ThreadPoolExecutor(1, "previews")
        self._turned_away = Event()

    def compose(self) -> ComposeResult:
        """A filter, the list beside the preview, a line for trouble."""
        with Vertical(classes="box") as box:
            box.border_subtitle = KEYS
            yield Input(placeholder="part of a name", id="filter")
            with Horizontal(id="files"):
                yield OptionList()
                with Vertical(id="peek"):
                    yield Vertical(id="picture")
                    yield Static(id="about")
            yield Static(classes="trouble")

    def on_mount(self) -> None:
        """List the folder; a filter shows once it is wanted."""
        typed = self.query_one("#filter", Input)
        typed.cursor_blink, typed.display = False, False
        self.query_one(OptionList).focus()
        self._go(self.folder)

    def on_unmount(self) -> None:
        """A preview that is being made is not wanted any more."""
        self._turned_away.set()
        self._eyes.shutdown(wait=False, cancel_futures=True)

    # The list

    @work(exclusive=True, group="folder")
    async def _go(self, folder: Path, keep: Path | None = None) -> None:
        """List a folder, the cursor on `keep` where that is in it; one that cannot be listed leaves all as it is."""
        try:
            listing = await asyncio.to_thread(list_folder, folder, self._hidden)
        except UserError as error:
            self._tell(str(error))
            return
        if listing.folder != self.folder:
            self._close_filter()
        self.folder, self._listing = listing.folder, listing
        self._tell("" if listing.whole else "not all of this folder is listed: it is too large")
        self._fill(keep)

    def _fill(self, keep: Path | None = None) -> None:
        self._shown = matching(self._listing.entries, self.query_one("#filter", Input).value)
        chooser = self.query_one(OptionList)
        chooser.clear_options()
        chooser.add_options([Option("  ../", id=UP), *(Option(self._line(entry)) for entry in self._shown)])
        paths = [entry.path for entry in self._shown]
        chooser.highlighted = paths.index(keep) + 1 if keep in paths else min(1, len(paths))
        self._title()

    def _line(self, entry: Entry) -> Content:
        if entry.kind == "folder":
            return Content.assemble("  ", (f"{entry.name}/", "bold"))
        mark = ("● ", "$success") if entry.path in self._marked else "  "
        return Content.assemble(mark, entry.name, (f"  {human_size(entry.size_bytes)}", "$text-muted"))

    def _title(self) -> None:
        marked = f"  {len(self._marked)} marked" if self._marked else ""
        folder = printable(str(self.folder))
        if len(folder) > TITLE_CHARACTERS:
            folder = f"…{folder[1 - TITLE_CHARACTERS :]}"
        self.query_one(".box", Vertical).border_title = Content(folder + marked)

    @property
    def _entry(self) -> Entry | None:
        """What the cursor is on; None for the folder above."""
        row = self.query_one(OptionList).highlighted
        return self._shown[row - 1] if row and row <= len(self._shown) else None

    # Keys

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        entry = self._entry
        if event.option_id == UP:
            self.action_up()
        elif entry is not None and entry.kind == "folder":
            self._go(entry.path)
        elif entry is not None:
            self.dismiss(tuple(self._marked) or (entry.path,))

    def action_mark(self) -> None:
        """Mark the file under the cursor, or no longer, and go on to the next."""
        entry, chooser = self._entry, self.query_one(OptionList)
        if entry is None or entry.kind == "folder" or chooser.highlighted is None:
            return
        if entry.path in self._marked:
            del self._marked[entry.path]
        else:
            self._marked[entry.path] = None
        chooser.replace_option_prompt_at_index(chooser.highlighted, self._line(entry))
        self._title()
        if chooser.highlighted < len(self._shown):
            chooser.action_cursor_down()

    def action_up(self) -> None:
        """List the folder above."""
        if self.folder.parent != self.folder:
            self._go(self.folder.parent, keep=self.folder)

    def action_enter_folder(self) -> None:
        """List the folder under the cursor."""
        if self._entry is not None and self._entry.kind == "folder":
            self._go(self._entry.path)

    def action_hidden(self) -> None:
        """Show the names that begin with a dot, or hide them again."""
        self._hidden = not self._hidden
        self._go(self.folder, keep=self._entry.path if self._entry else None)

    def action_filter(self) -> None:
        """Type a part of the names."""
        typed = self.query_one("#filter", Input)
        typed.display = True
        typed.focus()

    @on(Input.Changed, "#filter")
    def _filtered(self) -> None:
        self._fill(self._entry.path if self._entry else None)

    @on(Input.Submitted, "#filter")
    def action_to_list(self) -> None:
        """Go on in what the filter leaves."""
        self.query_one(OptionList).focus()

    def action_close(self) -> None:
        """Leave the filter, else the screen."""
        if self.query_one("#filter").display:
            self._close_filter()
        else:
            self.dismiss(())

    def _close_filter(self) -> None:
        typed = self.query_one("#filter", Input)
        typed.value, typed.display = "", False
        self.query_one(OptionList).focus()

    # The preview

    @on(OptionList.OptionHighlighted)
    def _moved(self) -> None:
        self._turned_away.set()
        self._turned_away = Event()
        self._look(self._entry, self._turned_away)

    @work(exclusive=True, group="preview")
    async def _look(self, entry: Entry | None, turned_away: Event) -> None:
        """Preview a file once the cursor rests on it, in a thread, one file at a time."""
        await self._show(None, "")
        if entry is None or entry.kind == "folder":
            return
        await asyncio.sleep(REST_S)
        await self._show(None, f"{entry.name}\nlooking…")
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._eyes, peek, entry.path, entry.kind, turned_away.is_set)
        except UserError as error:
            text = str(error).replace(str(entry.path), entry.name)
            await self._show(None, text)
            return
        await self._show(found, f"{entry.name}\n{found.about} · {human_size(entry.size_bytes)}")

    async def _show(self, found: Peek | None, text: str) -> None:
        places, abouts = self.query("#picture"), self.query("#about").results(Static)
        for place, about in zip(places, abouts):  # none while the screen is being taken down
            about.update(Content(text))
            await place.remove_children()
            if found is not None and place.is_attached:
                await place.mount(self._preview(found.picture))

    def _tell(self, text: str) -> None:
        self.query_one(".trouble", Static).update(Content(text))
