"""A saved conversation as the screen and the engine take it up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dclocal.engine_messages import Media, Said
from dclocal.history_data import MediaFile
from dclocal_tui.recorder import saved_media
from dclocal_tui.shelf import Shelf
from dclocal_tui.state import Turn, remembered, turns_before

Saved = tuple[str, tuple[MediaFile, ...], str, str, str]


def from_history(
    saved: Sequence[Saved], media_of: Callable[[str], Media]
) -> tuple[tuple[Turn, ...], tuple[Said, ...], Shelf, str]:
    """The turns, those that the engine is to know, their media numbered, and a last question that was never answered.

    Of a watch the engine is told the last question; the pictures of those before it stay in the history.
    """
    unanswered = ""
    if saved and not saved[-1][2]:
        unanswered, saved = saved[-1][0], saved[:-1]
    shelf = Shelf()
    turns: tuple[Turn, ...] = ()
    for text, files, answer, stop_reason, when in saved:
        items = [shelf.add(saved_media(file, media_of), asked=True, step="opening…") for file in files]
        turn = Turn(text, tuple(item.number for item in items), answer, stop_reason or "end", when)
        turns = (*turns_before(turns, turn), turn)
    for number in {number for turn in turns if turn.passed for number in turn.numbers}:
        shelf.remove(number)
    said = [
        Said(turn.text, tuple(item.media for number in turn.numbers if (item := shelf.get(number))), turn.answer)
        for turn in remembered(turns)
    ]
    return turns, tuple(said), shelf, unanswered
