"""easy-VQA's train split as conversations: one coloured shape a picture and about ten questions on it."""

from __future__ import annotations

import json
import random
import re
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from dclocal_train.synthetic.rows import caption_row, conversation_row

COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
NAMING = ("What is this?", "What is in the picture?", "Describe the picture.", "What do you see?")


def build(wheel: Path, folder: Path, *, pictures: int, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(caption rows, conversation rows) of `pictures` train pictures, their images unpacked under `folder`/easy_vqa.

    Captions are told from the split's own answers; a picture whose answers do not settle its colour and
    shape has no caption.
    """
    random_source = random.Random(seed)
    (folder / "easy_vqa").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        questions = json.loads(archive.read("easy_vqa/data/train/questions.json"))
        by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for question, answer, image in questions:
            by_image[image].append((question, answer))
        chosen = random_source.sample(sorted(by_image), min(pictures, len(by_image)))
        captions, conversations = [], []
        for image in chosen:
            name = f"easy_vqa/{image}.png"
            (folder / name).write_bytes(archive.read(f"easy_vqa/data/train/images/{image}.png"))
            turns = by_image[image]
            caption = caption_from(turns)
            if caption:
                captions.append(caption_row(f"easy-vqa-{image}", name, caption))
                turns = [*turns, (random_source.choice(NAMING), caption)]
            random_source.shuffle(turns)
            conversations.append(conversation_row(f"easy-vqa-{image}", name, turns))
    return captions, conversations


def caption_from(turns: list[tuple[str, str]]) -> str | None:
    """ "a red circle" where the answers settle both words, else None."""
    colour, shape = _settled(turns, COLOURS), _settled(turns, SHAPES)
    return f"a {colour} {shape}" if colour and shape else None


def _settled(turns: list[tuple[str, str]], words: tuple[str, ...]) -> str | None:
    """The one word of `words` that an answer names, or that a yes/no question affirms."""
    for question, answer in turns:
        if answer in words:
            return answer
        named = [word for word in words if re.search(rf"\b{word}\b", question)]
        negated = re.search(r"\b(not|no)\b", question) is not None
        presupposed = answer not in ("yes", "no")  # "what color is the circle?"
        affirmed = presupposed or (answer == "yes") != negated
        if named and affirmed:
            return named[0]
    return None
