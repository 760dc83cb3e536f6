"""What people type, paste or drop as media: paths and URLs found in text, and completed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlparse

from dclocal.engine_messages import Media

MAX_ENTRIES = 5000
MAX_CANDIDATES = 50
URL = re.compile(r"https?://\S+$", re.IGNORECASE)
NAMED = re.compile(r"(?<!\S)@(\"[^\"]+\"|\S+)")


def media_of(source: str, frames: int | None = None) -> Media:
    """What a path or URL names: a video by its suffix, else a picture; `frames` of a video, None for the bundle's."""
    if URL.match(source):
        return Media(source, name=unquote(os.path.basename(urlparse(source).path)) or source)
    from dclocal.frames import VideoRequest

    path = os.path.abspath(os.path.expanduser(source))
    video = VideoRequest(frames=frames) if kind_of(path) == "video" else None
    return Media(path, video, os.path.basename(path))


def camera_source(text: str) -> str | None:
    """The camera that a word of the command line names: webcam:SOURCE, rtsp://…, or http(s)://….mjpg; else None."""
    if text.startswith("webcam:"):
        return text.removeprefix("webcam:") or "0"
    is_stream = re.match(r"rtsp://|https?://[^?#]+\.mjpe?g([?#]|$)", text, re.IGNORECASE)
    return text if is_stream else None


def kind_of(path: str) -> str | None:
    """image or video by the suffix; None for another."""
    from dclocal.caption import KINDS

    return KINDS.get(Path(path).suffix.lower())


def pasted_paths(text: str) -> list[str]:
    """The media files that a pasted text names (a drop pastes their paths), [] where it is anything else."""
    text = text.strip()
    if not text or len(text) > 10_000:
        return []
    if _is_media(text):
        return [_plain(text)]
    try:
        words = shlex.split(text)
    except ValueError:
        return []
    return [_plain(word) for word in words] if words and all(map(_is_media, words)) else []


def named_media(text: str) -> tuple[str, list[str], list[str]]:
    """A question's text with each `@path` in it as a bare name, the paths, and those that look it but do not exist."""
    found, missing = [], []

    def replace(match: re.Match[str]) -> str:
        quoted = match[1].startswith('"')
        path = match[1].strip('"')
        tail = ""
        while not quoted and path and not os.path.isfile(os.path.expanduser(path)) and path[-1] in ".,;:!?)":
            path, tail = path[:-1], path[-1] + tail
        if URL.match(path) or os.path.isfile(os.path.expanduser(path)):
            found.append(path)
            return (os.path.basename(path) or path) + tail
        if kind_of(path) or os.sep in path:
            missing.append(path)
        return match[0]

    return NAMED.sub(replace, text), found, missing


def fragment_at_end(text: str) -> str | None:
    """The unfinished path at the end of a line, after `@` or /attach; None where there is none."""
    if match := re.match(r"/attach\s+(.*)$", text):
        return match[1].strip('"')
    match = re.search(r"(?<!\S)@(\"[^\"]*|\S*)$", text)
    return match[1].lstrip('"') if match else None


def complete(fragment: str) -> list[str]:
    """Folders (with a slash at the end) and media that `fragment` may become, in order of their names."""
    folder, _, start = fragment.rpartition("/")
    shown = folder + "/" if "/" in fragment else ""
    place = os.path.expanduser(shown) or "."
    found = []
    try:
        with os.scandir(place) as entries:
            for count, entry in enumerate(entries):
                if count >= MAX_ENTRIES:
                    break
                if not entry.name.startswith(start) or (entry.name.startswith(".") and not start.startswith(".")):
                    continue
                if entry.is_dir():
                    found.append(f"{shown}{entry.name}/")
                elif kind_of(entry.name):
                    found.append(f"{shown}{entry.name}")
    except (OSError, ValueError):
        return []
    return sorted(found)[:MAX_CANDIDATES]


def _plain(text: str) -> str:
    """A file:// address as its path."""
    return unquote(urlparse(text).path) if text.startswith("file://") else text


def _is_media(text: str) -> bool:
    path = os.path.expanduser(_plain(text))
    try:
        return "\n" not in path and kind_of(path) is not None and os.path.isfile(path)
    except (OSError, ValueError):
        return False
