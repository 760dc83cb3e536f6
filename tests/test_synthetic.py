"""The training set: a wrong answer in it teaches a wrong answer."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal_train.data import turns_of
from dclocal_train.synthetic import easy_vqa, emoji

ENTRIES = [
    {"unified": "1F353", "short_name": "strawberry", "category": "Food & Drink", "subcategory": "food-fruit"},
    {"unified": "1F408", "short_name": "cat2", "category": "Animals & Nature", "subcategory": "animal"},
    {"unified": "1F355", "short_name": "pizza", "category": "Food & Drink", "subcategory": "food"},
    {"unified": "1F1EA", "short_name": "flag-eg", "category": "Flags", "subcategory": "country-flag"},
]


def package(folder: Path, vendor: str) -> Path:
    """An npm package of that vendor's drawings, each a red square with a clear edge."""
    drawing = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    drawing.paste((255, 0, 0, 255), (8, 8, 56, 56))
    buffer = io.BytesIO()
    drawing.save(buffer, "PNG")
    listing = [{**entry, "image": f"{entry['unified'].lower()}.png", f"has_img_{vendor}": True} for entry in ENTRIES]
    members = {"package/emoji.json": json.dumps(listing).encode()}
    members |= {f"package/img/{vendor}/64/{entry['image']}": buffer.getvalue() for entry in listing}
    with tarfile.open(folder / f"{vendor}.tgz", "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / f"{vendor}.tgz"


def test_emoji_scenes_say_what_is_in_them(tmp_path: Path) -> None:
    packages = {vendor: package(tmp_path, vendor) for vendor in ("google", "apple")}
    assert [one.name for one in emoji.read_emoji(packages)] == ["pizza", "strawberry"]  # no flags, no "cat2"
    captions, rows = emoji.build(packages, tmp_path, pictures=12, seed=3)
    assert len(captions) == len(rows) == 12
    for caption, row in zip(captions, rows):
        answers = dict(turns_of(row))
        name = turns_of(caption)[0][1]
        assert answers[f"Is there {name} in the picture?"] == "yes"
        scene = np.asarray(Image.open(tmp_path / row["image"]).convert("RGB")).astype(int)
        red = (scene[..., 0] > 250) & (scene[..., 1:].max(-1) < 5)
        rows_, columns = np.nonzero(red)
        where = next(answer for question, answer in answers.items() if question.startswith("Where is"))
        row_third, column_third = (min(2, int(axis.mean() * 3 / emoji.CANVAS)) for axis in (rows_, columns))
        assert where == emoji.PLACES[row_third][column_third]
        described = next(answer for question, answer in answers.items() if question in emoji.DESCRIBING)
        assert described == f"{name} on a {answers['What color is the background?']} background"


def test_the_same_seed_makes_the_same_set(tmp_path: Path) -> None:
    packages = {vendor: package(tmp_path, vendor) for vendor in ("google", "apple")}
    first, again, other = (emoji.build(packages, tmp_path, pictures=6, seed=seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_easy_vqa_rows_are_the_splits_own(tmp_path: Path) -> None:
    questions = [
        ["what shape is present?", "circle", 0],
        ["is there a red shape?", "yes", 0],
        ["is there a circle?", "no", 1],
    ]
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("easy_vqa/data/train/questions.json", json.dumps(questions))
        for image in (0, 1):
            archive.writestr(f"easy_vqa/data/train/images/{image}.png", b"picture")
    captions, rows = easy_vqa.build(tmp_path / "w.whl", tmp_path, pictures=5, seed=0)
    assert [turns_of(row) for row in captions] == [[("", "a red circle")]]
    turns = {row["image"]: set(turns_of(row)) for row in rows}
    assert turns["easy_vqa/1.png"] == {("is there a circle?", "no")}
    assert {("what shape is present?", "circle"), ("is there a red shape?", "yes")} < turns["easy_vqa/0.png"]
    assert all((tmp_path / row["image"]).read_bytes() == b"picture" for row in rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("apple", "an apple"), ("taco", "a taco"), ("cherries", "cherries"), ("compass", "a compass")],
)
def test_articles(name: str, expected: str) -> None:
    assert emoji.with_article(name) == expected
