"""The network behind `dclocal_models.text_words.TextWords`: trained on words whose letters' places are known."""

from __future__ import annotations

import math
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dclocal_models.answer import tokenize_with
from dclocal_models.place_nets import TextNet
from dclocal_models.text_words import CHARACTERS, OTHER, code_of
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import PlaceNetConfig
from dclocal_train.place_fit import Drawn, Pictures, fit, gather, named, spread, trained_once
from dclocal_train.synthetic.fonts import Face, open_font
from dclocal_train.synthetic.lettering import CANVAS, SIGNS
from dclocal_train.synthetic.materials import Materials, build_materials, load_materials
from dclocal_train.synthetic.scenes import draw_scene
from dclocal_train.synthetic.words import Text, TooLarge, draw_text, want

FILE = "text_words.safetensors"
LAYOUTS = {"word": 75, "letters": 20, "number": 5}
MOST_LETTERS = 8
WITHOUT, ON_SIGN = 0.2, 0.15
LINE_WEIGHT = 0.3


@dataclass(frozen=True)
class Letter:
    """A character and where its middle lies, in shares of the picture's sides."""

    character: str
    x: float
    y: float


def fit_text_words(
    model: DenseConnectorModel, tokenizer: Any, config: PlaceNetConfig, folder: Path, source_folder: Path | None
) -> None:
    """Give the model its text words: network and lexicon from `folder`, or made now, or trained on, and kept there.

    Raises ValueError where the model's count of words is not the lexicon's.
    """
    words = model.connector.text_words
    assert words is not None
    net, materials = words.net, load_materials(build_materials(source_folder))
    goes_on = bool((words.codes != words.UNUSED).any())

    def train() -> None:
        pictures = gather(model, lambda index: _text(materials, index), config, "texts")
        fit_text_net(net, pictures, config, goes_on)

    trained_once(net, folder / FILE, train)
    tokenize = tokenize_with(tokenizer)
    lexicon = {word: ids[0] for word in materials.vocabulary.lexicon if len(ids := tokenize(f" {word}", False)) == 1}
    if len(lexicon) != len(words.codes):
        raise ValueError(f"{len(lexicon)} words are one token each; the model knows {len(words.codes)}")
    embed = named(model, tokenizer)
    words.codes.copy_(torch.tensor([code_of(word) for word in lexicon]))
    words.tokens.copy_(torch.tensor(list(lexicon.values())))
    words.names.copy_(embed(list(lexicon)))
    words.letters[:OTHER].copy_(embed(CHARACTERS))
    if not goes_on:
        words.gain.data.fill_(config.gain)


def fit_text_net(net: TextNet, pictures: Pictures, config: PlaceNetConfig, goes_on: bool = False) -> None:
    """Letters' densities as they are, also as counted from the left, and the characters where these are; see `fit` for
    `goes_on`."""
    shape = (net.grid[0], net.SHARE * net.grid[1])
    density, characters = (torch.stack(each) for each in zip(*(letters_of(truth, shape) for truth in pictures.truths)))

    def loss(dense: Tensor, _: Tensor | None, chosen: Tensor) -> Tensor:
        told, log_probabilities = net.letters(dense)
        told, wanted, classes = told.float(), density[chosen], characters[chosen]
        value = (told - wanted).square().sum((1, 2)).mean()
        value = value + LINE_WEIGHT * (told.sum(1) - wanted.sum(1)).cumsum(1).abs().mean()
        shown = classes >= 0
        each = functional.nll_loss(log_probabilities[shown].float(), classes[shown], reduction="none")
        return value + (each * wanted[shown]).sum() / wanted[shown].sum().clamp(min=1)

    fit(net, pictures, config, loss, goes_on)


def letters_of(letters: Sequence[Letter], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Letters a place, `[rows, columns]`, each summing to one, and the character that is most at it (−1: none)."""
    density, characters, most = torch.zeros(shape), torch.full(shape, -1), torch.zeros(shape)
    for letter in letters:
        kind = CHARACTERS.index(letter.character) if letter.character in CHARACTERS else OTHER
        for row, column, share in spread(density, letter.x * shape[1], letter.y * shape[0]):
            if share > most[row, column]:
                most[row, column], characters[row, column] = share, kind
    return density, characters


def _text(materials: Materials, index: int) -> Drawn:
    """One text somewhere: a word, letters at random or a number; or a scene without any."""
    random_source = random.Random(f"text words {index}")
    if random_source.random() < WITHOUT:
        return draw_scene(materials.concepts, random_source, materials.photos).image, []
    while True:
        face = random_source.choice(materials.faces)
        (layout,) = random_source.choices(list(LAYOUTS), list(LAYOUTS.values()))
        text = want(layout, face, materials.vocabulary, random_source).text
        if layout == "letters":
            letters = random_source.choices(string.ascii_lowercase, k=random_source.randint(2, MOST_LETTERS))
            cases = (str.upper,) if face.capitals else (str.lower, str.upper, str.title)
            text = random_source.choice(cases)("".join(letters))
        sign = random_source.choice(SIGNS) if random_source.random() < ON_SIGN else ""
        try:
            picture = draw_text(text, face, random_source, sign=sign)
        except TooLarge:
            continue
        return picture.image, placed_letters(picture.texts[0], face)


def placed_letters(text: Text, face: Face) -> list[Letter]:
    """Where each of a line's characters stands, along its turned base line; spaces are left out."""
    font = open_font(face, 64)
    reach = [font.getlength(text.text[:end]) for end in range(len(text.text) + 1)]
    angle = math.radians(text.angle)
    width, height = text.box[2] - text.box[0], text.box[3] - text.box[1]
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    upright = (width * cosine - height * sine) / max(0.3, cosine**2 - sine**2)
    middle = ((text.box[0] + text.box[2]) / 2, (text.box[1] + text.box[3]) / 2)
    letters = []
    for character, begin, end in zip(text.text, reach, reach[1:]):
        along = ((begin + end) / 2 / reach[-1] - 0.5) * upright
        x, y = middle[0] + along * math.cos(angle), middle[1] - along * math.sin(angle)
        if character != " ":
            letters.append(Letter(character.lower(), x / CANVAS, y / CANVAS))
    return letters
