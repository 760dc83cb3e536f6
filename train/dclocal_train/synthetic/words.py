"""Pictures of words, numbers and signs, with what is written known exactly: its letters, colour and place."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from dclocal_train.synthetic.fonts import Face
from dclocal_train.synthetic.lettering import (
    CANVAS,
    MARGIN,
    SIGNS,
    Box,
    centre_for,
    fit,
    ground,
    legible,
    mask_of,
    paint,
    paint_sign,
    sign_size,
    turned_size,
)
from dclocal_train.synthetic.vocabulary import SIGN_PHRASES, Vocabulary, patterns

if TYPE_CHECKING:
    from PIL.Image import Image

LOWEST_CAP, USUAL_CAP, HIGHEST_CAP = 14, 26, 120  # heights of a capital, in pixels
MOST_TRIES = 20


class TooLarge(ValueError):
    """A text that does not fit its place at the least height that can be read."""


@dataclass(frozen=True)
class Text:
    """What is written in one place, in its case; `kind` is word, letters, phrase, number, price or time.

    `box` is (left, top, right, bottom) in pixels, `angle` in degrees counter-clockwise; `near_misses` are texts of
    the same kind that are spelt nearly so and stand nowhere in the picture.
    """

    text: str
    kind: str
    colour: str
    box: Box
    angle: float
    near_misses: tuple[str, ...]


@dataclass(frozen=True)
class WordPicture:
    """A picture of CANVAS by CANVAS pixels, its texts from top to bottom (none: it shows no text), and its ground.

    `ground` says "plain", "gradient" or "noise", `sign` is one of SIGNS or empty.
    """

    image: Image
    texts: tuple[Text, ...]
    ground: str
    sign: str = ""


@dataclass(frozen=True)
class _Wanted:
    text: str
    kind: str
    near_misses: tuple[str, ...]


def draw_words(faces: Sequence[Face], vocabulary: Vocabulary, random: Random) -> WordPicture:
    """A picture in faces of the split "train" with words of `vocabulary.train`: mostly one large word."""
    faces = [face for face in faces if face.split == "train"]
    (layout,) = random.choices(("word", "letters", "number", "phrase", "several", "none"), (46, 8, 9, 14, 20, 3))
    if layout == "several":
        return _draw_several(faces, vocabulary, random)
    if layout == "none":
        image, kind_of_ground, _ = ground(random)
        return WordPicture(image, (), kind_of_ground)
    for _ in range(MOST_TRIES):
        face = random.choice(faces)
        wanted = want(layout, face, vocabulary, random)
        sign = random.choice(SIGNS) if random.random() < (0.4 if layout in ("phrase", "number") else 0.2) else ""
        try:
            return draw_text(wanted.text, face, random, kind=wanted.kind, near_misses=wanted.near_misses, sign=sign)
        except TooLarge:  # a long word in a wide face, turned
            continue
    raise TooLarge(f"none of {MOST_TRIES} texts fits the picture")


def draw_text(
    text: str,
    face: Face,
    random: Random,
    *,
    kind: str = "word",
    near_misses: tuple[str, ...] = (),
    sign: str = "",
    most_degrees: float | None = None,
    lowest_cap: float = LOWEST_CAP,
) -> WordPicture:
    """A picture of one text, 40 to 95 % of the picture wide where the cap heights allow that.

    `most_degrees` bounds the angle, which is else mostly within 8 and at times up to 30.  Raises TooLarge for a text
    that cannot be set at `lowest_cap`.
    """
    image, kind_of_ground, colours = ground(random)
    angle = random.uniform(-most_degrees, most_degrees) if most_degrees is not None else _angle(random)
    room = {"": (0.95, 0.9), "octagon": (0.66, 0.5)}.get(sign, (0.8, 0.62))
    width = CANVAS * random.uniform(0.4, room[0])
    lines = _lines(text, random) if kind == "phrase" else text
    unit = mask_of(face, 100, lines).width / 100  # of the text at a cap height of one pixel
    cap = min(HIGHEST_CAP, max(USUAL_CAP, width / unit))
    fitted = fit(face, lines, cap, (CANVAS * room[0], CANVAS * room[1]), angle, max(lowest_cap, LOWEST_CAP))
    if fitted is None:
        raise TooLarge(f"{text!r} does not fit at a cap height of {lowest_cap}")
    size, mask = fitted
    reach = sign_size(sign, size) if sign else size
    centre = centre_for(turned_size(reach, angle), random)
    colour = ""
    if sign:
        fill = paint_sign(image, sign, reach, centre, angle, random)
        colours = [fill]
        colour = "white" if sign == "octagon" else "black" if sign == "plate" else ""
    colour = colour or legible(colours, random)
    place = (round(centre[0] - mask.width / 2), round(centre[1] - mask.height / 2))
    box = paint(image, mask, place, colour, random)
    return WordPicture(image, (Text(text, kind, colour, box, angle, near_misses),), kind_of_ground, sign)


def _draw_several(faces: Sequence[Face], vocabulary: Vocabulary, random: Random) -> WordPicture:
    """Two to six texts, each in a band of its own."""
    image, kind_of_ground, colours = ground(random)
    (count,) = random.choices((2, 3, 4, 5, 6), (35, 25, 18, 12, 10))
    face, shared, colour = random.choice(faces), random.random() < 0.6, legible(colours, random)
    band, tilt = (CANVAS - 2 * MARGIN) / count, random.choice((0, 1.5, 4))
    drawn: list[tuple[_Wanted, Box, str, float]] = []
    for index in range(count):
        face = face if shared else random.choice(faces)
        (kind,) = random.choices(("word", "letters", "number"), (74, 12, 14))
        wanted = want(kind, face, vocabulary, random)
        if any(wanted.text.lower() == other.text.lower() for other, *_ in drawn):
            continue
        angle, height = random.uniform(-tilt, tilt), band * 0.82
        cap = min(HIGHEST_CAP, random.uniform(0.55, 0.9) * height)
        fitted = fit(face, wanted.text, cap, (CANVAS - 2 * MARGIN, height), angle, LOWEST_CAP)
        if fitted is None:
            continue
        mask = fitted[1]
        x = random.randint(MARGIN, max(MARGIN, CANVAS - MARGIN - mask.width))
        y = MARGIN + index * band + random.uniform(0, band * 0.9 - mask.height)
        if not shared or random.random() < 0.3:
            colour = legible(colours, random)
        drawn.append((wanted, paint(image, mask, (x, round(y)), colour, random), colour, angle))
    there = {wanted.text.lower() for wanted, *_ in drawn}
    texts = [
        Text(
            one.text, one.kind, colour, box, angle, tuple(near for near in one.near_misses if near.lower() not in there)
        )
        for one, box, colour, angle in drawn
    ]
    return WordPicture(image, tuple(texts), kind_of_ground)


def want(kind: str, face: Face, vocabulary: Vocabulary, random: Random) -> _Wanted:
    if kind == "number":
        return _number(random)
    if kind == "letters":
        text, misses = _letters(vocabulary, random)
    elif kind == "phrase":
        text = random.choice(SIGN_PHRASES)
        sharing = [one for one in SIGN_PHRASES if one != text and set(one.split()) & set(text.split())]
        misses = [random.choice(sharing or [one for one in SIGN_PHRASES if one != text])]
    else:
        text = random.choice(vocabulary.train)
        misses = near_misses(text, vocabulary, random)
    cases = [str.upper] if face.capitals else [str.lower, str.upper]
    if kind != "letters" and not face.capitals:
        cases.append(str.title)
    case = random.choice(cases)
    return _Wanted(case(text), kind, tuple(case(miss) for miss in misses))


def near_misses(word: str, vocabulary: Vocabulary, random: Random) -> list[str]:
    """Two lower-case texts one letter from `word`, training words where there are some; never a test word."""
    found = {other for pattern in patterns(word) for other in vocabulary.neighbours.get(pattern, ())} - {word}
    chosen = random.sample(sorted(found), min(2, len(found)))
    while len(chosen) < 2:
        at = random.randrange(len(word))
        other = word[:at] + random.choice(string.ascii_lowercase) + word[at + 1 :]
        if other != word and other not in chosen and other not in vocabulary.held_out:
            chosen.append(other)
    return chosen


def _letters(vocabulary: Vocabulary, random: Random) -> tuple[str, list[str]]:
    """A string of one to five letters that is no held-out word, and its near misses."""
    (length,) = random.choices((1, 2, 3, 4, 5), (15, 15, 25, 25, 20))
    while True:
        text = "".join(random.choices(string.ascii_lowercase, k=length))
        if text not in vocabulary.held_out:
            return text, near_misses(text, vocabulary, random)


def _number(random: Random) -> _Wanted:
    (kind,) = random.choices(("number", "price", "time"), (60, 20, 20))
    if kind == "number":
        text = str(random.randrange(10 ** random.randint(1, 4)))
    elif kind == "price":
        cents = random.choice(("", ".99", ".50", f".{random.randrange(100):02d}"))
        text = f"{random.choice('$$€£')}{random.randint(1, 99)}{cents}"
    else:
        text = f"{random.randint(1, 23)}:{random.randrange(60):02d}"
    at = random.choice([index for index, letter in enumerate(text) if letter.isdigit()])
    highest = 5 if kind == "time" else 9  # a digit of another time must not be out of range
    digits = [str(digit) for digit in range(1, highest + 1) if str(digit) != text[at]]
    return _Wanted(text, kind, (text[:at] + random.choice(digits) + text[at + 1 :],))


def _lines(phrase: str, random: Random) -> str:
    """The phrase, mostly broken into two lines."""
    words = phrase.split()
    if len(words) == 1 or (len(words) == 2 and random.random() < 0.4):
        return phrase
    middle = (len(words) + 1) // 2
    return " ".join(words[:middle]) + "\n" + " ".join(words[middle:])


def _angle(random: Random) -> float:
    (most,) = random.choices((0, 8, 30), (25, 65, 10))
    return random.uniform(-most, most)
