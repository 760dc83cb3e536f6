"""What earlier runs found out about pictures, on disk: their embeddings, and the prompt's start evaluated with them.

A picture that was asked about before costs neither the vision encoder nor its prefill, in any process.  Entries are
named by their content and by all that they depend on, written beside their place and renamed, and checked by a
digest when they are read.  What was used longest ago goes first.  $DCLOCAL_PICTURE_CACHE_MB bounds them; 0 keeps none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal import __version__
from dclocal.bundle import MANIFEST, Bundle
from dclocal.cells import Cell, common_prefix, segment_cells
from dclocal.errors import BundleError, UserError
from dclocal.prompt import Embeds, Segment

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from dclocal.llm import LLM

FOLDER = "pictures"
LIMIT = "DCLOCAL_PICTURE_CACHE_MB"
DEFAULT_LIMIT_MB = 256
DIGEST_BYTES = 16
EMBEDS, STATE, FILE, NEWEST = ".embeds", ".state", ".file", ".newest"
DECODING = 1
"""Raise it when files are decoded to other pictures than before."""
MAX_STATE_CELLS = 768
"""A longer start of a prompt is evaluated anew: its state would take more room than many pictures'."""


class KnownPictures:
    """The entries of one bundle, as this build of llama.cpp evaluates it.  Never raises for trouble with the disk:
    what cannot be read is not known, what cannot be written is not kept."""

    def __init__(self, folder: Path, bundle: Bundle, limit_bytes: int):
        from dclocal.llama_api import build

        manifest = hashlib.sha256((bundle.path / MANIFEST).read_bytes())
        self._model = hashlib.sha256(f"{manifest.hexdigest()} {build()}".encode()).digest()
        self._vision, self._folder, self._limit = bundle.manifest.vision, folder, limit_bytes
        self._expected: tuple[Path, bytes] | None = None

    def knows(self, key: str) -> bool:
        """Whether there is an entry for a picture's embeddings, which may still turn out to be damaged."""
        return self._named(EMBEDS, key).exists()

    def key_of(self, data: bytes) -> str | None:
        """The key of the picture in a file of these bytes, where its embeddings are known too."""
        content = self._read(self._of_file(data))
        key = "" if content is None else content.decode(errors="replace")
        return key if key and self.knows(key) else None

    def keep_key(self, data: bytes, key: str) -> None:
        """Keep which picture a file of these bytes holds."""
        self._write(self._of_file(data), key.encode())

    def embeds(self, key: str) -> memoryview[float] | None:
        """A picture's embeddings, float32 `[tokens, n_embd]`, see `Embeds`; None where they are not known."""
        data = self._read(self._named(EMBEDS, key))
        width = 4 * self._vision.n_embd
        if data is None or not data or len(data) % width:
            return None
        return memoryview(data).cast("f", (len(data) // width, self._vision.n_embd))

    def keep_embeds(self, key: str, embeds: np.ndarray) -> None:
        """Keep a picture's embeddings."""
        self._write(self._named(EMBEDS, key), embeds.astype("float32", copy=False).tobytes())

    def expect(self, key: str) -> None:
        """Read what `state` will most likely be asked for, where a picture comes first: the newest that began with it.

        Which one it is, its tokens tell, and for those the vocabulary has to be there; this is for the time until then.
        """
        name = self._read(self._named(NEWEST, key))
        path = self._folder / (name or b"").decode(errors="replace")
        if path.suffix == STATE and path.parent == self._folder and (content := self._read(path)) is not None:
            self._expected = path, content

    def state(self, cells: Sequence[Cell], adapters: Mapping[str, float]) -> bytes | None:
        """llama.cpp's state of these cells, evaluated with these adapters; None where it is not known."""
        path = self._of_cells(cells, adapters)
        expected, self._expected = self._expected, None  # another one is not asked for any more
        return expected[1] if expected and expected[0] == path else self._read(path)

    def keep_state(self, cells: Sequence[Cell], adapters: Mapping[str, float], data: bytes) -> None:
        """Keep the state of these cells."""
        path = self._of_cells(cells, adapters)
        self._write(path, data)
        first = next((cell[0] for cell in cells if isinstance(cell, tuple)), None)
        if first is not None:
            self._write(self._named(NEWEST, first), path.name.encode())

    def _of_cells(self, cells: Sequence[Cell], adapters: Mapping[str, float]) -> Path:
        return self._named(STATE, repr((list(cells), sorted(adapters.items()))))

    def _of_file(self, data: bytes) -> Path:
        return self._named(FILE, f"{DECODING} {__version__} {hashlib.sha256(data).hexdigest()}")

    def _named(self, kind: str, content: str) -> Path:
        return self._folder / (hashlib.sha256(self._model + content.encode()).hexdigest()[:40] + kind)

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as stream:
                digest, content = stream.read(DIGEST_BYTES), stream.read()
            os.utime(path)
        except (OSError, ValueError):  # the latter: a NUL character
            return None
        if _digest(content) == digest:
            return content
        with suppress(OSError):
            path.unlink()
        return None

    def _write(self, path: Path, content: bytes) -> None:
        import tempfile

        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(content) + DIGEST_BYTES)
            descriptor, part = tempfile.mkstemp(suffix=".part", dir=self._folder)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(_digest(content))
                    stream.write(content)
                os.replace(part, path)
            except OSError:
                os.unlink(part)

    def _make_room(self, size: int) -> None:
        """Delete what was used longest ago; another process may be doing the same."""
        found = []
        for entry in os.scandir(self._folder):
            with suppress(OSError):
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, entry.path))
        total = size + sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if total <= self._limit:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= each


