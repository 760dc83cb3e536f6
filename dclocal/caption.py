"""Many pictures and videos, one line of JSON each: found in a fixed order, written as they are answered, resumable.

Workers take files in turn, each with a share of the cores, and a worker generates many answers at once (`together`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from dclocal.chat import Attachment, ChatSession
from dclocal.errors import UserError
from dclocal.files import printable
from dclocal.frames import VideoRequest, attach_video
from dclocal.images import load_image
from dclocal.picture import encode_picture
from dclocal.prefetch import prefetch
from dclocal.together import Line, Ready, Together, reason_of
from dclocal.video import VideoReader
from dclocal.workers import Workers

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".mpo"]
)
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".asf", ".ogv", ".3gp"]
)
KINDS = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(VIDEO_SUFFIXES, "video")}


def find_media(paths: Sequence[str], recursive: bool) -> list[str]:
    """The pictures and videos in `paths` in the order given, those of a folder by name; each once.

    A folder's hidden files and others' suffixes are passed over, its own folders too unless `recursive`; a file that
    is named is taken whatever its suffix.  Raises UserError for a path that does not exist.
    """
    found: dict[str, str] = {}
    for path in paths:
        path = os.path.expanduser(path)
        if not os.path.lexists(path):
            raise UserError(f"{printable(path)} does not exist", "check the path")
        for file in _in_folder(path, recursive) if os.path.isdir(path) else [path]:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _in_folder(folder: str, recursive: bool) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            if not name.startswith(".") and kind_of(name) is not None:
                yield os.path.join(here, name)


def kind_of(path: str) -> str | None:
    """image or video by the suffix; None for another."""
    return KINDS.get(os.path.splitext(path)[1].lower())


def read_done(out: Path) -> set[str]:
    """The paths that `out` has lines for; a last line that was half written is cut off.

    Raises UserError where another line is not one of ours, or `out` cannot be read or mended.
    """
    done: set[str] = set()
    try:
        if not out.exists():
            return done
        with out.open("r+b") as stream:
            whole = 0
            for number, line in enumerate(stream, 1):
                path = _path_of(line)
                if path is None and line.endswith(b"\n"):
                    raise UserError(f"line {number} of {out} is not a line of ours", "name another --out")
                if path is None or not line.endswith(b"\n"):
                    break  # its answer comes again
                done.add(path)
                whole += len(line)
            stream.truncate(whole)
    except OSError as error:
        raise UserError(f"{out} cannot be read or mended ({error.strerror})", "name another --out") from error
    return done


def _path_of(line: bytes) -> str | None:
    try:
        data = json.loads(line)
    except ValueError:  # not UTF-8 either
        return None
    path = data.get("path") if isinstance(data, dict) else None
    return path if isinstance(path, str) else None


def caption_all(
    session: ChatSession,
    paths: Sequence[str],
    question: str,
    options: Line,
    request: VideoRequest,
    workers: Workers,
) -> Iterator[Line]:
    """A line for each of `paths`, in order: path, kind, answer and ms, or path, kind and error.

    Close the iterator to stop.
    """
    numbers = iter(range(len(paths)))  # each worker takes the next

    def work(stop: Callable[[], bool]) -> Iterator[tuple[int, Line]]:
        mine: deque[int] = deque()
        with workers.working(), closing(Together(session.llm, question, options, workers, stop)) as answers:
            for number in numbers:
                if stop():
                    return
                mine.append(number)
                item = prepare(session, paths[number], question, options.get("max_tokens"), request, stop)
                for line in answers.add(item):
                    yield mine.popleft(), line
            for line in answers.rest():
                yield mine.popleft(), line

    told, early = 0, {}
    with closing(prefetch(*[work] * workers.count)) as lines:  # type: ignore[type-var]
        for number, line in lines:
            early[number] = line
            while told in early:
                yield early.pop(told)
                told += 1


def prepare(
    session: ChatSession,
    path: str,
    question: str,
    max_tokens: int | None,
    request: VideoRequest,
    stop: Callable[[], bool],
) -> Ready:
    """Decode and encode one file into a conversation of its own; any failure becomes its line."""
    started = time.perf_counter()
    line: Line = {"path": path, "kind": kind_of(path) or "unknown"}
    own = ChatSession(session.bundle, session.vision, session.llm, session.system)
    attachments: tuple[Attachment, ...] = ()
    try:
        if line["kind"] == "video":
            with VideoReader(path) as reader:
                attached = attach_video(own, reader, request, question=question, max_tokens=max_tokens, stop=stop)
            attachments = attached.attachments
            line["frames"] = len(attached.frames)
        else:
            attachments = (_attach_image(own, path),)
            line["kind"] = "image"
    except Exception as error:  # one bad file must not end a night's work
        return Ready({**line, "error": reason_of(error)}, None, (), 0.0)
    return Ready(line, own, attachments, 1000 * (time.perf_counter() - started))


def _attach_image(session: ChatSession, path: str) -> Attachment:
    bundle, started = session.bundle, time.perf_counter()
    image = load_image(path)
    embeds = encode_picture(image, bundle.manifest.vision, session.vision.encode, bundle.read_newline())
    key = hashlib.sha256(embeds.tobytes()).hexdigest()  # a picture's own takes 6 ms where it is large
    return session.attach_embeds(key, embeds, encode_ms=1000 * (time.perf_counter() - started))
