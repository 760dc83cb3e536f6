"""Ways to attach that need a screen or a thread of their own: the file browser, the clipboard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from textual import work

from dclocal.engine_messages import Media
from dclocal.errors import UserError
from dclocal_tui.paths import media_of
from dclocal_tui.screens.dialogs import Dialogs


class Attaching(Dialogs):
    """Chosen files go to the conversation as typed paths do."""

    _folder: Path | None = None  # where the browser was left

    def action_browse(self) -> None:
        """Choose files, from where the browser was left."""
        self.browse("")

    @work
    async def browse(self, folder: str) -> None:
        """Choose files under `folder`, "" for where the browser was left, else where the app was started."""
        from dclocal_tui.screens.browse import BrowseScreen

        start = Path(folder).expanduser().absolute() if folder else self._folder or Path.cwd()
        if not await asyncio.to_thread(start.is_dir):
            self.tell(f"{start} is not a folder", "error")
            return
        screen = BrowseScreen(start, self.app.preview)
        chosen = await self.app.push_screen_wait(screen)
        self._folder = screen.folder
        self.add_media(str(path) for path in chosen)

    @work(exclusive=True, group="clipboard")
    async def action_paste_picture(self) -> None:
        """Attach the picture in the clipboard; the history keeps it with the question that shows it."""
        from dclocal_tui.clipboard import grab

        try:
            found = await asyncio.to_thread(grab)
        except UserError as error:
            self.tell(str(error), "warning")
            return
        if isinstance(found, bytes):
            self.talk.attach(Media(found, name="clipboard.png"))
        else:
            self.add_media(found)

    def add_media(self, sources: Iterable[str]) -> None:
        """Attach paths and web addresses."""
        for source in sources:
            self.talk.attach(media_of(source, self.app.settings.frames))
