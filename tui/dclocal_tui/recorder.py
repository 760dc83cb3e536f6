"""Writes a conversation to the history as it goes, in a thread of its own, so that no disk holds the screen up."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dclocal.chat_events import Stats
from dclocal.engine_messages import Media
from dclocal.errors import UserError
from dclocal.history import GrowingAnswer, History
from dclocal.history_data import MediaFile, SavedSession
from dclocal_tui.shelf import Item

TITLE_CHARACTERS = 60
WATCHED = "watched_at"
"""In the stats of a question that a watch asked: the time."""


class Recorder:
    """One conversation at a time; calls return at once and are carried out in order.

    `session` is the conversation's number once it has one; trouble goes to `on_trouble`, from the thread.
    """

    def __init__(self, history: History, on_trouble: Callable[[UserError], None]):
        self.history = history
        self.session: int | None = None
        self._on_trouble = on_trouble
        self._growing: GrowingAnswer | None = None
        self._thread = ThreadPoolExecutor(1, "history")

    def start_over(self, session: int | None = None) -> None:
        """What follows belongs to another conversation: a saved one, or a new one."""

        def act() -> None:
            self._finish(None, None, "")
            self.session = session

        self._do(act)

    def question(self, turn: int, text: str, items: Sequence[Item], bundle: str, when: str = "") -> None:
        """Turn `turn` asks this, a watch's at the time `when`; what stood there and after it is gone."""
        files = [saved_file(item) for item in items]

        def act() -> None:
            if self.session is None:
                self.session = self.history.create(title_of(text), bundle)
            self.history.cut(self.session, 2 * turn)
            self.history.append(self.session, "user", text, media=files, stats={WATCHED: when} if when else None)

        self._do(act)

    def answer(self, turn: int, text: str) -> None:
        """The answer of turn `turn` begins with `text` and will grow."""

        def act() -> None:
            if self.session is not None:
                self.history.cut(self.session, 2 * turn + 1)
                self._growing = GrowingAnswer(self.history, self.session)
                self._growing.add(text)

        self._do(act)

    def piece(self, text: str) -> None:
        """The answer's next piece."""
        self._do(lambda: self._growing.add(text) if self._growing else None)

    def finish(self, text: str | None = None, stats: Stats | None = None, stop_reason: str = "") -> None:
        """The answer is whole: `text`, or what there was of it."""
        self._do(lambda: self._finish(text, stats, stop_reason))

    def take_back(self, turn: int) -> None:
        """Turn `turn` came to nothing; without any turn there is no conversation."""

        def act() -> None:
            if self.session is None:
                return
            if turn:
                self.history.cut(self.session, 2 * turn)
            else:
                self.history.delete(self.session)
                self.session = None

        self._do(act)

    def wait(self) -> None:
        """Until all so far is written."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Write what is left."""
        self._do(lambda: self._finish(None, None, ""))
        self._thread.shutdown()

    def _finish(self, text: str | None, stats: Stats | None, stop_reason: str) -> None:
        growing, self._growing = self._growing, None
        if growing is not None:
            cost = None if stats is None else dataclasses.asdict(stats)
            growing.finish(text, stats=cost, stop_reason=stop_reason)

    def _do(self, act: Callable[[], Any]) -> None:
        def guarded() -> None:
            try:
                act()
            except UserError as error:
                self._on_trouble(error)

        self._thread.submit(guarded)


def title_of(text: str) -> str:
    """A conversation's title: its first question, on one short line."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARACTERS else line[: TITLE_CHARACTERS - 1] + "…"


def saved_file(item: Item) -> MediaFile:
    """An item as the history keeps it; of a picture from the web, its address and preview."""
    preview = item.attached.thumbnail if item.attached else b""
    kind = "video" if item.media.video else "image"
    source = item.media.source
    if isinstance(source, str) and re.match(r"https?://", source):
        return MediaFile(kind, source, None, preview)
    return MediaFile(kind, item.name, source if isinstance(source, bytes) else Path(source), preview)


def saved_media(file: MediaFile, media_of: Callable[[str], Media]) -> Media:
    """A medium of the history as the engine takes it; `media_of` reads a path or an address."""
    if file.source is None:
        return media_of(file.name)
    if isinstance(file.source, bytes):
        return Media(file.source, name=file.name)
    return dataclasses.replace(media_of(str(file.source)), name=file.name)


def questions_and_answers(saved: SavedSession) -> list[tuple[str, tuple[MediaFile, ...], str, str, str]]:
    """The turns of a saved conversation: question, media, answer, why it stopped, and when a watch asked it.

    An unanswered question has "".
    """
    turns: list[tuple[str, tuple[MediaFile, ...], str, str, str]] = []
    for message in saved.messages:
        if message.role == "user":
            turns.append((message.text, message.media, "", "", str((message.stats or {}).get(WATCHED, ""))))
        elif message.role == "assistant" and turns:
            turns[-1] = (*turns[-1][:2], message.text, message.stop_reason, turns[-1][4])
    return turns
