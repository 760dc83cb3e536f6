"""Free typefaces for pictures of words: some are held out, to test reading in a type never trained on."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.progress import Progress, silent
from dclocal_train.sources import Source, SourceError, fetch_pinned
from dclocal_train.synthetic.font_pins import FAMILIES, VERSION, Family

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


@dataclass(frozen=True)
class Face:
    """One face: "roboto 700-italic", its WOFF file, and its split, "train" or "test".

    `capitals`: it has no small letters of its own, so only upper case is to be set in it.
    """

    name: str
    file: Path
    split: str
    capitals: bool = False


def build_fonts(source_folder: Path | None, folder: Path, progress: Progress = silent) -> list[Face]:
    """Every pinned face, its file unpacked into `folder` unless it lies there.

    Raises SourceError where a package cannot be had or lacks the face.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {one.name: _source(one) for one in FAMILIES if not all(_file(folder, one, c).is_file() for c in one.cuts)}
    faces = []
    for index, family in enumerate(FAMILIES):
        progress("unpacking typefaces", index, len(FAMILIES))
        if family.name in missing:
            package = fetch_pinned({family.name: missing[family.name]}, source_folder)[family.name]
            _unpack(package, family, folder)
        for cut in family.cuts:
            faces.append(Face(f"{family.name} {cut}", _file(folder, family, cut), family.split, family.capitals))
    progress("unpacking typefaces", len(FAMILIES), len(FAMILIES))
    return faces


@lru_cache(maxsize=512)
def open_font(face: Face, size: int) -> FreeTypeFont:
    """The face at `size` pixels an em, without kerning features that join or swap letters.

    Raises SourceError for a file that is no font.
    """
    from PIL import ImageFont

    try:
        return ImageFont.truetype(str(face.file), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise SourceError(f"{face.file} is no font ({error})", "remove it and build again") from error


@lru_cache(maxsize=512)
def cap_height(face: Face) -> float:
    """The height of a capital H in ems."""
    _, top, _, bottom = open_font(face, 200).getbbox("H")
    return (bottom - top) / 200


def _source(family: Family) -> Source:
    filename = f"fontsource-{family.name}-{VERSION}.tgz"
    return Source("npm", f"@fontsource/{family.name}", VERSION, filename, family.sha256)


def _file(folder: Path, family: Family, cut: str) -> Path:
    return folder / f"{family.name}-{cut}.woff"


def _unpack(package: Path, family: Family, folder: Path) -> None:
    with tarfile.open(package) as archive:
        for cut in family.cuts:
            member = f"package/files/{family.name}-latin-{cut}.woff"
            try:
                packed = archive.extractfile(member)
            except KeyError:
                packed = None
            if packed is None:
                raise SourceError(f"{package} has no {member}", "remove it and try again")
            target = _file(folder, family, cut)
            part = target.with_name(target.name + ".part")
            part.write_bytes(packed.read())
            part.replace(target)
