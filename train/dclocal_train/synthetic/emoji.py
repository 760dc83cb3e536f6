"""Naming pictures: emoji of several vendors, pasted at varying size and place on varying backgrounds."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dclocal.progress import Progress, silent
from dclocal_train.synthetic.rows import caption_row, conversation_row

CATEGORIES = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
LEFT_OUT = ("sky & weather", "time")
CANVAS = 336
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "red": (200, 40, 40),
    "green": (50, 150, 60),
    "blue": (50, 90, 200),
    "yellow": (240, 210, 60),
    "brown": (125, 80, 45),
    "teal": (20, 140, 140),
    "pink": (245, 170, 190),
    "orange": (240, 140, 40),
}
NAMING = ("What is this?", "What is in the picture?", "What object is shown?", "What do you see?", "Name the object.")
DESCRIBING = ("Describe the picture.", "Describe this image.", "What does the picture show?")
PLACES = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))


@dataclass(frozen=True)
class Emoji:
    """A drawing's name in words, and its picture of each vendor as PNG bytes."""

    name: str
    drawings: dict[str, bytes]


def read_emoji(packages: dict[str, Path], progress: Progress = silent) -> list[Emoji]:
    """Everyday objects that every vendor in `packages` (vendor → npm tarball) draws, sorted by name."""
    drawings: dict[str, dict[str, bytes]] = {}
    names: dict[str, str] = {}
    for vendor, package in packages.items():
        with tarfile.open(package) as archive:
            listing = archive.extractfile("package/emoji.json")
            assert listing is not None
            entries = json.load(listing)
            for index, entry in enumerate(entries):
                progress(f"reading {vendor}'s emoji", index + 1, len(entries))
                if entry["category"] not in CATEGORIES or entry["subcategory"] in LEFT_OUT:
                    continue
                if not entry[f"has_img_{vendor}"]:
                    continue
                picture = archive.extractfile(f"package/img/{vendor}/64/{entry['image']}")
                assert picture is not None
                names[entry["unified"]] = entry["short_name"].replace("_", " ").replace("-", " ")
                drawings.setdefault(entry["unified"], {})[vendor] = picture.read()
    whole = [Emoji(names[key], found) for key, found in drawings.items() if len(found) == len(packages)]
    return sorted((emoji for emoji in whole if emoji.name.replace(" ", "").isalpha()), key=lambda emoji: emoji.name)


def build(
    packages: dict[str, Path], folder: Path, *, pictures: int, seed: int, progress: Progress = silent
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(caption rows, conversation rows) of `pictures` scenes drawn under `folder`/emoji, vendors in turn."""
    random_source = random.Random(seed)
    emoji = read_emoji(packages, progress)
    (folder / "emoji").mkdir(parents=True, exist_ok=True)
    order: list[tuple[Emoji, str]] = []
    while len(order) < pictures:
        turn = [(one, vendor) for one in emoji for vendor in packages]
        random_source.shuffle(turn)
        order += turn
    captions, conversations = [], []
    for index, (one, vendor) in enumerate(order[:pictures]):
        progress("drawing scenes", index + 1, pictures)
        scene, background, place = compose(one.drawings[vendor], random_source)
        name = f"emoji/{index:05d}.png"
        scene.save(folder / name)
        other = random_source.choice([e.name for e in emoji if e.name != one.name])
        captions.append(caption_row(f"emoji-{index}", name, with_article(one.name)))
        turns = ask_about(one.name, other, background, place, random_source)
        conversations.append(conversation_row(f"emoji-{index}", name, turns))
    return captions, conversations


def compose(drawing: bytes, random_source: random.Random) -> tuple[Image.Image, str, str]:
    """A scene of CANVAS² pixels, its background's colour name and the drawing's place in words."""
    background = random_source.choice(list(BACKGROUNDS))
    canvas = _background(BACKGROUNDS[background], random_source)
    size = random_source.randint(110, 320)
    figure = Image.open(io.BytesIO(drawing)).convert("RGBA").resize((size, size), Image.Resampling.BICUBIC)
    x, y = (random_source.randint(0, CANVAS - size) for _ in range(2))
    canvas.paste(figure, (x, y), figure)
    column, row = (min(2, int((offset + size / 2) * 3 / CANVAS)) for offset in (x, y))
    return canvas, background, PLACES[row][column]


def ask_about(
    name: str, other: str, background: str, place: str, random_source: random.Random
) -> list[tuple[str, str]]:
    """Questions on one scene, the answers all true of it."""
    thing = with_article(name)
    turns = [
        (random_source.choice(NAMING), thing),
        (random_source.choice(DESCRIBING), f"{thing} on a {background} background"),
        (f"Is there {thing} in the picture?", "yes"),
        (f"Is there {with_article(other)} in the picture?", "no"),
        ("What color is the background?", background),
        (f"Where is the {name}?", place),
    ]
    random_source.shuffle(turns)
    return turns


def with_article(name: str) -> str:
    """ "an apple", "a taco"; a plural stands bare."""
    if name.endswith("s") and not name.endswith("ss"):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _background(colour: Sequence[int], random_source: random.Random) -> Image.Image:
    """Plain, shaded towards one side, or grainy; the colour stays recognisable."""
    pixels = np.broadcast_to(np.asarray(colour, np.float32), (CANVAS, CANVAS, 3)).copy()
    kind = random_source.choice(("plain", "plain", "shaded", "grainy"))
    if kind == "shaded":
        ramp = np.linspace(0.75, 1.1, CANVAS, dtype=np.float32)
        pixels *= ramp[:, None, None] if random_source.random() < 0.5 else ramp[None, :, None]
    elif kind == "grainy":
        noise = np.random.default_rng(random_source.getrandbits(32))
        pixels += noise.normal(0, 14, (CANVAS, CANVAS, 1)).astype(np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
