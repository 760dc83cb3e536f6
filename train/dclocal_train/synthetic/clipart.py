"""Clip art of Debian's openclipart-svg: read out of the package, rasterised in a process of its own."""

from __future__ import annotations

import io
import multiprocessing
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from dclocal.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "./usr/share/openclipart/svg/"
LARGEST_FILE = 2_000_000  # bytes of SVG
RENDERED_WIDTH = 480  # pixels: drawings fill only a part of their page
LONGEST = 10.0  # seconds a drawing may take
MEMORY = 2_000_000_000  # bytes a drawing may take
COLLECTIVE = 12  # a title that so many files share names a collection
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60


class ClipartError(UserError):
    """A Debian package that is not one."""


@dataclass(frozen=True)
class Drawing:
    """One SVG file: its path under the collection's folder, its title ("" where it has none of its own), its text."""

    path: str
    title: str
    svg: bytes


def read_clipart(package: Path) -> list[Drawing]:
    """Every drawing of the package, sorted by path; one that is too large or no XML is left out."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(_data_member(package)), mode="r:xz") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".svg") and member.size <= LARGEST_FILE:
                content = archive.extractfile(member)
                assert content is not None
                svg = content.read()
                try:
                    found.append(Drawing(member.name.removeprefix(FOLDER), _title(svg), svg))
                except ElementTree.ParseError:
                    continue
    uses = Counter(drawing.title for drawing in found)
    own = (
        Drawing(
            one.path, "" if uses[one.title] > COLLECTIVE or "clipart by" in one.title.lower() else one.title, one.svg
        )
        for one in found
    )
    return sorted(own, key=lambda drawing: drawing.path)


class Rasteriser:
    """Draws untrusted SVG in a child process with a limit on time and memory; a context manager."""

    def __init__(self) -> None:
        self.pool: Pool | None = None

    def __enter__(self) -> Rasteriser:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def draw(self, svg: bytes) -> Image | None:
        """The page, RGBA, 480 pixels wide; None where the file cannot be drawn within the limits."""
        from PIL import Image

        if self.pool is None:
            self.pool = multiprocessing.get_context("spawn").Pool(1, initializer=_limit_memory)
        try:
            png = self.pool.apply_async(_render, (svg,)).get(LONGEST)
            return None if png is None else Image.open(io.BytesIO(png))
        except multiprocessing.TimeoutError:  # also what a killed child looks like
            self._stop()
            return None

    def _stop(self) -> None:
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()
            self.pool = None


def worth_keeping(picture: Image) -> bool:
    """Whether there is something to see on white: neither near-empty, nor nearly white, nor one plain patch."""
    import numpy as np
    from PIL import Image as images

    if min(picture.size) < 24:
        return False
    on_white = images.new("RGBA", picture.size, "white")
    on_white.alpha_composite(picture)
    pixels = np.asarray(on_white.convert("RGB"), dtype=np.float32)
    seen = (pixels < 235).any(axis=-1)
    return bool(seen.mean() > 0.03 and pixels.std(axis=(0, 1)).max() > 12)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _render(svg: bytes) -> bytes | None:
    import resvg_py

    try:
        text = svg.decode("utf-8", errors="replace")
        return bytes(resvg_py.svg_to_bytes(svg_string=text, width=RENDERED_WIDTH, skip_system_fonts=True, dpi=96.0))
    except (ValueError, MemoryError):
        return None


def _title(svg: bytes) -> str:
    titles = (element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("title"))
    return next((re.sub(r"\s+", " ", title).strip() for title in titles if title.strip()), "")


def _data_member(package: Path) -> bytes:
    """data.tar.xz out of a .deb, which is an `ar` archive: 60-byte headers, members padded to even length."""
    content = package.read_bytes()
    position = len(AR_MAGIC)
    while content.startswith(AR_MAGIC) and position + AR_HEADER <= len(content):
        header = content[position : position + AR_HEADER]
        size = int(header[48:58])
        position += AR_HEADER
        if header[:16].rstrip(b" /") == b"data.tar.xz":
            return content[position : position + size]
        position += size + size % 2
    raise ClipartError(f"{package} holds no data.tar.xz", "fetch the package again")
