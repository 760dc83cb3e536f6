"""The classifier of things behind `dclocal_models.class_words.ThingWords`: trained on the frozen backbone's features.

Each drawing is put on backgrounds at any size and place.  A class is known at every place of such a picture, so a
linear classifier of places learns the names from few pictures, which a language model's loss would need many for.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.answer import tokenize_with
from dclocal_models.class_words import name_tokens
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import ThingWordsConfig
from dclocal_train.place_fit import features_of
from dclocal_train.synthetic.backgrounds import Photo, draw_background
from dclocal_train.synthetic.concepts import Concepts
from dclocal_train.synthetic.materials import build_materials, load_materials
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


@dataclass(frozen=True)
class Places:
    """What is classified: features `[n, width]`, float16, and the class of each."""

    features: Tensor
    classes: Tensor


def fit_thing_words(
    model: DenseConnectorModel, tokenizer: Any, config: ThingWordsConfig, folder: Path, source_folder: Path | None
) -> None:
    """Give the model its thing words: from `folder`, or trained now and kept there.

    Raises ValueError where the model's count of classes is not that of the drawings' names and nothing.
    """
    from safetensors.torch import load_file

    words = model.connector.thing_words
    assert words is not None
    path = folder / FILE
    if not path.is_file():
        materials = load_materials(build_materials(source_folder))
        names = materials.concepts.names
        if len(names) + 1 != len(words.weight):
            raise ValueError(f"{len(names)} things are drawn, and nothing; the model tells {len(words.weight)} classes")
        places = gather(model, materials.concepts, materials.photos, config)
        weight, bias = fit(places, len(names) + 1, config)
        tokenize = tokenize_with(tokenizer)
        tokens = name_tokens([*names, NOTHING], lambda name: tokenize(name, False))
        folder.mkdir(parents=True, exist_ok=True)
        save_whole({"weight": weight, "bias": bias, "tokens": tokens}, path)
    kept = load_file(path)
    words.fill(kept["weight"], kept["bias"], config.gain)
    words.call(kept["tokens"], model.base_llm.get_input_embeddings().weight)


@torch.inference_mode()
def gather(model: DenseConnectorModel, concepts: Concepts, photos: Sequence[Photo], config: ThingWordsConfig) -> Places:
    """Features of places that show a thing and of places that show nothing, `config.rounds` pictures a drawing."""
    from tqdm import tqdm

    classes = {name: index for index, name in enumerate(concepts.names)}
    drawn = [(round_, thing) for round_ in range(config.rounds) for name in classes for thing in concepts.things[name]]
    features, labels = [], []
    for batch in tqdm(list(_batches(drawn)), desc="things", unit="batch", file=sys.stderr):
        pictures = [
            _picture(thing, model.config.vision.image_size, photos, random.Random(f"{round_} {thing.file.name}"))
            for round_, thing in batch
        ]
        dense, conv_map = features_of(model, [picture for picture, _ in pictures])
        found = model.connector.place_features(dense, conv_map)
        for (_, thing), (_, alpha), of_places in zip(batch, pictures, found):
            cover = torch.from_numpy(
                np.asarray(alpha.resize(model.connector.token_grid[::-1], Image.Resampling.BOX)) / 255
            )
            chosen, shown = _chosen(of_places, cover.flatten().float())
            features.append(chosen.half())
            labels.append(torch.where(shown, classes[thing.name], len(classes)))
    return Places(torch.cat(features), torch.cat(labels))


def fit(places: Places, classes: int, config: ThingWordsConfig) -> tuple[Tensor, Tensor]:
    """A linear classifier's weight `[classes, width]` and bias, of features as they are."""
    from tqdm import trange

    features = places.features.float()
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    classifier = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
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


def _batches(drawn: Sequence[tuple[int, Thing]]) -> Iterator[Sequence[tuple[int, Thing]]]:
    for start in range(0, len(drawn), BATCH):
        yield drawn[start : start + BATCH]


def _picture(
    thing: Thing, side: int, photos: Sequence[Photo], random_source: random.Random
) -> tuple[Image.Image, Image.Image]:
    """The drawing somewhere on a background, RGB, and how far each pixel is covered by it, 8 bits."""
    wanted = Wanted(thing.name, thing)
    drawing = draw_sprite(wanted, int(side * random_source.uniform(*SIZES)), random_source).picture
    picture = Image.new("RGB", (side, side), "white")
    if random_source.random() >= WHITE:
        picture = draw_background(random_source, photos).image.convert("RGB").resize((side, side))
    corner = (_somewhere(side, drawing.width, random_source), _somewhere(side, drawing.height, random_source))
    cover = Image.new("L", (side, side))
    picture.paste(drawing, corner, drawing)
    cover.paste(drawing.getchannel("A"), corner)
    return picture, cover


def _somewhere(room: int, length: int, random_source: random.Random) -> int:
    return random_source.randint(0, max(0, room - length))


def _chosen(features: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
    """Of a picture's `[tokens, width]`: the thing's mean, some of its places, the picture's mean, and a bare place
    where there is one; and which of them show the thing."""
    some = features[torch.multinomial(cover**2, PLACES, replacement=True)]
    whole = [(cover / cover.sum()) @ features, features.mean(0)]
    bare = (cover < BARE).nonzero().flatten()
    nothing = features[bare[torch.randint(len(bare), (1,))]] if len(bare) else features[:0]
    chosen = torch.cat([torch.stack(whole), some, nothing])
    return chosen, torch.arange(len(chosen)) < 2 + PLACES
