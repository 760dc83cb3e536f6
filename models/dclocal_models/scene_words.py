"""What there is, how many and where, said in the language model's own words.

Words that are added up in one visual token drown one another.  So the tokens go in blocks, and each token of a block
says one thing: the first token of the name of what is there, its second, the rest, how many of its kind the picture
shows, where in the picture it lies, and where from the middle of all things.  A block's tokens follow one another, so
that it reads like a line of text, and a token is as long as those of a text, so that the language model's first layer
makes of it what it makes of a word.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal.name_table import NAME_PARTS
from dclocal_models.place_nets import CountNet

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLACES = (("left", "middle", "right"), ("top", "middle", "bottom"))
"""What a place across and down the picture says at −1, 0 and 1."""
SIDES = (("left", "right"), ("above", "below"))
"""What a place from the middle of all things says on either side of it."""
REACH = 2 / 3
"""A thing's centre this far from the picture's middle is at its border: the largest things never come nearer."""
SHARPNESS = 8.0
"""How soon a side is said: at 0.3 of half the picture eleven times as loudly as the other."""
BLOCK = (2, 3)
"""Rows and columns of visual tokens: as many tokens as there are things to say."""


class CountWords(nn.Module):
    """Names, number words and places, each in tokens of their own.

    `numbers` `[len(NUMBERS), n_embd]`, `places` `[2, 3, n_embd]` and `sides` `[2, 2, n_embd]` are the words'
    embeddings; what lies between two is said as both.  `length` is that of the language model's own tokens.  Trained
    is `gain`, how loudly names, numbers, places and sides are said.
    """

    numbers: Tensor
    places: Tensor
    sides: Tensor
    length: Tensor
    across: Tensor
    down: Tensor

    def __init__(self, width: int, conv_channels: int, n_embd: int, grid: tuple[int, int], token_grid: tuple[int, int]):
        super().__init__()
        if any(tokens % side for tokens, side in zip(token_grid, BLOCK)):
            raise ValueError(
                f"counts are said in blocks of {BLOCK[0]} by {BLOCK[1]} tokens; token_grid is {token_grid}"
            )
        self.net = CountNet(width, conv_channels, grid, token_grid)
        self.token_grid = token_grid
        rows, columns = token_grid
        self.register_buffer("numbers", torch.zeros(len(NUMBERS), n_embd))
        self.register_buffer("places", torch.zeros(2, 3, n_embd))
        self.register_buffer("sides", torch.zeros(2, 2, n_embd))
        self.register_buffer("length", torch.ones(1))
        self.register_buffer("across", _middles(columns).repeat(rows), persistent=False)
        self.register_buffer("down", _middles(rows).repeat_interleave(columns), persistent=False)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, names: Tensor, dense: Tensor, conv_map: Tensor | None, alike: Tensor) -> Tensor:
        """`[n, tokens, n_embd]`, block after block; `names` `[n, blocks, NAME_PARTS, n_embd]` are added up over each
        block, `alike` is what `net` tells of all features at the visual tokens' places."""
        things = self.net.things(self.net.density(dense, conv_map))
        counts = self.net.of_a_kind(things, alike)
        told = torch.stack([counts, *self._coordinates(things)], dim=-1)
        near, presence = self._around(told, things)
        others = (self._number(near[..., 0]), self._place(near[..., 1:3]), self._side(near[..., 3:]))
        spoken = [self.together(presence[..., None] * words) for words in others]
        parts = [*names.unbind(2), *spoken]
        gains = [self.gain[0]] * NAME_PARTS + [*self.gain[1:]]
        return torch.stack([gain * self._no_longer(part) for gain, part in zip(gains, parts)], dim=2).flatten(1, 2)

    def silence(self, embeds: Tensor) -> Tensor:
        """No names, `[n, blocks, NAME_PARTS, n_embd]`, for as many pictures as `embeds` has."""
        return 0 * self.together(embeds)[:, :, None].expand(-1, -1, NAME_PARTS, -1)

    def in_order(self, values: Tensor) -> Tensor:
        """`[n, tokens, values]` row by row of the picture, put block after block."""
        (rows, columns), (high, wide) = self.token_grid, BLOCK
        parted = values.unflatten(1, (rows // high, high, columns // wide, wide))
        return parted.transpose(2, 3).flatten(1, 4)

    def together(self, values: Tensor) -> Tensor:
        """`[n, tokens, values]` row by row, added up over each block: `[n, blocks, values]`."""
        return self.in_order(values).unflatten(1, (-1, BLOCK[0] * BLOCK[1])).sum(2)

    def at_length(self, embeds: Tensor) -> Tensor:
        """Tokens as long as those of a text."""
        return embeds * (self.length / embeds.norm(dim=-1, keepdim=True).clamp(min=1e-6))

    def _no_longer(self, words: Tensor) -> Tensor:
        """Words that are longer than those of a text, cut to that length."""
        return words * (self.length / torch.maximum(words.norm(dim=-1, keepdim=True), self.length))

    def _coordinates(self, things: Tensor) -> tuple[Tensor, ...]:
        """Across and down the picture, −1 to 1, and both from the middle of all things, `[n, tokens]` each."""
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
        """The two nearest number words of `[n, tokens]`."""
        known = torch.arange(len(NUMBERS), dtype=counts.dtype, device=counts.device)
        return _near(counts.clamp(max=len(NUMBERS) - 1), known) @ self.numbers

    def _place(self, coordinates: Tensor) -> Tensor:
        """The nearest words of PLACES for `[n, tokens, 2]`, across and down added up."""
        ends = torch.tensor([-1.0, 0.0, 1.0], dtype=coordinates.dtype, device=coordinates.device)
        shares = _near((coordinates / REACH).clamp(-1, 1), ends)
        return shares.flatten(2) @ self.places.flatten(0, 1)

    def _side(self, offsets: Tensor) -> Tensor:
        """The words of SIDES for `[n, tokens, 2]`, across and down added up."""
        beyond = torch.sigmoid(SHARPNESS * offsets)
        return torch.stack([1 - beyond, beyond], dim=-1).flatten(2) @ self.sides.flatten(0, 1)


def _near(values: Tensor, known: Tensor) -> Tensor:
    """Shares of the known values, one apart, that lie around each value: `[..., len(known)]`."""
    return (1 - (values[..., None] - known).abs()).clamp(min=0)


def _middles(count: int) -> Tensor:
    """The middles of that many equal parts of −1 to 1."""
    return (torch.arange(count) + 0.5) / count * 2 - 1
