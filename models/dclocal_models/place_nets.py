"""Small networks over the backbone's grid that tell what training pictures make known at every place.

They are trained beforehand, with exact truth, and then frozen: a language model's loss would need many more pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.layers import resample

RARE = -4.0
"""Added to a density before its softplus: at most places nothing begins."""


Norm = tuple[Tensor, Tensor]
"""Mean and deviation of each channel."""


class PlaceNet(nn.Module):
    """Two convolutions of three by three places over features: `[n, rows, columns, outputs]`.

    `conv_channels`: a second tower's map is taken in too, resampled to the grid.
    """

    def __init__(self, width: int, hidden: int, outputs: int, grid: tuple[int, int], conv_channels: int = 0):
        super().__init__()
        self.grid = grid
        self.enter = nn.Linear(width, hidden)
        self.enter_conv = nn.Linear(conv_channels, hidden, bias=False) if conv_channels else None
        self.near = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(2))
        self.leave = nn.Linear(hidden, outputs)

    def forward(self, dense: Tensor, conv_map: Tensor | None = None) -> Tensor:
        """`dense` `[n, rows · columns, width]`, `conv_map` `[n, conv_channels, r, c]`."""
        hidden = self.enter(dense).transpose(1, 2).unflatten(2, self.grid)
        if self.enter_conv is not None and conv_map is not None:
            entered = self.enter_conv(conv_map.flatten(2).transpose(1, 2)).transpose(1, 2)
            hidden = hidden + resample(entered.unflatten(2, conv_map.shape[-2:]), self.grid)
        hidden = functional.gelu(hidden)
        for convolution in self.near:
            hidden = hidden + functional.gelu(convolution(hidden))
        outputs: Tensor = self.leave(hidden.permute(0, 2, 3, 1))
        return outputs

    @torch.no_grad()
    def absorb(self, dense: Norm, conv: Norm | None) -> None:
        """Take features as they are from now on, where they were brought to mean 0 and deviation 1 so far."""
        _absorb(self.enter, *dense)
        if self.enter_conv is not None and conv is not None:
            mean, deviation = conv
            self.enter_conv.weight /= deviation
            self.enter.bias.sub_(self.enter_conv.weight @ mean)


class CountNet(PlaceNet):
    """Where things are, one by one, and which of them are of a kind.

    `density` sums to one over each thing, near its centre.  `kind` gives unit vectors at the places of the visual
    tokens, near each other for things of one name: OPINIONS of them, whose mean errs less than either.
    """

    HIDDEN, KIND_WIDTH, OPINIONS = 128, 64, 2

    def __init__(self, width: int, conv_channels: int, grid: tuple[int, int], token_grid: tuple[int, int]):
        super().__init__(width, self.HIDDEN, 1, grid, conv_channels)
        self.token_grid = token_grid
        self.kind = nn.Linear(width + conv_channels, self.OPINIONS * self.KIND_WIDTH)
        self.likeness = nn.Parameter(torch.tensor([8.0, -4.0]))

    @torch.no_grad()
    def absorb(self, dense: Norm, conv: Norm | None) -> None:
        super().absorb(dense, conv)
        norms = [dense] if conv is None else [dense, conv]
        _absorb(self.kind, torch.cat([mean for mean, _ in norms]), torch.cat([deviation for _, deviation in norms]))

    def density(self, dense: Tensor, conv_map: Tensor | None) -> Tensor:
        """Things a place of the grid, `[n, rows, columns]`."""
        return functional.softplus(self(dense, conv_map)[..., 0] + RARE)

    def things(self, density: Tensor) -> Tensor:
        """Things a visual token's place, `[n, tokens]`."""
        share = (self.grid[0] // self.token_grid[0], self.grid[1] // self.token_grid[1])
        return functional.avg_pool2d(density[:, None], share).flatten(1) * (share[0] * share[1])

    def alike(self, features: Tensor) -> Tensor:
        """How likely two places' things have one name, as logits `[n, tokens, tokens]`, of all features at the
        visual tokens' places `[n, tokens, width + conv_channels]`."""
        return self.opinions(features).mean(1)

    def opinions(self, features: Tensor) -> Tensor:
        """The same by each of the unit vectors, `[n, OPINIONS, tokens, tokens]`."""
        vectors = self.kind(features).unflatten(2, (self.OPINIONS, self.KIND_WIDTH)).transpose(1, 2)
        kinds = functional.normalize(vectors, dim=-1)
        return self.likeness[0] * (kinds @ kinds.transpose(2, 3)) + self.likeness[1]

    def of_a_kind(self, things: Tensor, alike: Tensor) -> Tensor:
        """How many things the picture shows of the kind at each place, `[n, tokens]`."""
        return (alike.sigmoid() * things[:, None]).sum(2)


class TextNet(PlaceNet):
    """Which letters stand where: `density` sums to one over each letter, near its centre.

    A place of the grid is read in SHARE columns, since letters are narrow.
    """

    HIDDEN, SHARE = 192, 2

    def __init__(self, width: int, characters: int, grid: tuple[int, int]):
        super().__init__(width, self.HIDDEN, self.SHARE * (1 + characters), grid)

    def letters(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Letters a place `[n, rows, SHARE · columns]`, and log-probabilities of each character there
        `[n, rows, SHARE · columns, characters]`."""
        outputs = self(dense).unflatten(3, (self.SHARE, -1)).flatten(2, 3)
        return functional.softplus(outputs[..., 0] + RARE), outputs[..., 1:].log_softmax(-1)


def _absorb(layer: nn.Linear, mean: Tensor, deviation: Tensor) -> None:
    layer.weight /= deviation
    layer.bias.sub_(layer.weight @ mean)
