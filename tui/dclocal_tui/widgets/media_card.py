"""A picture or video beside the conversation: its number, name, a preview, and how far it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from dclocal_tui.clean import clean
from dclocal_tui.messages import FramesWanted, RemoveWanted
from dclocal_tui.shelf import Item

Preview = Callable[..., Widget]
MAX_TIMES = 16


class MediaCard(Vertical, can_focus=True):
    """Shows `item`; Delete takes it off while no question has shown it, Enter shows a video's frames."""

    BINDINGS: ClassVar = [
        Binding("delete,backspace,d", "remove", "Take this picture off"),
        Binding("enter,v", "frames", "Look at this video's frames"),
    ]

    item: reactive[Item | None] = reactive(None)

    def __init__(self, item: Item, preview: Preview):
        super().__init__()
        self._preview = preview
        self.set_reactive(MediaCard.item, item)

    def compose(self) -> ComposeResult:
        """Name, preview, state."""
        yield Static(classes="name")
        yield Vertical(classes="preview")
        yield Static(classes="state")

    async def on_mount(self) -> None:
        """Show what is known from the start."""
        await self.watch_item(None, self.item)

    async def watch_item(self, before: Item | None, item: Item | None) -> None:
        """Write what has changed."""
        if item is None or not self.children:
            return
        self.query_one(".name", Static).update(Content.assemble((f"[{item.number}] ", "$accent"), clean(item.name)))
        self.query_one(".state", Static).update(Content(clean(state_of(item))))
        self.set_class(bool(item.error), "-failed")
        self.set_class(item.asked, "-asked")
        self.set_class(item.media.video is not None, "-video")
        place = self.query_one(".preview")
        if item.attached is not None and item.attached.thumbnail and not place.children:
            from PIL import Image

            picture = Image.open(io.BytesIO(item.attached.thumbnail))
            picture.load()
            await place.mount(self._preview(picture))

    def action_remove(self) -> None:
        """Ask for it to be taken off."""
        if self.item is not None:
            self.post_message(RemoveWanted(self.item.number))

    def action_frames(self) -> None:
        """Ask for its frames to be shown."""
        if self.item is not None and self.item.media.video is not None:
            self.post_message(FramesWanted(self.item.number))


def state_of(item: Item) -> str:
    """How far an item is, and once it is ready what it is."""
    if item.error:
        return item.error
    found = item.attached
    if found is None:
        return item.step or "waiting…"
    if found.kind == "video":
        count, times = len(found.times_s), [f"{time_s:.1f}" for time_s in found.times_s]
        if count > MAX_TIMES:
            times = [*times[: MAX_TIMES - 1], "…", times[-1]]
        return f"{count:,} frame{'s' * (count > 1)} at {'  '.join(times)} s\n{found.summary}"
    return f"{found.size[0]}×{found.size[1]} · {found.tokens:,} tokens"
