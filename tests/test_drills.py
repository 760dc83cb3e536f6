"""Drills: many short questions on one scene, true of it, half of the existence ones about what is absent."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from dclocal_train.synthetic.concepts import Concepts, concepts_of
from dclocal_train.synthetic.drills import KINDS, MOST_TURNS, RELATION_KINDS, drill, drill_relations
from dclocal_train.synthetic.english import plural
from dclocal_train.synthetic.scenes import Scene, draw_scene
from dclocal_train.synthetic.things import Thing

NAMES = ("dog", "cat", "apple", "pear", "car", "bus", "tree", "cup", "hat", "shoe", "fish", "duck")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Concepts:
    folder = tmp_path_factory.mktemp("drawings")
    things = []
    for index, name in enumerate(NAMES):
        file = folder / f"{name}.png"
        Image.new("RGBA", (64, 64), (20 * index, 255 - 20 * index, 40, 255)).save(file)
        things.append(Thing(name, name, (), "google", "sort", file, "train"))
    return concepts_of(things)


def scenes(drawn: Concepts) -> list[tuple[Scene, list[tuple[str, str]]]]:
    made = []
    for seed in range(180):
        source = random.Random(seed)
        scene = draw_scene(drawn, source, kinds=KINDS)
        made.append((scene, drill(scene, drawn, source)))
    return made


def test_a_scene_gives_many_questions_and_none_twice(drawn: Concepts) -> None:
    lengths = []
    for _, turns in scenes(drawn):
        questions = [question for question, _ in turns]
        assert len(set(questions)) == len(questions) <= MOST_TURNS
        lengths.append(len(turns))
    assert sum(lengths) / len(lengths) > 8


def test_counts_are_those_of_the_scene(drawn: Concepts) -> None:
    asked, ones = 0, 0
    for scene, turns in scenes(drawn):
        for question, answer in turns:
            for name in NAMES:
                if plural(name) in question.lower().rstrip("?.").split() and answer.isdigit():
                    assert int(answer) == sum(placed.name == name for placed in scene.objects), question
                    asked, ones = asked + 1, ones + (answer == "1")
            if "objects" in question and answer.isdigit():
                assert int(answer) == len(scene.objects)
    assert asked > 60 and ones < 0.5 * asked, "mostly one thing is counted: a model learns to say one"


def test_what_is_absent_is_asked_for_as_often(drawn: Concepts) -> None:
    answers = {"yes": 0, "no": 0}
    for scene, turns in scenes(drawn):
        present = {placed.name for placed in scene.objects}
        for question, answer in turns:
            words = question.lower().replace("?", " ").replace(".", " ").split()
            named = [name for name in NAMES if name in words]
            if len(named) == 1 and answer in answers and not {"more", "left", "right", "above", "below"} & set(words):
                assert (answer == "yes") == (named[0] in present), question
                answers[answer] += 1
    assert answers["yes"] > 50 and abs(answers["yes"] - answers["no"]) < 0.3 * answers["yes"]


def test_relations_are_true_and_each_yes_stands_beside_its_no(drawn: Concepts) -> None:
    asked, answers = 0, {"yes": 0, "no": 0}
    for seed in range(40):
        source = random.Random(seed)
        scene = draw_scene(drawn, source, kinds=RELATION_KINDS)
        middles = {one.name: ((one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2) for one in scene.objects}
        turns = drill_relations(scene, source)
        assert len(turns) <= MOST_TURNS and len(dict(turns)) == len(turns)
        for question, answer in turns:
            words = question.replace(",", "").rstrip("?.").split()
            named = [middles[name] for name in words if name in middles]
            first, second = reversed(named) if question.startswith(("On which side", "Seen from")) else named
            sides = {
                "left": first[0] < second[0],
                "right": first[0] > second[0],
                "above": first[1] < second[1],
                "below": first[1] > second[1],
            }
            said = [side for side in sides if side in words]
            if answer in answers and len(said) == 1:
                assert (answer == "yes") == sides[said[0]], question
                answers[answer] += 1
            elif answer.removeprefix("to the ") in sides:
                assert sides[answer.removeprefix("to the ")], question
            asked += 1
    assert asked > 300 and abs(answers["yes"] - answers["no"]) < 0.15 * answers["yes"]
