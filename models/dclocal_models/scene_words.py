"""How many there are and where they lie, said in the language model's own words at each thing's place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.place_nets import CountNet

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIRECTIONS = (("left", "right"), ("top", "bottom"), ("left", "right"), ("above", "below"))
"""What the four coordinates of a place say at −1 and at 1: across and down the picture, then from the middle of all
things that it shows."""


class CountWords(nn.Module):
    """Number words and places, said around each thing's centre.

    `numbers` `[len(NUMBERS), n_embd]` are the words' embeddings; a count between two is said as both.  Trained are
    `gain`, how loudly they are said, and `directions` `[4, n_embd]`, what a place's coordinates add.
    """

    numbers: Tensor
    across: Tensor
    down: Tensor

    def __init__(self, width: int, conv_channels: int, n_embd: int, grid: tuple[int, int], token_grid: tuple[int, int]):
        super().__init__()
        self.net = CountNet(width, conv_channels, grid, token_grid)
        self.token_grid = token_grid
        rows, columns = token_grid
        self.register_buffer("numbers", torch.zeros(len(NUMBERS), n_embd))
        self.register_buffer("across", _middles(columns).repeat(rows), persistent=False)
        self.register_buffer("down", _middles(rows).repeat_interleave(columns), persistent=False)
        self.gain = nn.Parameter(torch.ones(1))
        self.directions = nn.Parameter(torch.zeros(len(DIRECTIONS), n_embd))

    def forward(self, dense: Tensor, conv_map: Tensor | None, features: Tensor) -> Tensor:
        """`[n, tokens, n_embd]`; `features` are all features at the visual tokens' places."""
        things = self.net.things(self.net.density(dense, conv_map))
        counts = self.net.of_a_kind(things, self.net.alike(features))
        told = torch.stack([counts, *self._coordinates(things)], dim=-1)
        near, presence = self._around(told, things)
        words = self.gain * self._number(near[..., 0]) @ self.numbers + near[..., 1:] @ self.directions
        return presence[..., None] * words

    def _coordinates(self, things: Tensor) -> tuple[Tensor, ...]:
        """The four coordinates of DIRECTIONS, `[n, tokens]` each."""
        total = things.sum(1, keepdim=True).clamp(min=0.5)
        own = [each.expand_as(things) for each in (self.across, self.down)]
        middle = [(things * each).sum(1, keepdim=True) / total for each in own]
        return (*own, *(each - centre for each, centre in zip(own, middle)))

    def _around(self, told: Tensor, things: Tensor) -> tuple[Tensor, Tensor]:
        """What is told at the things' centres in a place's neighbourhood, `[n, tokens, values]`, and whether there is
        a thing, 0 to 1, `[n, tokens]`."""
        weighed = torch.cat([told * things[..., None], things[..., None]], dim=-1)
        as_map = weighed.transpose(1, 2).unflatten(2, self.token_grid)
        summed = functional.avg_pool2d(as_map, 3, stride=1, padding=1).flatten(2).transpose(1, 2) * 9
        amount = summed[..., -1:]
        return summed[..., :-1] / amount.clamp(min=0.05), amount[..., 0].clamp(max=1)

    def _number(self, counts: Tensor) -> Tensor:
        """Shares of the two nearest numbers, `[n, tokens, len(NUMBERS)]`."""
        known = torch.arange(len(NUMBERS), dtype=counts.dtype, device=counts.device)
        return (1 - (counts.clamp(max=len(NUMBERS) - 1)[..., None] - known).abs()).clamp(min=0)


def _middles(count: int) -> Tensor:
    """The middles of that many equal parts of −1 to 1."""
    return (torch.arange(count) + 0.5) / count * 2 - 1
