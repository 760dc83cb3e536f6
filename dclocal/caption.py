"""Many pictures and videos, one line of JSON each: found in a fixed order, written as they are answered, resumable.

The next file is decoded in a thread while the language model answers about this one, and encoded too where there are
cores for both: on two, encoding beside answering took a sixth longer than one after the other.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dclocal.chat import Answered, Attachment, ChatSession
from dclocal.errors import UserError
from dclocal.frames import VideoRequest, attach_video
from dclocal.images import image_key, load_image, printable
from dclocal.machine import usable_cores
from dclocal.picture import encode_picture
from dclocal.prefetch import prefetch
from dclocal.video import VideoReader

if TYPE_CHECKING:
    import numpy as np

    from dclocal.chat_events import Vision

CORES_FOR_BOTH = 3
IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".mpo"]
)
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".asf", ".ogv", ".3gp"]
)
KINDS = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(VIDEO_SUFFIXES, "video")}
Line = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Ready:
    """A file whose embeddings a session of its own holds, or the line that says why not."""

    line: Line
    session: ChatSession | None
    attachments: tuple[Attachment, ...]
    prepare_ms: float


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
    session: ChatSession, paths: Iterable[str], question: str, options: Line, request: VideoRequest
) -> Iterator[Line]:
    """A line for each of `paths`, in order: path, kind, answer and ms, or path, kind and error.

    Close the iterator to stop.
    """

    cores: AbstractContextManager[Any] = nullcontext() if usable_cores() >= CORES_FOR_BOTH else threading.Lock()
    shared = ChatSession(session.bundle, _InTurn(session.vision, cores), session.llm, session.system)

    def ready(stop: Callable[[], bool]) -> Iterator[Ready]:
        for path in paths:
            if stop():
                return
            yield prepare(shared, path, question, options.get("max_tokens"), request, stop)

    with closing(prefetch(ready, depth=1)) as items:  # type: ignore[type-var]
        for item in items:
            with cores:
                line = _answer(item, question, options)
            yield line


@dataclass(frozen=True)
class _InTurn:
    """A vision encoder that works while nobody else has the cores."""

    vision: Vision
    cores: AbstractContextManager[Any]

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """As the encoder's own."""
        with self.cores:
            return self.vision.encode(pixels)


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
        return Ready({**line, "error": _reason(error)}, None, (), 0.0)
    return Ready(line, own, attachments, 1000 * (time.perf_counter() - started))


def _attach_image(session: ChatSession, path: str) -> Attachment:
    bundle, started = session.bundle, time.perf_counter()
    image = load_image(path)
    embeds = encode_picture(image, bundle.manifest.vision, session.vision.encode, bundle.read_newline())
    return session.attach_embeds(image_key(image), embeds, encode_ms=1000 * (time.perf_counter() - started))


def _answer(item: Ready, question: str, options: Line) -> Line:
    """The line with its answer; `ms` counts preparing and answering, `answer_ms` the language model alone."""
    if item.session is None:
        return item.line
    started = time.perf_counter()
    answered: Answered | None = None
    try:
        for event in item.session.ask(question, item.attachments, **options):
            answered = event if isinstance(event, Answered) else answered
    except Exception as error:  # as above
        return {**item.line, "error": _reason(error)}
    assert answered is not None  # the session's last event
    answer_ms = 1000 * (time.perf_counter() - started)
    return {
        **item.line,
        "answer": answered.answer,
        "ms": round(item.prepare_ms + answer_ms, 1),
        "answer_ms": round(answer_ms, 1),
        "image_tokens": answered.stats.image_tokens,
        "answer_tokens": answered.stats.answer_tokens,
    }


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
