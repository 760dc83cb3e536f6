"""The bundles that are there, to choose which one answers; what each is, and the embedded one pulled."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList, ProgressBar, Static
from textual.widgets.option_list import Option

from dclocal.bundle import Bundle
from dclocal.describe import human_size
from dclocal.errors import UserError
from dclocal.store import EMBEDDED, installed
from dclocal.tables import Table
from dclocal.wheels import WHEELS
from dclocal_tui.pulling import Pull
from dclocal_tui.widgets.bundle_details import BundleDetails, details

KEYS = "Enter opens · p pulls · Tab details · Esc closes"
PULLING = "Esc stops the pull"
DOWNLOAD_BYTES = sum(WHEELS[part].size_bytes for part in ("vision", "llm"))
LOOK_S = 0.1
"""How often the progress of a pull is drawn."""


class BundlesScreen(ModalScreen[str | None]):
    """Hands back the name of the bundle that was chosen, None where none was."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar = [("escape,f4", "close"), ("p", "pull")]

    def __init__(self, current: str):
        super().__init__()
        self._current = current
        self._found: dict[str, Bundle | UserError | None] = {}  # None: not built yet
        self._pull: Pull | None = None

    def compose(self) -> ComposeResult:
        """A line for each, the details of the one under the cursor, how far a pull is."""
        with Vertical(classes="box") as box:
            box.border_title, box.border_subtitle = "Bundles", KEYS
            with Container(id="bundles"):
                yield OptionList()
                yield BundleDetails()
            with Horizontal(id="pull"):
                yield Label(id="step")
                yield ProgressBar(show_eta=False)
            yield Static(classes="trouble")

    def on_mount(self) -> None:
        """Look for them in a thread: manifests lie on disks."""
        self.query_one("#pull").display = False
        self.set_interval(LOOK_S, self._watch_pull)
        self._list(self._current)

    def on_unmount(self) -> None:
        """Nobody is left who wants it."""
        if self._pull is not None:
            self._pull.stop()

    @work
    async def _list(self, highlighted: str) -> None:
        try:
            found = await asyncio.to_thread(installed)
        except UserError as error:
            self._tell(str(error))
            found = []
        self._found = {**dict(found), **{name: None for name in EMBEDDED if name not in dict(found)}}
        names = list(self._found)
        chooser = self.query_one(OptionList)
        chooser.clear_options()
        chooser.add_options([Option(self._line(name, bundle), id=name) for name, bundle in self._found.items()])
        chooser.highlighted = names.index(highlighted) if highlighted in names else 0
        chooser.focus()

    def _line(self, name: str, bundle: Bundle | UserError | None) -> Content:
        mark = "● " if name == self._current else "  "
        if bundle is None:
            return Content(f"  {name}  built when it is opened")
        if isinstance(bundle, UserError):
            return Content.assemble(mark, (name, "bold"), f"  {bundle}")
        licences = ", ".join(sorted(set(bundle.manifest.licences.values())))
        about = f"  {human_size(bundle.size_bytes)}  {licences}\n  {bundle.manifest.description}"
        return Content.assemble(mark, (name, "bold"), about)

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        self._describe(str(event.option_id))

    @work(exclusive=True, group="details")
    async def _describe(self, name: str) -> None:
        bundle = self._found.get(name)
        if bundle is None:
            await self._show_details(f"not here yet: p pulls it, {human_size(DOWNLOAD_BYTES)} to download")
        elif isinstance(bundle, UserError):
            await self._show_details(str(bundle))
        else:
            try:
                await self._show_details(await asyncio.to_thread(details, bundle))
            except UserError as error:
                await self._show_details(str(error))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """This one."""
        if self._pull is None:
            self.dismiss(event.option_id)
        else:
            self._tell(f"{self._pull.name} is being pulled: wait, or press Esc")

    # Pulling

    def action_pull(self) -> None:
        """Build the bundle under the cursor, unless it is whole and made from what ships now."""
        chooser = self.query_one(OptionList)
        if self._pull is not None or chooser.highlighted is None:
            return
        name = str(chooser.get_option_at_index(chooser.highlighted).id)
        if name not in EMBEDDED:
            self._tell(f"{name} cannot be pulled: that is for {', '.join(EMBEDDED)}")
            return
        self._pull = Pull(name)
        self._tell("")
        self.query_one("#pull").display = True
        self.query_one(".box", Vertical).border_subtitle = PULLING
        self._watch_pull()

    def action_close(self) -> None:
        """Call a pull off, else leave; again, leave it to end by itself."""
        if self._pull is None or self._pull.stopping:
            self.dismiss(None)
        else:
            self._pull.stop()
            self._watch_pull()

    def _watch_pull(self) -> None:
        pull = self._pull
        if pull is None:
            return
        if pull.finished:
            self._pull_ended(pull)
            return
        step, done, total = pull.step or (f"looking at {pull.name}", 0, 0)
        self.query_one("#step", Label).update(Content("stopping…  Esc leaves" if pull.stopping else step))
        self.query_one(ProgressBar).update(progress=done, total=total or None)

    def _pull_ended(self, pull: Pull) -> None:
        self._pull = None
        self.query_one("#pull").display = False
        self.query_one(".box", Vertical).border_subtitle = KEYS
        if pull.bundle is None:
            self._tell(pull.error or f"stopped: {pull.name} was not pulled")
        elif pull.step is None:
            self._tell(f"{pull.name} is whole and up to date")
        else:
            self._tell(f"{pull.name} is pulled: Enter opens it")
        self._list(pull.name)

    async def _show_details(self, found: list[Table] | str) -> None:
        for pane in self.query(BundleDetails):  # none while the screen is being taken down
            await pane.show(found)

    def _tell(self, text: str) -> None:
        self.query_one(".trouble", Static).update(Content(text))
