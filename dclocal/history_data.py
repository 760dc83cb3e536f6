"""What the history hands on: conversations, messages and media as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dclocal.errors import UserError

MAX_PREVIEW_BYTES = 64 << 10


class HistoryError(UserError):
    """The history cannot be read, written or exported, or has no such conversation."""


@dataclass(frozen=True)
class SessionInfo:
    """A conversation's number, title and bundle; times are seconds since 1970."""

    id: int
    title: str
    bundle: str
    created: float
    updated: float


@dataclass(frozen=True)
class MediaFile:
    """A picture or video (`kind`: image or video) of a message, and a small picture of it, a JPEG of at most 64 KiB.

    To save: `source` is its path, or the bytes of the file.  Loaded: the path of the copy, else of the original, which
    may be gone by now; `hash` is the file's SHA-256 in hex.
    """

    kind: str
    name: str
    source: Path | bytes | None
    preview: bytes = b""
    hash: str = ""


@dataclass(frozen=True)
class SavedMessage:
    """A message of a conversation; `stats` are those of an answer."""

    id: int
    role: str
    text: str
    stats: Mapping[str, Any] | None
    stop_reason: str
    created: float
    media: tuple[MediaFile, ...]


@dataclass(frozen=True)
class SavedSession:
    """A conversation with its messages in order."""

    info: SessionInfo
    messages: tuple[SavedMessage, ...]


@dataclass(frozen=True)
class Hit:
    """Where a search found its words: in a title (`position` None), or in the message at `position`, from 0.

    `snippet` has them in brackets.
    """

    session: int
    title: str
    position: int | None
    snippet: str
