"""A saved conversation as the screen and the engine take it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dclocal.engine_messages import Media, Said
from dclocal.history_data import MediaFile
from dclocal_tui.recorder import saved_media
from dclocal_tui.shelf import Shelf
from dclocal_tui.state import Turn

Saved = tuple[str, tuple[MediaFile, ...], str, str]


def from_history(
    saved: Sequence[Saved], media_of: Callable[[str], Media]
) -> tuple[tuple[Turn, ...], tuple[Said, ...], Shelf, str]:
    """The turns, the same for the engine, their media numbered, and a last question that was never answered."""
    unanswered = ""
    if saved and not saved[-1][2]:
        unanswered, saved = saved[-1][0], saved[:-1]
    shelf, turns, said = Shelf(), [], []
    for text, files, answer, stop_reason in saved:
        media = [saved_media(file, media_of) for file in files]
        items = [shelf.add(medium, asked=True, step="opening…") for medium in media]
        turns.append(Turn(text, tuple(item.number for item in items), answer, stop_reason or "end"))
        said.append(Said(text, tuple(media), answer))
    return tuple(turns), tuple(said), shelf, unanswered
