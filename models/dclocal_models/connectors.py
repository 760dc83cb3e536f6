"""What all connectors share: hidden states to tokens in the LLM's space (arXiv 2405.13800, section 3).

Every connector integrates the hidden states (`integrate`; the paper's ways are in `connector_kinds`), runs a shared
two-layer projector and then the efficient connector's parameter-free 2-D interpolation of the token grid.  Layers are
indices into `hidden_states`, where 0 is the stem: the paper's layers 8, 16 and 24 are 7, 15 and 23.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.class_words import OF_PHOTOGRAPHS, ClassWords, PhotoGate, ThingWords, Words
from dclocal_models.layers import FULL_GRID, features_at, resample, resolve_grid, resolve_layer
from dclocal_models.mining import PatchInfoMining
from dclocal_models.projector import Projector
from dclocal_models.scene_words import CountWords
from dclocal_models.text_words import TextWords

REFERENCE_LAYERS = {"sti": (7, 15), "sci": (7, 15), "sti_conv": (7, 15), "sci_conv": (7, 15)}


@dataclass(frozen=True)
class ConnectorConfig:
    """What is integrated and how.

    `kind`: a name in `registry.CONNECTORS`.  `final_layer`: which hidden state is the final feature; negative
    counts from the end.  `layers`: the shallower layers of STI and SCI.  `groups`: DCI's equal groups of
    neighbours among the layers from `first_layer` to the final one; what does not divide is left out next to
    the final layer.  `reduce`: a group's mean (the released code) or sum (the paper).  `token_grid`: (rows,
    columns) after the interpolation, by default half of each side.  `fusion`: how a second, convolutional
    tower's map joins: "concat" on the channel axis, or "mining" (Mini-Gemini), by which the final feature takes up
    what it finds there before the dense ones join it.  What joins the tokens in words: `classes` of the second tower's
    own classifier and `things` of one of all features, the last one nothing (`class_words`), with `photographs` the one
    for photographs, the other for drawings; `counts`, how many and where (`scene_words`), and with `agreed` places of
    one thing agree on its name; `texts`, a lexicon's size (`text_words`).  0 for none.
    """

    kind: str = "dci"
    final_layer: int = -2
    layers: tuple[int, ...] = ()
    first_layer: int = 0
    groups: int = 2
    reduce: str = "mean"
    token_grid: tuple[int, int] | None = None
    fusion: str = "concat"
    classes: int = 0
    things: int = 0
    photographs: bool = False
    counts: bool = False
    agreed: bool = False
    texts: int = 0

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f"reduce is {self.reduce!r}; expected mean or sum")
        if self.fusion not in ("concat", "mining"):
            raise ValueError(f"fusion is {self.fusion!r}; expected concat or mining")

    @classmethod
    def reference(cls, kind: str, token_grid: tuple[int, int] | None = None) -> ConnectorConfig:
        """As the authors' released code has it: final feature `hidden_states[-2]`, STI and SCI on 7 and 15, DCI
        two groups of means.  `token_grid` None keeps every token, since no efficient connector was released."""
        return cls(kind=kind, layers=REFERENCE_LAYERS.get(kind, ()), token_grid=token_grid or FULL_GRID)


class Connector(nn.Module):
    """What all connectors share; a subclass says what it integrates.

    `dense_width` and `dense_tokens` are the sizes of what `integrate` yields.  Where `has_parameters` is false,
    that may be cached as long as the backbone is frozen.
    """

    has_parameters: ClassVar[bool] = False
    takes_layers: ClassVar[bool] = False

    def __init__(
        self, config: ConnectorConfig, *, depth: int, width: int, grid: tuple[int, int], conv_channels: int, n_embd: int
    ):
        super().__init__()
        self.config, self.width, self.grid = config, width, grid
        self.conv_channels = conv_channels
        self.final = resolve_layer(config.final_layer, depth)
        self.layers = tuple(resolve_layer(layer, depth) for layer in config.layers)
        if self.takes_layers != bool(self.layers):
            wanted = "needs" if self.takes_layers else "does not take"
            raise ValueError(f"connector {config.kind} {wanted} layers; its config has {list(config.layers)}")
        self.token_grid = resolve_grid(config.token_grid, grid)
        self.groups = self.integrated_layers()
        self.build()
        self.dense_width = self.integrated_width()
        self.dense_tokens = grid[0] * grid[1] + self.extra_tokens()
        if conv_channels and self.extra_tokens():
            raise ValueError(f"connector {config.kind} adds tokens, so a convolutional tower cannot join it")
        self.mining: PatchInfoMining | None = None
        if conv_channels and config.fusion == "mining":
            self.mining = PatchInfoMining(width, conv_channels)
        self.class_words: ClassWords | None = None
        if config.classes:
            if not conv_channels:
                raise ValueError("classes are told by a convolutional tower, and this backbone has none")
            self.class_words = ClassWords(conv_channels, config.classes, n_embd)
        self.thing_words: ThingWords | None = None
        if (config.things or config.counts or config.texts) and self.extra_tokens():
            raise ValueError(f"connector {config.kind} adds tokens, so no classifier of places can join it")
        if config.things:
            self.thing_words = ThingWords(self.dense_width + conv_channels, config.things, n_embd)
        self.photo_gate: PhotoGate | None = None
        if config.photographs:
            if not (config.classes and config.things):
                raise ValueError("photographs are told from drawings where there are words of classes and of things")
            self.photo_gate = PhotoGate(self.dense_width)
        if config.agreed and not (config.things and config.counts):
            raise ValueError("places agree on the names of things where there are things and counts")
        self.count_words: CountWords | None = None
        if config.counts:
            self.count_words = CountWords(self.dense_width, conv_channels, n_embd, grid, self.token_grid)
        self.text_words: TextWords | None = None
        if config.texts:
            self.text_words = TextWords(self.dense_width, config.texts, n_embd, grid, self.token_grid)
        joined = conv_channels if config.fusion == "concat" else 0
        self.projector = Projector(self.dense_width + joined, n_embd, grid, joined)

    def build(self) -> None:
        """Make the parameters that `integrate` has, if any."""

    def integrated_layers(self) -> tuple[tuple[int, ...], ...]:
        """The hidden states that join the final one, group by group."""
        return tuple((layer,) for layer in self.layers)

    def integrated_width(self) -> int:
        """Channels of the integrated features."""
        return (1 + len(self.groups)) * self.width

    def extra_tokens(self) -> int:
        """Tokens beside the grid's own."""
        return 0

    def integrate(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """The integrated features, `[n, dense_tokens, dense_width]`, the final layer first."""
        raise NotImplementedError

    @property
    def tokens(self) -> int:
        """Visual tokens per image."""
        rows, columns = self.token_grid
        return rows * columns + self._shrunk(self.extra_tokens())

    def project(self, dense: Tensor, conv_map: Tensor | None = None, photographed: Tensor | None = None) -> Tensor:
        """Embeddings in the LLM's space, `[n, tokens, n_embd]`, of integrated features and, where there is a
        second tower, its map `[n, conv_channels, r, c]`.  `photographed` `[n]`, 0 to 1, says which pictures are
        photographs whatever they look like."""
        features = dense
        if self.mining is not None and conv_map is not None:
            mined = self.mining(dense[..., : self.width], conv_map, self.grid)
            features = torch.cat([mined, dense[..., self.width :]], dim=-1)
        embeds = self.projector(features, conv_map, self._interpolate)
        if self.text_words is not None:
            embeds = embeds + self.text_words(dense)
        needed = self.thing_words is not None or self.count_words is not None
        places = self.place_features(dense, conv_map) if needed else embeds
        alike = None if self.count_words is None else self.count_words.net.alike(places)
        heard = self._heard(places, conv_map, self._photographs(dense, photographed), alike)
        if self.count_words is None or alike is None:
            return embeds + sum(words.say(each).sum(2) for words, each in heard)
        together = self.count_words.together
        names = sum((words.say(together(each)) for words, each in heard), start=self.count_words.silence(embeds))
        said = self.count_words(names, dense, conv_map, alike)
        return self.count_words.at_length(self.count_words.in_order(embeds) + said)

    def _photographs(self, dense: Tensor, photographed: Tensor | None) -> Tensor | None:
        """How much each picture is a photograph, `[n, 1, 1]`; None where that is not told."""
        if self.photo_gate is None:
            return None
        told = self.photo_gate(dense)
        return told if photographed is None else torch.maximum(told, photographed[:, None, None].to(told))

    def _heard(
        self, places: Tensor, conv_map: Tensor | None, photographs: Tensor | None, alike: Tensor | None
    ) -> list[tuple[Words, Tensor]]:
        """What the classifiers tell at the visual tokens' places."""
        heard: list[tuple[Words, Tensor]] = []
        if self.class_words is not None and conv_map is not None:
            seen = self.class_words.heard(resample(conv_map, self.token_grid).flatten(2).transpose(1, 2))
            heard.append((self.class_words, seen if photographs is None else seen * (1 + OF_PHOTOGRAPHS * photographs)))
        if self.thing_words is not None:
            seen = self.thing_words.heard(places, alike if self.config.agreed else None)
            heard.append((self.thing_words, seen if photographs is None else seen * (1 - photographs)))
        return heard

    def place_features(self, dense: Tensor, conv_map: Tensor | None) -> Tensor:
        """All features at the places of the visual tokens; see `layers.features_at`."""
        return features_at(dense, conv_map, self.grid, self.token_grid)

    def forward(self, hidden_states: Sequence[Tensor], conv_map: Tensor | None = None) -> Tensor:
        return self.project(self.integrate(hidden_states), conv_map)

    def _interpolate(self, embeds: Tensor) -> Tensor:
        """The efficient connector: bilinear in 2-D over the grid; tokens beside the grid linearly, to the same
        share (the paper leaves these open)."""
        if self.token_grid == self.grid:
            return embeds
        rows, columns = self.grid
        grid_tokens, beside = embeds[:, : rows * columns], embeds[:, rows * columns :]
        as_map = grid_tokens.transpose(1, 2).reshape(embeds.shape[0], embeds.shape[2], rows, columns)
        shrunk = resample(as_map, self.token_grid).flatten(2).transpose(1, 2)
        extra = self.extra_tokens()
        if not extra:
            return shrunk
        each, size = extra // len(self.groups), self._shrunk(extra) // len(self.groups)
        lines = [
            functional.interpolate(line.transpose(1, 2), size=size, mode="linear", align_corners=False).transpose(1, 2)
            for line in beside.split(each, dim=1)
        ]
        return torch.cat([shrunk, *lines], dim=1)

    def _shrunk(self, extra: int) -> int:
        """How many of `extra` tokens remain where the grid is shrunk."""
        if not extra:
            return 0
        share = (self.token_grid[0] * self.token_grid[1]) / (self.grid[0] * self.grid[1])
        each = extra // len(self.groups)
        return len(self.groups) * max(1, int(each * share))
