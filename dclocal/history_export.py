"""A conversation of the history as a file for people (Markdown) or programs (JSON), its media beside it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from dclocal.history_data import HistoryError, MediaFile, SavedMessage, SavedSession

SPEAKERS = {"user": "You", "assistant": "Answer", "system": "System"}


def export(session: SavedSession, file: Path) -> list[Path]:
    """Write `file`, .md or .json, and its media to the folder NAME_media beside it; returns all files written.

    Where a medium is gone, its small preview takes its place.  Raises HistoryError.
    """
    if file.suffix not in (".md", ".json"):
        raise HistoryError(f"{file} is neither .md nor .json", "name a file that ends in one of them")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = file.with_name(f"{file.stem}_media")
        links, written = {}, []
        for message in session.messages:
            for order, media in enumerate(message.media):
                copy = _write_media(media, folder)
                links[message.id, order] = f"{folder.name}/{copy.name}" if copy else ""
                written += [copy] if copy else []
        text = _markdown(session, links) if file.suffix == ".md" else _json(session, links)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HistoryError(f"{error.filename or file} cannot be written ({error.strerror})", "name another") from error
    return [file, *dict.fromkeys(written)]


def _write_media(media: MediaFile, folder: Path) -> Path | None:
    """The medium's file in `folder`, its preview where it is gone, None where there is neither."""
    stem = re.sub(r"[^\w.-]+", "_", Path(media.name).stem)[:60]
    source = media.source
    there = isinstance(source, Path) and source.is_file()
    if not there and not media.preview:
        return None
    folder.mkdir(exist_ok=True)
    if isinstance(source, Path) and there:
        target = folder / f"{stem}-{media.hash[:8]}{Path(media.name).suffix or source.suffix}"
        shutil.copyfile(source, target)
        return target
    target = folder / f"{stem}-{media.hash[:8]}-preview.jpg"
    target.write_bytes(media.preview)
    return target


def _markdown(session: SavedSession, links: dict[tuple[int, int], str]) -> str:
    info = session.info
    when = datetime.fromtimestamp(info.created, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lines = [f"# {_one_line(info.title)}", "", f"{info.bundle}, {when}" if info.bundle else when, ""]
    for message in session.messages:
        lines += [f"**{SPEAKERS.get(message.role, message.role)}**", ""]
        lines += _media_lines(message, links)
        lines += [message.text, ""]
    return "\n".join(lines)


def _media_lines(message: SavedMessage, links: dict[tuple[int, int], str]) -> Sequence[str]:
    lines = []
    for order, media in enumerate(message.media):
        name, link = re.sub(r"([\[\]\\])", r"\\\1", _one_line(media.name)), quote(links[message.id, order])
        picture = media.kind == "image" or link.endswith("-preview.jpg")
        lines += [f"{'!' * picture}[{name}]({link})" if link else f"({name} is gone)", ""]
    return lines


def _json(session: SavedSession, links: dict[tuple[int, int], str]) -> str:
    messages = [
        {
            "role": message.role,
            "text": message.text,
            "media": [
                {"kind": media.kind, "name": media.name, "sha256": media.hash, "file": links[message.id, order]}
                for order, media in enumerate(message.media)
            ],
            "stats": message.stats,
            "stop_reason": message.stop_reason,
            "created": message.created,
        }
        for message in session.messages
    ]
    return json.dumps({**asdict(session.info), "messages": messages}, indent=2, ensure_ascii=False) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())
