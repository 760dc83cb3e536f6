"""What classifiers tell of the features, said in the language model's own words.

A convolutional tower's published weights come with a classifier.  Its answer at every place of the map, and for the
picture as a whole, is turned into the mean embeddings of the likely classes' names and added to the visual tokens.
So the language model meets the word "cat" where a cat is, also for photographs of what the connector never saw.  A
second classifier, of all layers' features, tells the things that training pictures show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal.name_table import NAME_PARTS, NAME_TOKENS, name_table

SHARPNESS = 2.0
"""Logits of a whole picture are a mean over many places that show something else; this makes up for it."""
KEPT_UNDER_IMPRINT = 0.5
OWN = 0.3
"""What a place's own logits count where places agree on a name: with less a small thing takes its neighbours' names."""
UNTOLD = -20.0
"""A gate that was not trained takes every picture for a drawing."""
OF_PHOTOGRAPHS = 4.0
"""By how much louder classes are said of a photograph: there is nothing else to say of it."""


class Words(nn.Module):
    """A frozen classifier of features, its answers said as names: the mean embeddings of the likely classes' names.

    `weight` `[classes, width]`, `bias` and the names (`tokens` `[classes, NAME_TOKENS]` of the language model, −1
    beyond a name's end, and their embeddings `names` `[classes, NAME_PARTS, n_embd]`) stay as they are: classes that
    few training pictures show would drift.  Trained is how loudly each of the two is said, what a place shows and
    what the picture shows as a whole (`gain`).
    """

    weight: Tensor
    bias: Tensor
    tokens: Tensor
    names: Tensor

    def __init__(self, width: int, classes: int, n_embd: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("tokens", torch.full((classes, NAME_TOKENS), -1))
        self.register_buffer("names", torch.zeros(classes, NAME_PARTS, n_embd))
        self.gain = nn.Parameter(torch.ones(2))

    def heard(self, features: Tensor, alike: Tensor | None = None) -> Tensor:
        """How loudly each class is said at every place: `[n, tokens, width]` to `[n, tokens, classes]`.

        With `alike` `[n, tokens, tokens]`, logits of two places showing things of one name (`CountNet.alike`), places
        agree on what they show: each for itself errs, and the loudest one would name the picture.
        """
        logits = functional.linear(features, self.weight, self.bias)
        here = logits.softmax(-1)
        if alike is not None:
            here = self.agreed(logits, here, alike)
        return self.gain[0] * here + self.gain[1] * self.everywhere(logits, here)

    def say(self, heard: Tensor) -> Tensor:
        """`[n, places, classes]` to the parts of names, `[n, places, NAME_PARTS, n_embd]`."""
        return (heard @ self.names.flatten(1)).unflatten(2, self.names.shape[1:])

    @torch.no_grad()
    def fill(self, weight: Tensor, bias: Tensor, gain: Sequence[float]) -> None:
        """Take a trained classifier, said this loudly."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.gain.copy_(torch.tensor(gain))

    @torch.no_grad()
    def call(self, tokens: Tensor, token_embeddings: Tensor) -> None:
        """Give the classes their names."""
        self.tokens.copy_(tokens)
        table = name_table(self.tokens.numpy(), token_embeddings.float().numpy())
        self.names.copy_(torch.from_numpy(table))

    def agreed(self, logits: Tensor, here: Tensor, alike: Tensor) -> Tensor:
        """Probabilities at every place, `[n, tokens, classes]`, where places agree."""
        raise NotImplementedError

    def everywhere(self, logits: Tensor, here: Tensor) -> Tensor:
        """The whole picture's probabilities from its places' logits and probabilities: `[n, 1, classes]`, or
        `[n, tokens, classes]` where places say them more or less."""
        raise NotImplementedError


class ThingWords(Words):
    """Words of a classifier that was trained beforehand on pictures whose things are known at every place
    (`dclocal_train.thing_words`).  Its last class is nothing, whose name is zero."""

    def agreed(self, logits: Tensor, here: Tensor, alike: Tensor) -> Tensor:
        """A place's share of things by the mean logits of the places like it and its own, its share of nothing as it
        was."""
        things = 1 - here[..., -1:]
        weights = alike.sigmoid().square() * things.transpose(1, 2)
        mean = (weights @ logits[..., :-1]) / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        named = (OWN * logits[..., :-1] + (1 - OWN) * mean).softmax(-1)
        return torch.cat([things * named, here[..., -1:]], dim=-1)

    def everywhere(self, logits: Tensor, here: Tensor) -> Tensor:
        """The mean over places, as loud as things cover the picture, and said where nothing is: elsewhere it would blur
        which thing it is."""
        things = here[..., :-1].mean(1, keepdim=True)
        return here[..., -1:] * functional.pad(_sharpened(things), (0, 1))

    def say(self, heard: Tensor) -> Tensor:
        """The likeliest names stand out: a sum of many is the name of nothing."""
        return super().say(functional.pad(_sharpened(heard[..., :-1]), (0, 1)))


class ClassWords(Words):
    """Words of the classifier that came with a convolutional tower, which knows one class a picture."""

    def everywhere(self, logits: Tensor, here: Tensor) -> Tensor:
        """The classifier's answer to the mean of the map, sharpened."""
        return (SHARPNESS * logits.mean(1, keepdim=True)).softmax(-1)

    def imprint(self, conv_map: Tensor, classes: Tensor, strength: Tensor) -> Tensor:
        """The map as if it showed these classes.

        Where `strength` `[n, r, c]`, resampled to the map, is above 0, what was there is halved and the classifier's
        own direction for `classes` `[n]` (−1: none) laid over it, at that length.

        Features of a trained network lie along its classifier's weights (neural collapse, Papyan et al. 2020), so
        this teaches the names of classes of which there is no picture.  A random half of the direction's channels
        is left out each time.  The map is that of ReLU6, between 0 and 6.
        """
        direction = (self.weight - self.weight.mean(0))[classes.clamp(min=0)].clamp(min=0)
        direction = direction * torch.randint_like(direction, 2)
        direction = direction / direction.norm(dim=1, keepdim=True).clamp(min=1e-6)
        shown = torch.where(classes[:, None, None] >= 0, strength, 0.0)[:, None]
        shown = functional.interpolate(shown, size=conv_map.shape[-2:], mode="bilinear", align_corners=False)
        kept = torch.where(shown > 0, KEPT_UNDER_IMPRINT, 1.0)
        return (conv_map * kept + shown * direction[:, :, None, None]).clamp(0, 6)


class PhotoGate(nn.Module):
    """How much a picture is a photograph, by a frozen linear classifier of the mean of its integrated features.

    The classifier of things has only seen drawings, that of classes only photographs, and either of them names what it
    does not know as well.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(width))
        self.register_buffer("bias", torch.full((1,), UNTOLD))

    def forward(self, dense: Tensor) -> Tensor:
        """`[n, places, width]` to `[n, 1, 1]`, 0 to 1."""
        return torch.sigmoid((dense.mean(1) * self.weight).sum(-1) + self.bias)[:, None, None]


def _sharpened(shares: Tensor) -> Tensor:
    """Squared, with the sum that they had."""
    squared = shares.square()
    return squared / squared.sum(-1, keepdim=True).clamp(min=1e-8) * shares.sum(-1, keepdim=True)


def name_tokens(names: Sequence[str], tokenize: Callable[[str], Sequence[int]]) -> Tensor:
    """`[names, NAME_TOKENS]`: names as `Words.tokens` has them; an empty one says nothing."""
    rows = [list(tokenize(f" {name}"))[:NAME_TOKENS] if name else [] for name in names]
    return torch.tensor([row + [-1] * (NAME_TOKENS - len(row)) for row in rows])
