"""What is written in a picture, said in the language model's own words where it stands.

A small network tells letters and where they stand.  In bands around each row of visual tokens, the letters' density
summed from the left says which letter of a line a column belongs to (as continuous integrate-and-fire does in speech
recognition, arXiv 1905.11235), and from the right again; so each word of a lexicon has a likelihood, also one that no
training picture showed.
"""

from __future__ import annotations

import string

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.place_nets import TextNet

CHARACTERS = string.ascii_lowercase + string.digits
OTHER = len(CHARACTERS)
"""The class of every other character."""
LONGEST = 10
"""Letters of the longest word of a lexicon."""
WRONG_LENGTH = 5.0
"""What a letter too many or too few costs a word's log-likelihood."""
DOUBT = 5.0
"""The mean cost of a letter above which there is no word at all."""
SAID = 8
"""The likeliest words, which are all that are said."""


class TextWords(nn.Module):
    """Words and single letters at the places where they are written.

    `codes` `[words, LONGEST]`: each word's letters from the left as indices of CHARACTERS, UNUSED beyond its end;
    `tokens` `[words]`: the one token of the language model that each of them is; `names` `[words, n_embd]`, float16,
    and `letters` `[len(CHARACTERS) + 1, n_embd]`: embeddings.  Trained is `gain`, how loudly each of the two is said.
    """

    UNUSED = OTHER + 1
    codes: Tensor
    tokens: Tensor
    names: Tensor
    letters: Tensor

    def __init__(self, width: int, words: int, n_embd: int, grid: tuple[int, int], token_grid: tuple[int, int]):
        super().__init__()
        self.net = TextNet(width, OTHER + 1, grid)
        self.token_grid = token_grid
        self.register_buffer("codes", torch.full((words, LONGEST), self.UNUSED, dtype=torch.int64))
        self.register_buffer("tokens", torch.zeros(words, dtype=torch.int64))
        self.register_buffer("names", torch.zeros(words, n_embd, dtype=torch.float16))
        self.register_buffer("letters", torch.zeros(OTHER + 1, n_embd))
        self.gain = nn.Parameter(torch.ones(2))

    def forward(self, dense: Tensor) -> Tensor:
        """`[n, tokens, n_embd]`."""
        density, characters = self.net.letters(dense)
        here = self._pool(density[..., None] * characters.exp(), 1)
        bands = self._pool(torch.cat([density[..., None], density[..., None] * characters], -1), 3, columns=False)
        words = self._say(self.likely(bands[..., 0], bands[..., 1:] / bands[..., :1].clamp(min=1e-4)))
        presence = self._pool(density[..., None], 3).clamp(max=1) * whole_lines(bands[..., 0].sum(-1))[..., None, None]
        said = self.gain[0] * presence * words[:, :, None] + self.gain[1] * here @ self.letters
        return said.flatten(1, 2)

    def _say(self, words: Tensor) -> Tensor:
        """The embeddings of `[n, rows, words]`, by their probabilities: `[n, rows, n_embd]`."""
        shares, which = words.topk(min(SAID, words.shape[-1]), dim=-1)
        return (shares[..., None] * self.names[which].float()).sum(2)

    def likely(self, density: Tensor, characters: Tensor) -> Tensor:
        """Probabilities of each word, and the rest of none, `[n, rows, words]`, of lines of letters: their density
        `[n, rows, columns]` and log-probabilities `[n, rows, columns, characters]`."""
        length = density.sum(-1, keepdim=True)
        forth = self._by_letter(density, characters)
        back = self._by_letter(density.flip(-1), characters.flip(-2))
        spelt = self.codes != self.UNUSED
        lengths = spelt.sum(1)
        place = torch.arange(LONGEST, device=density.device)
        mirrored = torch.where(spelt, lengths[:, None] - 1 - place, place)
        reverse = self.codes.gather(1, mirrored)
        offset = place * (OTHER + 2)
        fit = 0.5 * (_spelt(forth, self.codes + offset) + _spelt(back, reverse + offset))
        fit = fit - WRONG_LENGTH * (length - lengths.to(length.dtype)).abs()
        none = -DOUBT * (length + 0.5)
        return torch.cat([fit, none], -1).softmax(-1)[..., :-1]

    def _by_letter(self, density: Tensor, characters: Tensor) -> Tensor:
        """Log-probabilities of the first LONGEST letters from the left, `[n, rows, LONGEST · (characters + 1)]`; that
        of UNUSED is 0."""
        reached = density.cumsum(-1)[:, :, None]
        place = torch.arange(LONGEST, dtype=density.dtype, device=density.device)[:, None]
        within = torch.minimum(reached, place + 1) - torch.maximum(reached - density[:, :, None], place)
        return functional.pad(within.clamp(min=0) @ characters, (0, 1)).flatten(2)

    def _pool(self, values: Tensor, reach: int, columns: bool = True) -> Tensor:
        """Sums over the places of each visual token and, with a `reach` of 3, of its neighbours; with `columns` false
        over rows alone.  `[n, rows, columns, values]`."""
        step = [side // tokens for side, tokens in zip(values.shape[1:3], self.token_grid)]
        stride = (step[0], step[1] if columns else 1)
        size = (stride[0] * reach, stride[1] * reach if columns else 1)
        padding = ((size[0] - stride[0]) // 2, (size[1] - stride[1]) // 2)
        pooled = functional.avg_pool2d(values.permute(0, 3, 1, 2), size, stride, padding) * (size[0] * size[1])
        return pooled.permute(0, 2, 3, 1)


def _spelt(letters: Tensor, codes: Tensor) -> Tensor:
    """Sums of `letters` `[n, rows, letters]` over each word's `codes` `[words, LONGEST]`: `[n, rows, words]`.

    All rows' values of a letter lie together, so that a hundred thousand letters are looked up once and not a row each.
    """
    by_letter = letters.flatten(0, 1).transpose(0, 1).contiguous()
    return by_letter[codes].sum(1).transpose(0, 1).unflatten(0, letters.shape[:2])


def whole_lines(lengths: Tensor) -> Tensor:
    """How far a band of rows holds a line of text whole, 0 to 1, from the letters of each band `[n, rows]`: bands that
    cut a line have fewer than their neighbours."""
    most = functional.max_pool1d(lengths[:, None], 3, stride=1, padding=1)[:, 0]
    return (lengths / most.clamp(min=0.5)) ** 4


def code_of(word: str) -> list[int]:
    """A word's row of `codes`; raises ValueError for one that is too long or has other characters."""
    if len(word) > LONGEST:
        raise ValueError(f"{word!r} has more than {LONGEST} letters")
    return [CHARACTERS.index(letter) for letter in word] + [TextWords.UNUSED] * (LONGEST - len(word))
