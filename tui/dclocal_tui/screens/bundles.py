"""The bundles that are there, to choose which one answers."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from dclocal.bundle import Bundle
from dclocal.errors import UserError
from dclocal.store import EMBEDDED, installed

MEGABYTE = 1 << 20


class BundlesScreen(ModalScreen[str | None]):
    """Hands back the name of the bundle that was chosen, None where none was."""

    BINDINGS: ClassVar = [("escape,f4", "dismiss(None)")]

    def __init__(self, current: str):
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        """A line for each."""
        with Vertical(classes="box") as box:
            box.border_title, box.border_subtitle = "Bundles", "Enter opens · Esc closes"
            yield OptionList()
            yield Static(classes="trouble")

    def on_mount(self) -> None:
        """Look for them in a thread: manifests lie on disks."""
        self._list()

    @work
    async def _list(self) -> None:
        try:
            found = await asyncio.to_thread(installed)
        except UserError as error:
            self.query_one(".trouble", Static).update(Content(str(error)))
            found = []
        names = [name for name, _ in found]
        options = [Option(self._line(name, bundle), id=name) for name, bundle in found]
        options += [
            Option(Content(f"  {name}  built when it is opened"), id=name) for name in EMBEDDED if name not in names
        ]
        chooser = self.query_one(OptionList)
        chooser.add_options(options)
        chooser.highlighted = names.index(self._current) if self._current in names else 0
        chooser.focus()

    def _line(self, name: str, bundle: Bundle | UserError) -> Content:
        mark = "● " if name == self._current else "  "
        if isinstance(bundle, UserError):
            return Content.assemble(mark, (name, "bold"), f"  {bundle}")
        licences = ", ".join(sorted(set(bundle.manifest.licences.values())))
        size = f"{bundle.size_bytes / MEGABYTE:,.0f} MB"
        about = f"  {size}  {licences}\n  {bundle.manifest.description}"
        return Content.assemble(mark, (name, "bold"), about)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """This one."""
        self.dismiss(event.option_id)
