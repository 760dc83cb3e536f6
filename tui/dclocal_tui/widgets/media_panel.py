"""The media of the conversation, beside it where the terminal is wide, below it where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.containers import ScrollableContainer

from dclocal_tui.shelf import Item
from dclocal_tui.widgets.media_card import MediaCard, Preview

if TYPE_CHECKING:
    from dclocal_tui.widgets.camera_card import CameraCard


class MediaPanel(ScrollableContainer, can_focus=False):
    """A card for each item; hidden while there are none."""

    def __init__(self, preview: Preview):
        super().__init__()
        self._preview = preview
        self._camera: CameraCard | None = None

    def show_media(self, items: Sequence[Item]) -> None:
        """Show these items, in this order."""
        cards = {card.item.number: card for card in self.query(MediaCard) if card.item is not None}
        wanted = {item.number for item in items}
        for number, card in cards.items():
            if number not in wanted:
                card.remove()
        added = []
        for item in items:
            if item.number in cards:
                cards[item.number].item = item
            else:
                added.append(MediaCard(item, self._preview))
        self.display = bool(items) or self._camera is not None
        if added:
            self.mount_all(added)
            self.call_after_refresh(added[-1].scroll_visible, animate=False)

    def show_camera(self, card: CameraCard | None) -> None:
        """Show this camera, which stays in sight, in place of the one before."""
        if self._camera is not None:
            self._camera.remove()
        self._camera = card
        self.set_class(card is not None, "-camera")
        self.display = card is not None or bool(self.query(MediaCard))
        if card is not None:
            self.mount(card)
