"""Tests of reading: words that training never draws, in seen and in held-out faces; charts from other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from dclocal.eval_test import write_test
from dclocal_train.synthetic.charts import draw_chart
from dclocal_train.synthetic.fonts import Face
from dclocal_train.synthetic.vocabulary import Vocabulary
from dclocal_train.synthetic.words import TooLarge, WordPicture, draw_text

MOST_DEGREES, LOWEST_CAP = 5.0, 26.0


def words_test(faces: Sequence[Face], vocabulary: Vocabulary, folder: Path, count: int, seed: int) -> None:
    """One word of three to eight letters a picture, near upright, capitals at least LOWEST_CAP pixels high."""
    sets = {split: [face for face in faces if face.split == split] for split in ("train", "test")}
    rows = []
    for index in range(count):
        random = Random(f"words-test-{seed}-{index}")
        split = ("train", "test")[index % 2]
        picture = _one_word(sets[split], vocabulary, random)
        word = picture.texts[0].text.lower()
        image = f"{index:05d}.png"
        picture.image.save(folder / image)
        group = "seen face" if split == "train" else "held-out face"
        rows.append(
            {
                "image": image,
                "question": "What word is written here?",
                "answers": [word],
                "match": "exact",
                "group": group,
            }
        )
    write_test(folder, rows)


def _one_word(faces: Sequence[Face], vocabulary: Vocabulary, random: Random) -> WordPicture:
    """The first of random words and faces that fits."""
    while True:
        face, word = random.choice(faces), random.choice(vocabulary.test)
        case = str.upper if face.capitals else random.choice((str.lower, str.upper, str.title))
        try:
            return draw_text(case(word), face, random, most_degrees=MOST_DEGREES, lowest_cap=LOWEST_CAP)
        except TooLarge:
            continue


def charts_test(faces: Sequence[Face], vocabulary: Vocabulary, folder: Path, count: int, seed: int) -> None:
    """Bar charts: the label of the largest bar, and the value of one, printed on it or to be read off the axis.

    Drawn in held-out faces; `vocabulary` is not needed.
    """
    held_out = [replace(face, split="train") for face in faces if face.split == "test"]
    rows = []
    for index in range(count):
        random = Random(f"charts-test-{seed}-{index}")
        chart = draw_chart(held_out, random, kinds=("bar", "lying"))
        image = f"{index:05d}.png"
        chart.image.save(folder / image)
        if index % 2 == 0:
            largest = max(range(len(chart.values)), key=lambda one: chart.values[one])
            question, answer, group = "Which bar is the largest?", chart.labels[largest], "largest bar"
        else:
            one = random.randrange(len(chart.values))
            question, answer = f"What is the value of {chart.labels[one]}?", str(chart.values[one])
            group = "value printed" if chart.printed else "value on the axis"
        rows.append({"image": image, "question": question, "answers": [answer], "match": "exact", "group": group})
    write_test(folder, rows)
