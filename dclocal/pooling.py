"""Fewer tokens for a picture: its grid of embeddings shrunk, so that more frames fit the context."""

from __future__ import annotations

import numpy as np

from dclocal.errors import PromptError
from dclocal.manifest import POOLS

DIVISORS = (1, 2, 3, 6)
"""A 12×12 grid becomes 12×12, 6×6, 4×4 or 2×2."""


def token_choices(tokens: int, grid: tuple[int, int], pool: str) -> dict[int, tuple[int, int]]:
    """How many tokens of a picture of `tokens` on `grid` may be kept, most first: count to (rows, columns).

    Max-pooling halves the row of tokens again and again, and its grids are (1, count).
    """
    if pool == "max":
        return {tokens >> halvings: (1, tokens >> halvings) for halvings in range(tokens.bit_length())}
    grids = [(-(-grid[0] // divisor), -(-grid[1] // divisor)) for divisor in DIVISORS]
    return {tokens: grid} | {rows * columns: (rows, columns) for rows, columns in grids if rows * columns < tokens}


def pool_tokens(embeds: np.ndarray, grid: tuple[int, int], tokens: int, pool: str) -> np.ndarray:
    """float32 `[n, all, width]` to `[n, tokens, width]`; the first rows · columns tokens lie on `grid`, row by row.

    "area" averages what falls into each new cell, "bilinear" interpolates at its centre (as the efficient connector
    does; the two are the same at half the side), "max" keeps the greater of each two neighbours along the tokens, as
    FreeVA's code does.  Tokens beside the grid (STI) are left out by the first two.  Raises PromptError for a count
    that cannot be had.
    """
    if pool not in POOLS:
        raise ValueError(f"unknown pooling {pool!r}, known: {', '.join(POOLS)}")
    count = embeds.shape[1]
    choices = token_choices(count, grid, pool)
    if tokens not in choices:
        raise PromptError(
            f"{tokens} tokens a frame cannot be had by pooling {count}", f"known: {', '.join(map(str, choices))}"
        )
    if tokens == count:
        return embeds
    if pool == "max":
        return _halved(embeds, tokens)
    rows, columns = choices[tokens]
    weights = _area_weights if pool == "area" else _bilinear_weights
    cells = embeds[:, : grid[0] * grid[1]].reshape(len(embeds), *grid, -1)
    shrunk = np.einsum("ir,jc,nrcw->nijw", weights(grid[0], rows), weights(grid[1], columns), cells, optimize=True)
    return np.ascontiguousarray(shrunk.reshape(len(embeds), tokens, -1), np.float32)


def _halved(embeds: np.ndarray, tokens: int) -> np.ndarray:
    """Max-pooling with kernel and stride 2 along the tokens; an odd last one is dropped."""
    while embeds.shape[1] > tokens:
        even = embeds[:, : embeds.shape[1] // 2 * 2]
        embeds = np.maximum(even[:, ::2], even[:, 1::2])
    return np.ascontiguousarray(embeds)


def _area_weights(size: int, shrunk: int) -> np.ndarray:
    """float32 `[shrunk, size]`: each new cell averages the old ones that it touches (adaptive average pooling)."""
    weights = np.zeros((shrunk, size), np.float32)
    edges = [(cell * size // shrunk, -(-(cell + 1) * size // shrunk)) for cell in range(shrunk)]
    for cell, (start, end) in enumerate(edges):
        weights[cell, start:end] = 1 / (end - start)
    return weights


def _bilinear_weights(size: int, shrunk: int) -> np.ndarray:
    """float32 `[shrunk, size]`: linear interpolation at the new cells' centres, corners not aligned."""
    weights = np.zeros((shrunk, size), np.float32)
    for cell in range(shrunk):
        centre = max(0.0, (cell + 0.5) * size / shrunk - 0.5)
        left = int(centre)
        weights[cell, left] += 1 - (centre - left)
        weights[cell, min(left + 1, size - 1)] += centre - left
    return weights
