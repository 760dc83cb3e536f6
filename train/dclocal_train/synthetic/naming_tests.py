"""Questions of naming on drawings held out of training: common objects as emoji of the test vendor, and clip art."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from dclocal_train.synthetic.emoji_concepts import TEST_VENDOR, VENDORS
from dclocal_train.synthetic.things import CLIPART, Thing

CANVAS = 336  # pixels
SHARE = 0.7  # of the canvas that the drawing's longer side takes
QUESTION = "What is this?"
QUESTIONS = "questions.jsonl"
TRAINING_VENDORS = 3  # that must draw a common object besides the test vendor
# What nobody holds in a hand or walks up to is no common object.
NO_OBJECTS = {"face", "sign", "person", "body part", "weather", "landscape", "place", "planet", ""}


def emoji_test(things: Sequence[Thing], folder: Path, count: int = 500, seed: int = 0) -> list[Thing]:
    """Write the test of common objects: a picture and a question of each of `count` concepts; returns its drawings.

    Fewer where there are fewer such concepts.
    """
    training: dict[str, set[str]] = {}
    for thing in things:
        if thing.style in VENDORS and thing.split == "train":
            training.setdefault(thing.concept, set()).add(thing.style)
    held_out = [thing for thing in things if thing.style == TEST_VENDOR and thing.category not in NO_OBJECTS]
    common = [thing for thing in held_out if len(training.get(thing.concept, ())) >= TRAINING_VENDORS]
    return _write(_chosen(common, count, seed), folder)


def clipart_test(things: Sequence[Thing], folder: Path, count: int, seed: int = 0) -> list[Thing]:
    """The same of held-out clip art, `count` drawings at most, one of a concept."""
    held_out = [thing for thing in things if thing.style == CLIPART and thing.split == "test"]
    return _write(_chosen(held_out, count, seed), folder)


def read_questions(folder: Path) -> list[dict[str, object]]:
    """The rows of a test's questions.jsonl."""
    return [json.loads(line) for line in (folder / QUESTIONS).read_text(encoding="utf-8").splitlines()]


def is_right(answer: str, answers: Sequence[str]) -> bool:
    """Whether `answer` contains one of `answers` as whole words, in any case."""
    said = f" {_words(answer)} "
    return any(f" {_words(right)} " in said for right in answers)


def _chosen(things: Sequence[Thing], count: int, seed: int) -> list[Thing]:
    """One drawing of each concept, `count` concepts, in an order that depends on the seed and their names alone."""
    by_concept: dict[str, Thing] = {}
    for thing in sorted(things, key=lambda thing: (_code_of(thing) not in thing.concept, thing.file.name)):
        by_concept.setdefault(thing.concept, thing)

    def place(thing: Thing) -> str:
        return hashlib.sha256(f"{seed} {thing.concept}".encode()).hexdigest()

    return sorted(sorted(by_concept.values(), key=place)[:count], key=lambda thing: thing.concept)


def _code_of(thing: Thing) -> str:
    return thing.file.stem


def _write(things: Sequence[Thing], folder: Path) -> list[Thing]:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, thing in enumerate(things):
        drawing = thing.picture()
        scale = SHARE * CANVAS / max(drawing.size)
        width, height = (max(1, round(side * scale)) for side in drawing.size)
        drawing = drawing.resize((width, height), Image.Resampling.LANCZOS)
        canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
        canvas.paste(drawing, ((CANVAS - width) // 2, (CANVAS - height) // 2), drawing)
        name = f"{index:04d}.png"
        canvas.save(folder / name)
        answers = list(dict.fromkeys([thing.name, *thing.names]))
        row = {"image": name, "question": QUESTION, "answers": answers, "match": "contains", "group": thing.category}
        rows.append(json.dumps(row, ensure_ascii=False))
    part = folder / f"{QUESTIONS}.part"
    part.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    part.replace(folder / QUESTIONS)
    return list(things)


def _words(text: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())
