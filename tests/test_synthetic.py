"""The training set: a wrong answer in it teaches a wrong answer."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from dclocal.errors import UserError
from dclocal_models.embedded import class_names
from dclocal_train.config import DataConfig
from dclocal_train.data import turns_of
from dclocal_train.synthetic import easy_vqa
from dclocal_train.synthetic.build import build_data
from dclocal_train.synthetic.chatter import circles, prompts, whole_sentences
from dclocal_train.synthetic.class_sorts import ANIMAL_SORTS, ANIMALS, THING_SORTS, sort_of
from dclocal_train.synthetic.english import article
from dclocal_train.synthetic.imprints import draw_imprint
from dclocal_train.synthetic.photographs import PHOTOGRAPHS, draw_photograph
from dclocal_train.synthetic.phrases import UNKNOWN


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


SORTS = (*ANIMAL_SORTS, *THING_SORTS)


def test_an_imprint_is_asked_about_by_its_own_name_or_sort() -> None:
    background = Image.new("RGB", (336, 336))
    for seed in range(120):
        sample = draw_imprint(background, random.Random(seed))
        index = sample.extra["imprint"]
        name, sort = class_names()[index], sort_of(index)
        animal = ["animal"] if index in ANIMALS else []
        for question, answer in sample.turns:
            if answer == "yes":
                assert any(said in question for said in (name, sort or name, *animal)), (name, question)
            elif answer == "no":
                asked = f" {question.strip('?.')} "
                assert all(f" {said} " not in asked for said in (name, sort or name, *animal)), (name, question)
            elif answer not in UNKNOWN:
                assert name in answer or (sort and answer == article(sort)), (question, answer)
        answers = [answer for _, answer in sample.turns]
        assert "yes" in answers and 2 <= answers.count("no") <= 4


def test_sorts_are_what_their_classes_are_called() -> None:
    """A number that is off by one makes a dog of a wolf."""
    names = class_names()
    said = {sort: {names[index] for index in range(1000) if sort_of(index) == sort} for sort in SORTS}
    for sort in ("dog", "bird", "snake", "spider", "monkey", "car", "bear"):
        assert sum(sort in name.split() for name in said[sort]) > 0.5 * len(said[sort]), said[sort]
    assert not said["dog"] & said["wolf"] and "fox" in said["fox"] and "tabby cat" in said["cat"]
    assert {"golden retriever dog", "pug dog"} < said["dog"] and "lion" in said["lion"]
    assert all("dog" not in names[index].split() or sort_of(index) == "dog" for index in ANIMALS)


def test_the_same_number_is_the_same_photograph() -> None:
    first, again, other = (draw_photograph(random.Random(seed)) for seed in (1, 1, 2))
    assert first.image is not None and again.image is not None and other.image is not None
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert max(first.image.size) <= 336 and len(PHOTOGRAPHS) == 15


def test_prompts_differ_and_answers_end_with_a_sentence() -> None:
    assert len(set(prompts(500, seed=3))) == 500
    with pytest.raises(ValueError, match="prompts were asked for"):
        prompts(10_000, seed=0)
    assert whole_sentences("Bees fly. They make hon") == "Bees fly."
    assert whole_sentences("no end") == "no end"
    assert circles("A place of endless wonder.\nA place of endless wonder.")
    assert not circles("A place of endless wonder. A place of sand.")


def test_an_unknown_kind_of_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data.pictures names sceens"):
        build_data(DataConfig(str(tmp_path), {"sceens": 3}), None)
