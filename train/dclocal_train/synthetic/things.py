"""Drawings of named things: emoji of several vendors and clip art, each a transparent picture in a folder.

Every generator of scenes takes its objects from here, so that what is held out is held out once.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.errors import UserError
from dclocal.progress import Progress, silent
from dclocal_train.synthetic.clipart import Drawing, Rasteriser, read_clipart, worth_keeping
from dclocal_train.synthetic.clipart_names import clipart_concept, read_vocabulary
from dclocal_train.synthetic.drawings import Concept, trimmed
from dclocal_train.synthetic.emoji_concepts import TEST_VENDOR, VENDORS, read_concepts, read_drawings

if TYPE_CHECKING:
    from PIL.Image import Image


class ThingsError(UserError):
    """A folder of drawings that is not there or not whole."""


@dataclass(frozen=True)
class Thing:
    """One drawing of one thing.

    `concept` is the thing itself, the same in every style ("emoji:1f34e", "clipart:apple"); `name` is what an
    answer calls it, without article ("red apple"); `names` are the other words that are right too.  `style` is
    the hand that drew it: a vendor of emoji, or "openclipart".  `category` is one word for what sort of thing it
    is ("animal", "food", …; "" where the source tells none).  `file` is an RGBA PNG without empty margins, its
    longer side at most 320 pixels.  `split`: "train" or "test".
    """

    concept: str
    name: str
    names: tuple[str, ...]
    style: str
    category: str
    file: Path
    split: str

    def picture(self) -> Image:
        """The drawing, RGBA."""
        from PIL import Image

        with Image.open(self.file) as image:
            return image.convert("RGBA")


INDEX = "things.jsonl"
CLIPART = "openclipart"


def build_things(files: Mapping[str, Path], folder: Path, progress: Progress = silent) -> list[Thing]:
    """Write every drawing under `folder`/STYLE and the index last; a folder that has its index is only read.

    `files` are the sources' packages by their names in `dclocal_train.sources`: "emojibase", "emoji_google" and the
    other vendors, "openclipart".  A source that is not given is left out.
    """
    if not (folder / INDEX).is_file():
        concepts = read_concepts(files["emojibase"])
        things = []
        for vendor in VENDORS:
            if f"emoji_{vendor}" in files:
                things += emoji_things(files[f"emoji_{vendor}"], vendor, concepts, folder, progress)
        if "openclipart" in files:
            things += clipart_things(read_clipart(files["openclipart"]), concepts.values(), folder, progress)
        _write_index(things, folder)
    return load_things(folder)


def load_things(folder: Path) -> list[Thing]:
    """The things of a folder that `build_things` has filled; raises ThingsError where it has not."""
    index = folder / INDEX
    if not index.is_file():
        raise ThingsError(f"{folder} has no {INDEX}", "build the drawings first")
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    return [Thing(**{**row, "names": tuple(row["names"]), "file": folder / row["file"]}) for row in rows]


def emoji_things(
    package: Path, vendor: str, concepts: Mapping[str, Concept], folder: Path, progress: Progress = silent
) -> list[Thing]:
    """One vendor's drawings of `concepts` (by code points), written under `folder`/VENDOR."""
    from PIL import Image

    split = "test" if vendor == TEST_VENDOR else "train"
    things: list[Thing] = []
    for code, data in read_drawings(package, vendor):
        if code in concepts:
            progress(f"cutting out {vendor}'s emoji", len(things) + 1, len(concepts))
            with Image.open(io.BytesIO(data)) as image:
                things += _written(image, concepts[code], vendor, code, split, folder)
    return things


def clipart_things(
    drawings: Sequence[Drawing], emoji: Iterable[Concept], folder: Path, progress: Progress = silent
) -> list[Thing]:
    """The clip art that can be named and drawn, under `folder`/openclipart.

    Of about a third of the concepts with two drawings or more, one drawing is held out: which ones follows from
    hashes of names, so a drawing more changes no other's split by its place in a list.
    """
    vocabulary = read_vocabulary(emoji)
    things: list[Thing] = []
    seen: set[bytes] = set()  # the collection holds many drawings twice, which would tell what is held out
    with Rasteriser() as rasteriser:
        for index, drawing in enumerate(drawings):
            progress("drawing clip art", index + 1, len(drawings))
            concept = clipart_concept(drawing.path, drawing.title, vocabulary)
            if concept is None:
                continue
            page = rasteriser.draw(drawing.svg)
            picture = None if page is None else trimmed(page)
            if picture is not None and worth_keeping(picture) and (pixels := _pixels(picture)) not in seen:
                seen.add(pixels)
                stem = drawing.path.removesuffix(".svg").replace("/", "-").replace(" ", "_")
                things += _written(picture, concept, CLIPART, stem, "train", folder)
    return _hold_out(things)


def _hold_out(things: list[Thing]) -> list[Thing]:
    by_concept: dict[str, list[Thing]] = {}
    for thing in things:
        by_concept.setdefault(thing.concept, []).append(thing)
    held_out = set()
    for drawings in by_concept.values():
        first = min(drawings, key=lambda thing: _hash(thing.file.stem))
        if len(drawings) >= 2 and _hash(first.file.stem + "/held out") % 3 == 0:
            held_out.add(first.file)
    return [replace(thing, split="test") if thing.file in held_out else thing for thing in things]


def _pixels(picture: Image) -> bytes:
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).digest()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _written(image: Image, concept: Concept, style: str, stem: str, split: str, folder: Path) -> list[Thing]:
    picture = trimmed(image)
    if picture is None:
        return []
    path = folder / style / f"{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return [Thing(concept.concept, concept.name, concept.names, style, concept.category, path, split)]


def _write_index(things: list[Thing], folder: Path) -> None:
    """In one step: a folder with an index is a whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{INDEX}.part"
    rows = ({**asdict(thing), "file": thing.file.relative_to(folder).as_posix()} for thing in things)
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(folder / INDEX)
