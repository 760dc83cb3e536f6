"""Scenes with exact truth: what the answers say must be what a computer finds in the picture."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np
import pytest

from dclocal_train.synthetic import shapes


def found_in(picture: np.ndarray) -> list[tuple[float, float, tuple[int, ...]]]:
    """Centre and colour of each thing, by OpenCV: connected regions that are not the corner's background."""
    background = picture[0, 0].astype(int)
    apart = (np.abs(picture.astype(int) - background).sum(-1) > 60).astype(np.uint8)
    count, labels, stats, centres = cv2.connectedComponentsWithStats(apart)
    regions = []
    for index in range(1, count):
        if stats[index, cv2.CC_STAT_AREA] > 60:
            inside = cv2.erode((labels == index).astype(np.uint8), np.ones((5, 5))) > 0
            colour = tuple(int(value) for value in np.median(picture[inside], axis=0))
            regions.append((*centres[index], colour))
    return regions


@pytest.mark.parametrize("seed", range(40))
def test_the_picture_shows_what_the_answers_say(seed: int) -> None:
    """Count, colours and places, from the pixels."""
    random_source = random.Random(seed)
    things = shapes.arrange(random_source)
    picture = np.asarray(shapes.draw(things, random_source))
    regions = found_in(picture)
    turns = dict(shapes.ask(things, random_source))
    assert turns["how many shapes are there?"] == shapes.NUMBERS[len(regions)]
    for thing in things:
        x, y, colour = min(regions, key=lambda region: abs(region[0] - thing.x) + abs(region[1] - thing.y))
        assert np.abs(np.array(colour) - shapes.COLOURS[thing.colour]).max() < 12
        assert abs(x - thing.x) < 12 and abs(y - thing.y) < 12
    named = {thing.shape: thing for thing in things}
    for question, answer in turns.items():
        words = question.rstrip("?").split()
        if "left" in words:
            one, other = named[words[2]], named[words[-1]]
            assert (one.x < other.x) == (answer == "left")
        if "above" in words:
            one, other = named[words[2]], named[words[-1]]
            assert (one.y < other.y) == (answer == "above")
        if question.startswith("is there a"):
            there = any((thing.colour, thing.shape) == (words[3], words[4]) for thing in things)
            assert there == (answer == "yes")


def test_yes_and_no_are_balanced_and_no_is_adversarial(tmp_path: Path) -> None:
    """A model that always says yes, or that looks for the colour alone, must not score."""
    rows = shapes.build(tmp_path, scenes=60, seed=1)
    pairs = [
        (question["value"].replace("<image>\n", ""), answer["value"])
        for row in rows
        for question, answer in zip(row["conversations"][::2], row["conversations"][1::2])
    ]
    existence = [(question, answer) for question, answer in pairs if question.startswith("is there a")]
    assert sum(answer == "yes" for _, answer in existence) == sum(answer == "no" for _, answer in existence) == 60
    again = shapes.build(tmp_path / "again", scenes=60, seed=1)
    assert [row["conversations"] for row in again] == [row["conversations"] for row in rows]
    other = shapes.build(tmp_path / "other", scenes=60, seed=2)
    assert [row["conversations"] for row in other] != [row["conversations"] for row in rows]
