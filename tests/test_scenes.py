"""Composed scenes: what is said of them must be what is drawn in them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from dclocal_train.synthetic.backgrounds import CANVAS, draw_background
from dclocal_train.synthetic.concepts import Concepts, concepts_of
from dclocal_train.synthetic.emoji_concepts import TEST_VENDOR
from dclocal_train.synthetic.rows import Sample
from dclocal_train.synthetic.samples import sample_page
from dclocal_train.synthetic.scene_kinds import counted_plan
from dclocal_train.synthetic.scene_questions import ask, caption
from dclocal_train.synthetic.scene_tests import counting_test, existence_test, relations_test
from dclocal_train.synthetic.scenes import Scene, compose, draw_scene
from dclocal_train.synthetic.things import Thing

NAMES = ("dog", "hammer", "pizza", "violin", "cloud", "rocket", "teapot", "ladder", "cactus", "button")
RELATION = re.compile(r"(?:Is|Are) the (.+?) (?:to the |on the )?(left|right|above|below)(?: side)?(?: of)? the (.+)\?")


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> list[Thing]:
    """A blot of its own colour for each name, by two vendors, the second held out."""
    folder, found = tmp_path_factory.mktemp("things"), []
    for index, name in enumerate(NAMES):
        for style, split in (("google", "train"), (TEST_VENDOR, "test")):
            picture = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
            colour = tuple(int(value) for value in np.random.default_rng(index).integers(0, 255, 3))
            ImageDraw.Draw(picture).ellipse((0, 0, 63, 47), fill=(*colour, 255))
            file = folder / f"{name}-{style}.png"
            picture.save(file)
            category = "animal" if index % 2 else "object"
            found.append(Thing(f"emoji:{index}", name, (name,), style, category, file, split))
    return found


@pytest.fixture(scope="module")
def drawn(things: list[Thing]) -> Concepts:
    return concepts_of(thing for thing in things if thing.split == "train")


def changed(scene: Scene) -> np.ndarray:
    """Where the scene differs from its background."""
    before, after = (np.asarray(image, np.int16) for image in (scene.background.image, scene.image))
    return np.abs(before - after).max(-1) > 12


@pytest.mark.parametrize("count", range(1, 9))
def test_as_many_things_are_drawn_as_are_counted(drawn: Concepts, count: int) -> None:
    for seed in range(4):
        scene = compose(counted_plan(count, 2, drawn, random.Random(seed)), "counting", random.Random(seed))
        _, blots = ndimage.label(ndimage.binary_closing(changed(scene), iterations=2))
        assert blots == len(scene.objects) == min(8, count + 2)
        names = Counter(placed.name for placed in scene.objects)
        assert names[scene.objects[0].name] == count


def test_boxes_hold_what_is_drawn_and_nothing_else_is(drawn: Concepts) -> None:
    for seed in range(12):
        scene = compose(counted_plan(3, 1, drawn, random.Random(seed)), "counting", random.Random(seed))
        seen = changed(scene)
        for x0, y0, x1, y1 in (placed.box for placed in scene.objects):
            assert seen[y0:y1, x0:x1].mean() > 0.3
            seen[y0:y1, x0:x1] = False
        assert seen.mean() < 0.001


def test_answers_are_true_of_the_pixels(drawn: Concepts) -> None:
    """Relations against the centroids of what is seen, existence and counts against what was drawn."""
    relations, answers = 0, Counter[str]()
    for seed in range(300):
        source = random.Random(seed)
        scene = draw_scene(drawn, source)
        names = Counter(placed.name for placed in scene.objects)
        boxes = {placed.name: placed.box for placed in scene.objects if names[placed.name] == 1}
        turns = ask(scene, drawn, source)
        assert 4 <= len(turns) <= 9 and len(dict(turns)) == len(turns)
        for question, answer in turns:
            found = RELATION.match(question)
            if found and answer in ("yes", "no"):
                (ax, ay), (bx, by) = ((b[0] + b[2], b[1] + b[3]) for b in (boxes[found[1]], boxes[found[3]]))
                true = {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}[found[2]]
                assert (answer == "yes") == true, (question, answer)
                relations += 1
            elif re.match(r"(Is there|Do you see|Can you see|Does the picture show)", question):
                asked = [name for name in (*NAMES, *names) if re.search(rf"\b{name}\b", question)]
                assert (answer == "yes") == (asked[0] in names) or answer.startswith("No, "), (question, answer)
                answers[answer] += 1
            elif question.startswith("How many") and answer.isdigit() and "objects" not in question:
                asked = [name for name in names if re.search(rf"\b{name}", question)]
                assert int(answer) == (names[asked[0]] if asked else 0), (question, answer)
    assert relations > 40
    assert 0.6 < answers["yes"] / answers["no"] < 1.7


def test_what_is_not_there_is_in_no_description(drawn: Concepts) -> None:
    for seed in range(80):
        source = random.Random(seed)
        scene = draw_scene(drawn, source)
        present = " ".join(placed.name for placed in scene.objects)
        for text in (caption(scene, source), *(a for q, a in ask(scene, drawn, source) if q.startswith("Describe"))):
            assert not [name for name in NAMES if name not in present and re.search(rf"\b{name}\b", text)], text


def test_the_same_seed_is_the_same_scene(drawn: Concepts) -> None:
    first, again, other = (draw_scene(drawn, random.Random(seed)) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_a_backgrounds_colour_is_its_colour() -> None:
    red = [draw_background(random.Random(seed)) for seed in range(120)]
    means = [np.asarray(one.image).mean((0, 1)) for one in red if one.colour == "red"]
    assert len(means) > 2 and all(mean[0] > 1.6 * max(mean[1:]) for mean in means)
    assert all(one.image.size == (CANVAS, CANVAS) for one in red)


@pytest.mark.parametrize(
    ("build", "groups"),
    [(existence_test, {"yes": 12, "no": 12}), (counting_test, {str(n): 4 for n in range(1, 7)}), (relations_test, {})],
)
def test_tests_are_balanced_and_half_of_them_held_out(
    things: list[Thing], tmp_path: Path, build: object, groups: dict[str, int]
) -> None:
    build(things, tmp_path, 24, seed=3)  # type: ignore[operator]
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    answers = Counter(row["answers"][0] for row in rows)
    assert not groups or answers == groups
    assert answers["yes"] == answers["no"]
    assert sum("held-out" in row["group"] for row in rows) == 12
    assert all(Image.open(tmp_path / row["image"]).size == (CANVAS, CANVAS) for row in rows)


def test_a_page_of_samples_shows_all_of_them(tmp_path: Path) -> None:
    image = Image.new("RGB", (CANVAS, CANVAS), (255, 0, 0))
    sample_page([Sample(image, "a red square", [("What is this?", "a red square")])] * 6, tmp_path / "page.png")
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert ndimage.label((page == (255, 0, 0)).all(-1))[1] == 6
