"""Conversations kept in a database of the user's own: created, appended to as answers grow, found again, deleted.

SQLite in WAL mode under `places.home()`; several processes may use it at once.  Where the home cannot be written the
history lives in memory, and a damaged database is moved aside: `note` says so.  `history_data.py` has what is handed
on, `history_media.py` keeps pictures and videos, `history_export.py` writes conversations to files.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dclocal.history_data import (
    MAX_PREVIEW_BYTES,
    HistoryError,
    Hit,
    MediaFile,
    SavedMessage,
    SavedSession,
    SessionInfo,
)
from dclocal.history_file import open_database
from dclocal.history_media import forget_media, keep_media
from dclocal.places import home

SAVE_S = 0.5
"""A growing answer is written at most this often, and no later than this after a piece."""
SNIPPET_TOKENS = 16
SESSION = "SELECT id, title, bundle, created, updated FROM sessions"


class History:
    """The conversations under `folder` (None: the home).  May be used from several threads.

    Its methods raise HistoryError where the database cannot be read or written, or there is no such conversation.
    """

    def __init__(self, folder: Path | None = None):
        folder = home() if folder is None else folder
        self._lock = threading.RLock()
        self._database, self.note = open_database(folder)
        self._media_folder = folder / "media" if not self.note.startswith("kept in memory") else None

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the database go."""
        with self._lock:
            self._database.close()

    def create(self, title: str, bundle: str = "") -> int:
        """A new conversation's number."""
        with self._writing() as database:
            now = time.time()
            made = database.execute(
                "INSERT INTO sessions (title, bundle, created, updated) VALUES (?, ?, ?, ?)", (title, bundle, now, now)
            )
            return int(made.lastrowid or 0)

    def append(
        self,
        session: int,
        role: str,
        text: str,
        *,
        media: Sequence[MediaFile] = (),
        stats: Mapping[str, Any] | None = None,
        stop_reason: str = "",
    ) -> int:
        """Add a message at the conversation's end; returns its number.  Small media files are copied."""
        for file in media:
            if len(file.preview) > MAX_PREVIEW_BYTES:
                raise ValueError(f"a preview of {len(file.preview)} bytes; expected at most {MAX_PREVIEW_BYTES}")
        with self._writing() as database:
            self._touch(session)
            position = "(SELECT coalesce(max(position) + 1, 0) FROM messages WHERE session = ?)"
            made = database.execute(
                "INSERT INTO messages (session, position, role, text, stats, stop_reason, created) "
                f"VALUES (?, {position}, ?, ?, ?, ?, ?)",
                (session, session, role, text, json.dumps(stats), stop_reason, time.time()),
            )
            message = int(made.lastrowid or 0)
            for order, file in enumerate(media):
                keep_media(database, self._media_folder, message, order, file)
            return message

    def update(self, message: int, text: str, *, stats: Mapping[str, Any] | None = None, stop_reason: str = "") -> None:
        """Write a message anew: an answer that has grown, or is complete."""
        with self._writing() as database:
            changed = database.execute(
                "UPDATE messages SET text = ?, stats = ?, stop_reason = ? WHERE id = ? RETURNING session",
                (text, json.dumps(stats), stop_reason, message),
            ).fetchone()
            if changed is None:
                raise HistoryError(f"there is no message {message}", "it was deleted meanwhile")
            self._touch(changed[0])

    def cut(self, session: int, messages: int) -> None:
        """Keep the conversation's first `messages`: one that is edited goes on from there."""
        with self._writing() as database:
            self._touch(session)
            database.execute("DELETE FROM messages WHERE session = ? AND position >= ?", (session, messages))
            forget_media(database, self._media_folder)

    def rename(self, session: int, title: str) -> None:
        """Give a conversation another title."""
        with self._writing() as database:
            self._touch(session)
            database.execute("UPDATE sessions SET title = ? WHERE id = ?", (title, session))

    def delete(self, session: int) -> None:
        """Delete a conversation, and the copies of media that no other shows."""
        with self._writing() as database:
            self._touch(session)
            database.execute("DELETE FROM sessions WHERE id = ?", (session,))
            forget_media(database, self._media_folder)

    def sessions(self, limit: int = 200, offset: int = 0) -> list[SessionInfo]:
        """Conversations, the last used first."""
        with self._reading() as database:
            rows = database.execute(f"{SESSION} ORDER BY updated DESC, id DESC LIMIT ? OFFSET ?", (limit, offset))
            return [SessionInfo(*row) for row in rows]

    def search(self, text: str, limit: int = 50) -> list[Hit]:
        """Where all the words of `text`, or what begins with them, stand: in titles, then in messages, best first."""
        query = " ".join(f'"{word}"*' for word in re.findall(r"\w+", text))
        if not query:
            return []
        titles = (
            "SELECT s.id, s.title, NULL, snippet(titles, 0, '[', ']', '…', ?) FROM titles "
            "JOIN sessions s ON s.id = titles.rowid WHERE titles MATCH ? ORDER BY rank LIMIT ?"
        )
        messages = (
            "SELECT s.id, s.title, m.position, snippet(words, 0, '[', ']', '…', ?) FROM words "
            "JOIN messages m ON m.id = words.rowid JOIN sessions s ON s.id = m.session "
            "WHERE words MATCH ? ORDER BY rank LIMIT ?"
        )
        with self._reading() as database:
            rows = [
                row for wanted in (titles, messages) for row in database.execute(wanted, (SNIPPET_TOKENS, query, limit))
            ]
        return [Hit(*row) for row in rows[:limit]]

    def load(self, session: int) -> SavedSession:
        """A conversation with its messages and their media."""
        with self._reading() as database:
            database.execute("BEGIN")  # one state of the database, whatever others write meanwhile
            try:
                info = database.execute(f"{SESSION} WHERE id = ?", (session,)).fetchone()
                rows = database.execute(
                    "SELECT id, role, text, stats, stop_reason, created FROM messages WHERE session = ? "
                    "ORDER BY position",
                    (session,),
                ).fetchall()
                media = self._media_of(session)
            finally:
                database.execute("COMMIT")
        if info is None:
            raise _unknown(session)
        messages = tuple(
            SavedMessage(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5], tuple(media.get(row[0], ())))
            for row in rows
        )
        return SavedSession(SessionInfo(*info), messages)

    def _media_of(self, session: int) -> dict[int, list[MediaFile]]:
        found: dict[int, list[MediaFile]] = {}
        rows = self._database.execute(
            "SELECT s.message, d.hash, d.kind, s.name, s.path, d.copy, d.preview FROM shown s "
            "JOIN media d ON d.hash = s.hash JOIN messages m ON m.id = s.message "
            "WHERE m.session = ? ORDER BY s.message, s.position",
            (session,),
        )
        for message, digest, kind, name, path, copy, preview in rows:
            kept = self._media_folder / copy if copy and self._media_folder else None
            source = kept if kept is not None and kept.is_file() else Path(path) if path else None
            found.setdefault(message, []).append(MediaFile(kind, name, source, preview, digest))
        return found

    def _touch(self, session: int) -> None:
        """Note that a conversation was used; raises HistoryError where it is gone."""
        if not self._database.execute("UPDATE sessions SET updated = ? WHERE id = ?", (time.time(), session)).rowcount:
            raise _unknown(session)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._database
            except sqlite3.Error as error:
                raise HistoryError(f"the history cannot be read ({error})", "start again") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, alone among all processes."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                raise HistoryError(f"the history cannot be written ({error})", "free space, or start again") from error


