"""The classifier of things behind `dclocal_models.class_words.ThingWords`: trained on the frozen backbone's features.

Each drawing is put on backgrounds at any size and place, alone and among others.  A class is known at every place of
such a picture, so a linear classifier of places learns the names from few pictures, which a language model's loss would
need many for.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.answer import tokenize_with
from dclocal_models.class_words import name_tokens
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import ThingWordsConfig
from dclocal_train.place_fit import features_of
from dclocal_train.synthetic.backgrounds import CANVAS, Photo, draw_background
from dclocal_train.synthetic.concepts import Concepts
from dclocal_train.synthetic.materials import build_materials, load_materials
from dclocal_train.synthetic.scenes import draw_scene
from dclocal_train.synthetic.sprites import Wanted, draw_sprite
from dclocal_train.synthetic.things import Thing
from dclocal_train.trained import save_whole

NOTHING = ""
FILE = "thing_words.safetensors"
BATCH = 8
SIZES = (0.3, 0.98)  # of the picture's side
WHITE = 0.3  # share of pictures on white
PLACES = 3  # of a thing, drawn each time, beside its mean
BARE = 0.02  # a place of which less is covered shows nothing
SCENES = {"many": 70, "pair": 14, "counting": 12, "mixed": 4}
"""How often a scene is of each kind: mostly several things, each of another name."""


@dataclass(frozen=True)
class Places:
    """What is classified: features `[n, width]`, float16, and the class of each."""

    features: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Shown:
    """A drawn picture, RGB, and the name of each thing in it with how far each pixel is covered by it, 8 bits."""

    picture: Image.Image
    things: list[tuple[str, Image.Image]]


def fit_thing_words(
    model: DenseConnectorModel, tokenizer: Any, config: ThingWordsConfig, folder: Path, source_folder: Path | None
) -> None:
    """Give the model its thing words: from `folder`, or trained now, or on, and kept there.

    Raises ValueError where the model's count of classes is not that of the drawings' names and nothing.
    """
    from safetensors.torch import load_file

    words = model.connector.thing_words
    assert words is not None
    path, goes_on = folder / FILE, bool(words.weight.any())
    if not path.is_file():
        materials = load_materials(build_materials(source_folder))
        names = materials.concepts.names
        if len(names) + 1 != len(words.weight):
            raise ValueError(f"{len(names)} things are drawn, and nothing; the model tells {len(words.weight)} classes")
        places = gather(model, materials.concepts, materials.photos, config)
        weight, bias = fit(places, (words.weight, words.bias), config)
        tokenize = tokenize_with(tokenizer)
        tokens = name_tokens([*names, NOTHING], lambda name: tokenize(name, False))
        folder.mkdir(parents=True, exist_ok=True)
        save_whole({"weight": weight, "bias": bias, "tokens": tokens}, path)
    kept = load_file(path)
    words.fill(kept["weight"], kept["bias"], words.gain.tolist() if goes_on else config.gain)
    words.call(kept["tokens"], model.base_llm.get_input_embeddings().weight)


@torch.inference_mode()
def gather(model: DenseConnectorModel, concepts: Concepts, photos: Sequence[Photo], config: ThingWordsConfig) -> Places:
    """Features of places that show a thing and of places that show nothing: of `config.rounds` pictures of each drawing
    alone, and of `config.scenes` scenes."""
    from tqdm import tqdm

    classes = {name: index for index, name in enumerate(concepts.names)}
    side = model.config.vision.image_size
    draws: list[Callable[[], Shown]] = [
        partial(_alone, thing, side, photos, random.Random(f"{round_} {thing.file.name}"))
        for round_ in range(config.rounds)
        for name in classes
        for thing in concepts.things[name]
    ]
    draws += [
        partial(_among_others, concepts, photos, random.Random(f"thing words {index}"))
        for index in range(config.first, config.first + config.scenes)
    ]
    features, labels = [], []
    for start in tqdm(range(0, len(draws), BATCH), desc="things", unit="batch", file=sys.stderr):
        batch = [draw() for draw in draws[start : start + BATCH]]
        dense, conv_map = features_of(model, [shown.picture for shown in batch])
        for shown, of_places in zip(batch, model.connector.place_features(dense, conv_map)):
            for name, chosen in _chosen(of_places, shown, model.connector.token_grid):
                if name in classes or name == NOTHING:  # a shape is no drawing
                    features.append(chosen.half())
                    labels.append(torch.full((len(chosen),), classes.get(name, len(classes))))
    return Places(torch.cat(features), torch.cat(labels))


def fit(places: Places, start: tuple[Tensor, Tensor], config: ThingWordsConfig) -> tuple[Tensor, Tensor]:
    """A linear classifier's weight `[classes, width]` and bias, of features as they are, from `start` on."""
    from tqdm import trange

    features = places.features.float()
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    classifier = nn.Linear(features.shape[1], len(start[1]))
    with torch.no_grad():
        classifier.weight.copy_(start[0] * deviation)
        classifier.bias.copy_(start[1] + start[0] @ mean)
    steps = config.epochs * len(features) // config.batch_size
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps + 1)
    for _ in trange(steps, desc="things", unit="step", file=sys.stderr):
        rows = torch.randint(len(features), (config.batch_size,))
        seen = functional.dropout((features[rows] - mean) / deviation, config.dropout)
        loss = functional.cross_entropy(classifier(seen), places.classes[rows], label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        weight = classifier.weight / deviation
        return weight, classifier.bias - weight @ mean


def _alone(thing: Thing, side: int, photos: Sequence[Photo], random_source: random.Random) -> Shown:
    """The drawing somewhere on a background."""
    wanted = Wanted(thing.name, thing)
    drawing = draw_sprite(wanted, int(side * random_source.uniform(*SIZES)), random_source).picture
    picture = Image.new("RGB", (side, side), "white")
    if random_source.random() >= WHITE:
        picture = draw_background(random_source, photos).image.convert("RGB").resize((side, side))
    corner = (_somewhere(side, drawing.width, random_source), _somewhere(side, drawing.height, random_source))
    cover = Image.new("L", (side, side))
    picture.paste(drawing, corner, drawing)
    cover.paste(drawing.getchannel("A"), corner)
    return Shown(picture, [(thing.name, cover)])


def _among_others(concepts: Concepts, photos: Sequence[Photo], random_source: random.Random) -> Shown:
    """A scene, whose things cover what an ellipse in their box does."""
    (kind,) = random_source.choices(list(SCENES), list(SCENES.values()))
    scene = draw_scene(concepts, random_source, photos, kinds=(kind,))
    things = []
    for placed in scene.objects:
        cover = Image.new("L", (CANVAS, CANVAS))
        ImageDraw.Draw(cover).ellipse(placed.box, fill=255)
        things.append((placed.name, cover))
    return Shown(scene.image, things)


def _somewhere(room: int, length: int, random_source: random.Random) -> int:
    return random_source.randint(0, max(0, room - length))


def _chosen(features: Tensor, shown: Shown, token_grid: tuple[int, int]) -> list[tuple[str, Tensor]]:
    """Of a picture's `[tokens, width]`, by name: each thing's mean and some of its places, the picture's mean where a
    thing is alone, and a bare place where there is one."""
    chosen, bare = [], torch.ones(len(features), dtype=torch.bool)
    for name, mask in shown.things:
        shares = np.asarray(mask.resize(token_grid[::-1], Image.Resampling.BOX), np.float32) / 255
        cover = torch.from_numpy(shares).flatten()
        some = features[torch.multinomial(cover**2, PLACES, replacement=True)]
        chosen.append((name, torch.cat([((cover / cover.sum()) @ features)[None], some])))
        bare &= cover < BARE
    if len(shown.things) == 1:
        chosen.append((shown.things[0][0], features.mean(0, keepdim=True)))
    if bare.any():
        places = bare.nonzero().flatten()
        chosen.append((NOTHING, features[places[torch.randint(len(places), (1,))]]))
    return chosen