class PictureMemory:
    """What a conversation asks of known pictures: embeddings, and the cache up to the end of its first picture."""

    def __init__(self, known: KnownPictures, llm: LLM):
        self._known, self._llm = known, llm

    @cached_property
    def _writer(self) -> ThreadPoolExecutor:
        """Joined when the interpreter ends."""
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(1)

    def embeds(self, key: str) -> memoryview[float] | None:
        """A picture's embeddings, float32 `[tokens, n_embd]`, where they are known."""
        return self._known.embeds(key)

    def keep_embeds(self, key: str, embeds: np.ndarray) -> None:
        """Keep a picture's embeddings, in the background."""
        self._writer.submit(self._known.keep_embeds, key, embeds)

    def recall(self, segments: Sequence[Segment]) -> int:
        """Bring the prompt's start back into the cache where it is known; where it is not, how many of its tokens are
        to be evaluated and handed to `remember`, 0 where it is not worth while."""
        start = start_of(segments)
        if not start or common_prefix(self._llm.cells, start) == len(start):
            return 0
        state = self._known.state(start, self._llm.adapters)
        if state is None:
            return len(start)
        try:
            self._llm.restore(state, start)
        except BundleError:
            return len(start)
        return 0

    def remember(self, start: int) -> None:
        """Keep the first `start` cells that the cache holds; they are written in the background."""
        cells, adapters, state = self._llm.cells[:start], dict(self._llm.adapters), self._llm.state()

        def keep() -> None:
            from dclocal.kv_state import in_layout
            from dclocal.llama_context import flash_suits_few

            with suppress(BundleError):  # of a model whose state cannot be cut
                self._known.keep_state(cells, adapters, in_layout(state, flash_suits_few(), start))

        self._writer.submit(keep)

    def wait(self) -> None:
        """Until everything is written."""
        self._writer.submit(int).result()


def start_of(segments: Sequence[Segment]) -> list[Cell]:
    """The cells up to the end of the first picture; empty where there is none, or they are more than
    MAX_STATE_CELLS."""
    for count, segment in enumerate(segments, 1):
        if isinstance(segment, Embeds):
            cells = list(segment_cells(segments[:count]))
            return cells if len(cells) <= MAX_STATE_CELLS else []
    return []


def known_pictures(bundle: Bundle) -> KnownPictures | None:
    """This bundle's known pictures under the folder of everything kept; None where none are to be kept.

    Raises UserError where the bound is no number.
    """
    from dclocal.places import home

    given = os.environ.get(LIMIT, str(DEFAULT_LIMIT_MB))
    if not given.isascii() or not given.isdigit():
        raise UserError(f"{LIMIT} is {given!r:.40}", "set it to a number of megabytes, 0 for none")
    limit = int(given) << 20
    return KnownPictures(home() / FOLDER, bundle, limit) if limit else None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]
