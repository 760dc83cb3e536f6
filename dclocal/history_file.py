"""The history's database: opened, made, moved aside where it is damaged, in memory where it cannot be written."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from dclocal.history_data import HistoryError

FILE = "history.db"
VERSION = 1
BUSY_S = 10.0
SCHEMA = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, bundle TEXT NOT NULL, created REAL NOT NULL,
    updated REAL NOT NULL);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    position INTEGER NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL, stats TEXT NOT NULL, stop_reason TEXT NOT NULL,
    created REAL NOT NULL, UNIQUE (session, position));
CREATE TABLE media (
    hash TEXT PRIMARY KEY, kind TEXT NOT NULL, copy TEXT NOT NULL, preview BLOB NOT NULL);
CREATE TABLE shown (
    message INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE, position INTEGER NOT NULL,
    hash TEXT NOT NULL REFERENCES media, name TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (message, position));
CREATE INDEX shown_hash ON shown (hash);
CREATE INDEX sessions_updated ON sessions (updated);
CREATE VIRTUAL TABLE words USING fts5(text, content='messages', content_rowid='id');
CREATE TRIGGER words_insert AFTER INSERT ON messages BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER words_delete AFTER DELETE ON messages BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text); END;
CREATE TRIGGER words_update AFTER UPDATE OF text ON messages BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO words (rowid, text) VALUES (new.id, new.text); END;
CREATE VIRTUAL TABLE titles USING fts5(title, content='sessions', content_rowid='id');
CREATE TRIGGER titles_insert AFTER INSERT ON sessions BEGIN
    INSERT INTO titles (rowid, title) VALUES (new.id, new.title); END;
CREATE TRIGGER titles_delete AFTER DELETE ON sessions BEGIN
    INSERT INTO titles (titles, rowid, title) VALUES ('delete', old.id, old.title); END;
CREATE TRIGGER titles_update AFTER UPDATE OF title ON sessions BEGIN
    INSERT INTO titles (titles, rowid, title) VALUES ('delete', old.id, old.title);
    INSERT INTO titles (rowid, title) VALUES (new.id, new.title); END;
"""


class Damaged(Exception):
    """The file is no database of ours."""


def open_database(folder: Path) -> tuple[sqlite3.Connection, str]:
    """The database in `folder`, and a note for the user where it is not the one that was there ("" otherwise)."""
    from filelock import FileLock

    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{FILE}.lock"):
            try:
                return _open(file), ""
            except Damaged as error:
                aside = _move_aside(file)
                return _open(file), f"the history was damaged ({error}): it is kept as {aside}, a new one is begun"
    except HistoryError as error:
        why = str(error)
    except (OSError, NotImplementedError, sqlite3.Error, Damaged) as error:
        why = f"{file} cannot be written ({getattr(error, 'strerror', None) or error})"
    return _prepared(_connect(":memory:")), f"kept in memory, and gone when this ends: {why}"


def _connect(name: str | Path) -> sqlite3.Connection:
    """Every statement is a transaction of its own, unless one is begun; threads take turns by the caller's lock."""
    return sqlite3.connect(name, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _open(file: Path) -> sqlite3.Connection:
    """Raises Damaged, HistoryError for one of a newer version, or sqlite3.Error where it cannot be written."""
    database = _connect(file)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a crash of ours loses nothing; one of the machine, a second
        whole = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if whole != "ok":
            raise Damaged(whole)
        prepared = _prepared(database)
        prepared.execute("BEGIN IMMEDIATE")  # a read-only file opens, but not for this
        prepared.execute("ROLLBACK")
        return prepared
    except sqlite3.OperationalError:
        database.close()
        raise
    except sqlite3.DatabaseError as error:
        database.close()
        raise Damaged(str(error)) from error
    except BaseException:
        database.close()
        raise


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    """With tables, and with the rule that messages go with their conversation."""
    database.execute("PRAGMA foreign_keys = ON")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise HistoryError(f"the history has version {version}, this dclocal reads up to {VERSION}", "upgrade dclocal")
    if version == 0:
        database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    return database


def _move_aside(file: Path) -> Path:
    """Rename the file and what belongs to it; returns its new name."""
    aside = file.with_name(f"{file.stem}-damaged-{time.strftime('%Y%m%d-%H%M%S')}.db")
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(f"{file}{suffix}"):
            os.replace(f"{file}{suffix}", f"{aside}{suffix}")
    return aside
