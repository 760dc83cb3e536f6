"""A recipe's data set: both sources built, mixed and written as the rows of two stages."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from dclocal.progress import for_terminal
from dclocal_train.config import DataConfig
from dclocal_train.sources import fetch_sources
from dclocal_train.synthetic import easy_vqa, emoji
from dclocal_train.synthetic.rows import write_rows

CAPTIONS, INSTRUCTIONS = "captions.json", "instruct.json"


def build_data(config: DataConfig, source_folder: Path | None) -> Path:
    """Build the set unless it is there; returns its folder.

    One of several processes builds, the others wait.  The rows of instructions are written last.
    """
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".building"):
        if not (folder / INSTRUCTIONS).is_file():
            _build(config, source_folder, folder)
    return folder


def _build(config: DataConfig, source_folder: Path | None, folder: Path) -> None:
    vendors = {vendor: f"emoji_{vendor}" for vendor in config.emoji_vendors}
    files = fetch_sources(("easy_vqa", *vendors.values()), source_folder)
    captions, conversations = easy_vqa.build(
        files["easy_vqa"], folder, pictures=config.easy_vqa_pictures, seed=config.seed
    )
    packages = {vendor: files[source] for vendor, source in vendors.items()}
    with for_terminal() as progress:
        more_captions, more_conversations = emoji.build(
            packages, folder, pictures=config.emoji_scenes, seed=config.seed, progress=progress
        )
    write_rows(folder / CAPTIONS, captions + more_captions)
    write_rows(folder / INSTRUCTIONS, conversations + more_conversations)
