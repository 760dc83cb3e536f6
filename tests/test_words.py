"""Pictures of words and charts: what is asked must be what is drawn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal_train.synthetic.chart_questions import ask_chart
from dclocal_train.synthetic.charts import TOP, draw_chart
from dclocal_train.synthetic.fonts import Face
from dclocal_train.synthetic.lettering import CANVAS, COLOURS
from dclocal_train.synthetic.vocabulary import Vocabulary, load_vocabulary, save_vocabulary, split_words
from dclocal_train.synthetic.word_questions import ask_words, words_caption
from dclocal_train.synthetic.word_tests import LOWEST_CAP, charts_test, words_test
from dclocal_train.synthetic.words import draw_text, draw_words


@pytest.fixture(scope="module")
def faces() -> list[Face]:
    """matplotlib's own faces, in place of the packages."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [Face("sans", folder / "DejaVuSans.ttf", "train"), Face("serif", folder / "DejaVuSerif.ttf", "test")]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    words = [f"{a}{b}{c}" for a in ("bar", "cor", "den", "fil", "gam") for b in "aeiou" for c in ("n", "ts", "my")]
    return split_words(words)


def test_held_out_words_are_never_drawn(faces: list[Face], vocabulary: Vocabulary) -> None:
    assert vocabulary.test and not set(vocabulary.test) & set(vocabulary.train)
    for seed in range(200):
        picture = draw_words(faces, vocabulary, random.Random(seed))
        shown = {text.text.lower() for text in picture.texts}
        misses = {miss.lower() for text in picture.texts for miss in text.near_misses}
        assert not (shown | misses) & set(vocabulary.test)
        assert not shown & misses


def test_a_words_box_is_where_its_pixels_are(faces: list[Face]) -> None:
    for seed in range(20):
        source = random.Random(seed)
        picture = draw_text("harbor", faces[0], source, most_degrees=5, lowest_cap=LOWEST_CAP)
        (text,) = picture.texts
        if picture.ground != "plain":
            continue
        pixels = np.asarray(picture.image, np.int16)
        rows, columns = np.nonzero(np.abs(pixels - pixels[0, 0]).max(-1) > 24)
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(found, text.box)).max() <= 2
        ink = pixels[rows, columns][np.abs(pixels[rows, columns] - COLOURS[text.colour]).max(-1) < 12]
        assert len(ink) > 0.4 * len(rows)


def test_answers_are_true_of_the_text(faces: list[Face], vocabulary: Vocabulary) -> None:
    read = 0
    for seed in range(150):
        source = random.Random(seed)
        picture = draw_words(faces, vocabulary, source)
        turns = dict(ask_words(picture, source))
        assert words_caption(picture, source)
        if len(picture.texts) != 1:
            continue
        text = picture.texts[0].text.lower()
        assert text in turns.values()
        for question, answer in turns.items():
            if answer in ("yes", "no") and text in question.lower() and "'" in question:
                assert answer == ("yes" if f"'{text}'" in question else "no")
            if question.startswith("Spell"):
                assert answer.replace("-", "") == text.upper()
                read += 1
    assert read > 20


def test_bars_are_as_high_as_their_values(faces: list[Face]) -> None:
    for seed in range(30):
        chart = draw_chart(faces, random.Random(seed), kinds=("bar",))
        pixels = np.asarray(chart.image, np.int16)
        heights = []
        for (left, _, right, bottom), colour in zip(chart.boxes, chart.colours):
            strip = np.abs(pixels[TOP : int(bottom), int((left + right) / 2)] - COLOURS[colour]).max(-1) < 8
            heights.append(int(strip.sum()))
        shares = np.array(heights) / np.array(chart.values)
        assert shares.max() - shares.min() < 0.06 * shares.mean() + 1.5
        largest, smallest = (chart.labels[int(np.argmax(sign * np.array(heights)))] for sign in (1, -1))
        turns = ask_chart(chart, random.Random(seed))
        for question, answer in turns:
            if "largest" in question or "highest" in question or "biggest" in question:
                assert answer == largest
            if "smallest" in question or "lowest" in question or "least" in question:
                assert answer == smallest
            for label, value in zip(chart.labels, chart.values):
                if question in (f"What is the value of {label}?", f"How much is {label}?"):
                    assert answer == str(value)


def test_a_line_has_one_colour(faces: list[Face]) -> None:
    assert all(len(set(draw_chart(faces, random.Random(s), kinds=("line",)).colours)) == 1 for s in range(20))


def test_the_same_seed_is_the_same_picture(faces: list[Face], vocabulary: Vocabulary) -> None:
    first, again = (draw_words(faces, vocabulary, random.Random(4)) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes() and first.texts == again.texts
    chart, same = (draw_chart(faces, random.Random(4)) for _ in range(2))
    assert chart.image.tobytes() == same.image.tobytes()


def test_the_tests_of_reading(faces: list[Face], vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Held-out words alone; half of them in a held-out face."""
    for name, build in (("words", words_test), ("charts", charts_test)):
        (tmp_path / name).mkdir()
        build(faces, vocabulary, tmp_path / name, 12, seed=1)
        rows = [json.loads(line) for line in (tmp_path / name / "questions.jsonl").read_text().splitlines()]
        assert len(rows) == 12
        assert all(Image.open(tmp_path / name / row["image"]).size == (CANVAS, CANVAS) for row in rows)
        if name == "words":
            assert {row["answers"][0] for row in rows} <= set(vocabulary.test)
            assert sum(row["group"] == "held-out face" for row in rows) == 6


def test_a_vocabulary_is_read_as_written(vocabulary: Vocabulary, tmp_path: Path) -> None:
    save_vocabulary(vocabulary, tmp_path / "words.json")
    assert load_vocabulary(tmp_path / "words.json") == vocabulary