class GrowingAnswer:
    """An answer that is saved as it comes, so that a crash loses half a second of it; use from any thread."""

    def __init__(self, history: History, session: int):
        self._history = history
        self.message = history.append(session, "assistant", "")
        self._lock = threading.Lock()
        self._text, self._saved_at, self._done = "", time.monotonic(), False
        self._timer: threading.Timer | None = None
        self.error: HistoryError | None = None

    def add(self, piece: str) -> None:
        """Take the next piece; it is saved within SAVE_S."""
        with self._lock:
            self._text += piece
            wait = self._saved_at + SAVE_S - time.monotonic()
            if wait > 0 and self._timer is None:
                self._timer = threading.Timer(wait, self._save)
                self._timer.daemon = True
                self._timer.start()
        if wait <= 0:
            self._save()

    def finish(self, text: str | None = None, *, stats: Mapping[str, Any] | None = None, stop_reason: str = "") -> None:
        """Save the answer for good: `text`, or the pieces so far (a crash).  Raises HistoryError."""
        with self._lock:
            self._done = True
            if self._timer is not None:
                self._timer.cancel()
            whole = self._text if text is None else text
            self._history.update(self.message, whole, stats=stats, stop_reason=stop_reason)

    def _save(self) -> None:
        """Write what there is; trouble is kept in `error`, the answer goes on."""
        with self._lock:
            self._timer = None
            if self._done:
                return
            self._saved_at = time.monotonic()
            try:
                self._history.update(self.message, self._text)
            except HistoryError as error:
                self.error = error


def _unknown(session: int) -> HistoryError:
    return HistoryError(f"there is no conversation {session}", "it was deleted meanwhile")
