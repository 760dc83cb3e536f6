"""The sample photographs of scikit-image and scikit-learn, cropped and lit anew each time, with what a person says
of them.  They are few: they show the model what a photograph is, not what the world holds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from dclocal_train.synthetic.english import article
from dclocal_train.synthetic.rows import Sample

SIZE = 336


@dataclass(frozen=True)
class Photograph:
    """`name`: the main thing; `caption` and `story`: one and several sentences; `colour` of the main thing;
    `seen`: what else can be asked for and found; `place`: where it was taken."""

    package: str
    file: str
    name: str
    caption: str
    story: str
    seen: tuple[str, ...]
    place: str
    colour: str | None = None
    flips: bool = True


PHOTOGRAPHS = (
    Photograph(
        "skimage",
        "astronaut.png",
        "astronaut",
        "a smiling astronaut in an orange space suit",
        "A woman in an orange space suit smiles at the camera. Behind her stand a flag and a model of a space shuttle.",
        ("woman", "person", "space suit", "flag", "space shuttle"),
        "indoors",
        "orange",
        False,
    ),
    Photograph(
        "skimage",
        "chelsea.png",
        "cat",
        "a close-up of a tabby cat",
        "A tabby cat with striped orange fur looks at something. It has green eyes and long white whiskers.",
        ("cat", "animal", "eyes", "whiskers"),
        "indoors",
        "orange",
    ),
    Photograph(
        "skimage",
        "coffee.png",
        "cup of coffee",
        "a cup of coffee on a saucer",
        "A red cup of coffee stands on a red saucer with a spoon. The table is made of wood.",
        ("cup", "coffee", "saucer", "spoon", "wooden table"),
        "indoors",
        "red",
    ),
    Photograph(
        "skimage",
        "camera.png",
        "man with a camera",
        "a man with a camera on a tripod",
        "A man in a dark coat looks through a camera on a tripod. He stands on grass; tall buildings are far behind "
        "him. The photo is black and white.",
        ("man", "person", "camera", "tripod", "grass"),
        "outdoors",
    ),
    Photograph(
        "skimage",
        "coins.png",
        "coins",
        "rows of old coins",
        "Many old coins lie in four rows on a dark background. The photo is black and white.",
        ("coins", "money"),
        "indoors",
        "gray",
    ),
    Photograph(
        "skimage",
        "horse.png",
        "horse",
        "a black silhouette of a horse",
        "The black silhouette of a horse stands on a white background.",
        ("horse", "animal"),
        "nowhere in particular",
        "black",
    ),
    Photograph(
        "skimage",
        "moon.png",
        "surface of the moon",
        "the gray surface of the moon",
        "The gray surface of the moon has craters and dark spots.",
        ("craters", "moon"),
        "in space",
        "gray",
    ),
    Photograph(
        "skimage",
        "motorcycle_left.png",
        "motorcycle",
        "a red motorcycle in a garage",
        "A red motorcycle stands in a garage. Behind it are shelves with boxes and a wooden bench.",
        ("motorcycle", "vehicle", "shelves", "boxes", "wheel"),
        "in a garage",
        "red",
    ),
    Photograph(
        "skimage",
        "rocket.jpg",
        "rocket",
        "a rocket on its launch pad at dusk",
        "A white rocket stands on its launch pad between tall towers. Lights shine below it and the sky is dark blue.",
        ("rocket", "towers", "lights", "sky"),
        "outdoors",
        "white",
    ),
    Photograph(
        "skimage",
        "hubble_deep_field.jpg",
        "galaxies",
        "many galaxies and stars in dark space",
        "Countless small galaxies and stars shine in the black of space.",
        ("stars", "galaxies"),
        "in space",
    ),
    Photograph(
        "skimage",
        "brick.png",
        "brick wall",
        "a wall of bricks",
        "A wall of gray bricks with light mortar between them.",
        ("bricks", "wall"),
        "outdoors",
        "gray",
    ),
    Photograph(
        "skimage",
        "grass.png",
        "grass",
        "a lawn seen from above",
        "Blades of grass, seen from above in black and white.",
        ("grass", "plants"),
        "outdoors",
        "gray",
    ),
    Photograph(
        "skimage",
        "page.png",
        "page of text",
        "a printed page of text",
        "A page of a book with a heading and several lines of printed text.",
        ("text", "paper", "words"),
        "indoors",
        None,
        False,
    ),
    Photograph(
        "sklearn",
        "china.jpg",
        "temple",
        "a Chinese temple above a lake",
        "A Chinese temple with several roofs stands among trees. Behind it lies a wide lake under a bright sky.",
        ("temple", "building", "trees", "lake", "sky"),
        "outdoors",
    ),
    Photograph(
        "sklearn",
        "flower.jpg",
        "flower",
        "an orange flower with many petals",
        "A large orange flower with many petals in front of a dark green background.",
        ("flower", "plant", "petals"),
        "outdoors",
        "orange",
    ),
)
FOLDERS = {"skimage": ("skimage", "data"), "sklearn": ("sklearn", "datasets/images")}
NAMING = ("What is this?", "What is in the photo?", "What do you see?", "what's in this image", "What does this show?")
CAPTIONING = ("Describe the image in one sentence.", "Give a short caption.", "What is shown in this picture?")
STORIES = ("Describe the picture in detail.", "Describe this photo.", "Tell me what you see in the image.")
LOOKING = ("Is there {} in the picture?", "Can you see {}?", "Does the photo show {}?")
ABSENT = ("dog", "airplane", "pizza", "umbrella", "elephant", "guitar", "boat", "banana", "snowman", "clock", "bus")
UNKNOWN = ("Who took this photo?", "When was this taken?", "What was the weather like on the day after?")
UNKNOWN_ANSWER = "I can't tell from this image."


def draw_photograph(random_source: random.Random) -> Sample:
    """One of the photographs, cropped to at least seven tenths of its sides, perhaps mirrored, lighter or darker."""
    photo = random_source.choice(PHOTOGRAPHS)
    image = part_of(_open(photo), (0.7, 1.0), random_source)
    if photo.flips and random_source.random() < 0.5:
        image = ImageOps.mirror(image)
    image = ImageEnhance.Brightness(image).enhance(random_source.uniform(0.8, 1.2))
    image.thumbnail((SIZE, SIZE))
    return Sample(image, photo.caption, _ask(photo, random_source))


def _ask(photo: Photograph, random_source: random.Random) -> Sequence[tuple[str, str]]:
    named = article(photo.name)
    seen, absent = random_source.choice(photo.seen), random_source.choice(ABSENT)
    turns = [
        (random_source.choice(NAMING), named),
        (random_source.choice(CAPTIONING), f"{photo.caption[0].upper()}{photo.caption[1:]}."),
        (random_source.choice(STORIES), photo.story),
        (random_source.choice(LOOKING).format(article(seen)), "yes"),
        (random_source.choice(LOOKING).format(article(absent)), "no"),
        (random_source.choice(UNKNOWN), UNKNOWN_ANSWER),
        ("Was this taken indoors or outdoors?", photo.place),
    ]
    if photo.colour is not None:
        turns.append((f"What color is the {photo.name}?", photo.colour))
    random_source.shuffle(turns)
    return turns


def part_of(image: Image.Image, shares: tuple[float, float], random_source: random.Random) -> Image.Image:
    """A part anywhere in the picture, whose sides are such a share of its own."""
    share = random_source.uniform(*shares)
    width, height = int(image.width * share), int(image.height * share)
    left, top = random_source.randint(0, image.width - width), random_source.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


@lru_cache(None)
def _open(photo: Photograph) -> Image.Image:
    package, folder = FOLDERS[photo.package]
    with Image.open(Path(str(files(package))) / folder / photo.file) as image:
        return image.convert("RGB")
