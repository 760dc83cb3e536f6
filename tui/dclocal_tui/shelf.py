"""The media of a conversation as the user sees them: numbered from 1, being prepared, ready, or failed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dclocal.engine_messages import Attached, Media


@dataclass(frozen=True)
class Item:
    """A picture or video; `request` is the engine's number for its attaching, `asked` once a question showed it."""

    number: int
    media: Media
    request: int = 0
    attached: Attached | None = None
    error: str = ""
    step: str = ""
    asked: bool = False

    @property
    def preparing(self) -> bool:
        """Whether it is still on its way."""
        return self.attached is None and not self.error

    @property
    def name(self) -> str:
        """What people call it."""
        return self.media.name or "picture"


class Shelf:
    """The items in the order of their numbers; a removed one's number is not given again in the conversation."""

    def __init__(self) -> None:
        self.items: tuple[Item, ...] = ()
        self._last = 0

    def add(self, media: Media, **known: object) -> Item:
        """A new item, with the next number."""
        self._last += 1
        item = replace(Item(self._last, media), **known)  # type: ignore[arg-type]
        self.items = (*self.items, item)
        return item

    def change(self, number: int, **changes: object) -> None:
        """Set fields of an item; nothing where it was removed."""
        self.items = tuple(
            replace(item, **changes) if item.number == number else item  # type: ignore[arg-type]
            for item in self.items
        )

    def remove(self, number: int) -> Item | None:
        """Take an item away; the item, None where there is none."""
        item = self.get(number)
        self.items = tuple(item for item in self.items if item.number != number)
        return item

    def get(self, number: int) -> Item | None:
        """The item of that number."""
        return next((item for item in self.items if item.number == number), None)

    def by_request(self, request: int) -> Item | None:
        """The item that a request attaches."""
        return next((item for item in self.items if item.preparing and item.request == request), None)

    def fresh(self) -> tuple[Item, ...]:
        """What the next question will show: not failed, not yet shown."""
        return tuple(item for item in self.items if not item.asked and not item.error)

    def keys(self, numbers: tuple[int, ...]) -> tuple[str, ...]:
        """The engine's keys of these items, without those that are not there."""
        found = (self.get(number) for number in numbers)
        return tuple(item.attached.key for item in found if item is not None and item.attached is not None)

    def clear(self) -> None:
        """Start anew at number 1."""
        self.items, self._last = (), 0
