"""What pictures are drawn from, made once and kept in the cache folder: drawings, photographs, fonts and words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from dclocal.places import home
from dclocal.progress import Progress, silent
from dclocal_train.sources import fetch_sources
from dclocal_train.synthetic.backgrounds import Photo, load_photos
from dclocal_train.synthetic.concepts import Concepts, concepts_of
from dclocal_train.synthetic.fonts import Face, build_fonts
from dclocal_train.synthetic.things import build_things, load_things
from dclocal_train.synthetic.vocabulary import Vocabulary, build_vocabulary, load_vocabulary, save_vocabulary

VOCABULARY = "vocabulary.json"
THINGS = (
    "emoji_google",
    "emoji_apple",
    "emoji_facebook",
    "emoji_fluent",
    "emoji_twitter",
    "emojibase",
    "openclipart",
)


@dataclass(frozen=True)
class Materials:
    """Everything that a generator may draw with; what is held out for tests is not among it."""

    concepts: Concepts
    photos: tuple[Photo, ...]
    faces: tuple[Face, ...]
    vocabulary: Vocabulary


def build_materials(source_folder: Path | None, progress: Progress = silent) -> Path:
    """Make drawings, fonts and words unless they are there; returns their folder.  One process at a time."""
    folder = home() / "materials"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".building"):
        build_things(fetch_sources(THINGS, source_folder), folder / "things", progress)
        build_fonts(source_folder, folder / "fonts", progress)
        if not (folder / VOCABULARY).is_file():
            save_vocabulary(build_vocabulary(source_folder), folder / VOCABULARY)
    return folder


@lru_cache(1)
def load_materials(folder: Path) -> Materials:
    """The training split of what `build_materials` made."""
    things = [thing for thing in load_things(folder / "things") if thing.split == "train"]
    faces = tuple(face for face in build_fonts(None, folder / "fonts") if face.split == "train")
    return Materials(concepts_of(things), load_photos(), faces, load_vocabulary(folder / VOCABULARY))
