"""llama.cpp's Q4_K as values: 4 bits a weight, a scale and a least value for every 32 of them, both in 6 bits of what
is largest among 256."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK, BLOCKS = 32, 8
MOST, MOST_STEPS = 15, 63
TRIES = 21
Grid = tuple[Tensor, Tensor]
"""Each block's step and what its least value is below zero, `[outputs, blocks, 1]` both."""


def q4_k(weight: Tensor, grid: Grid | None = None) -> Tensor:
    """The values that llama.cpp's Q4_K makes of a matrix `[outputs, inputs]`: the nearest on the `grid` of their block
    (`q4_k_grid`, by default that of the matrix)."""
    step, below = q4_k_grid(weight) if grid is None else grid
    blocks = weight.float().unflatten(1, (-1, BLOCK))
    whole = torch.where(step == 0, 0, (blocks + below) / step).round_().clamp_(0, MOST)
    return (whole * step - below).flatten(1)


def q4_k_grid(weight: Tensor) -> Grid:
    """Every block's grid; raises ValueError for rows that have no whole number of large blocks."""
    if weight.shape[1] % (BLOCK * BLOCKS):
        raise ValueError(f"Q4_K takes rows of a multiple of {BLOCK * BLOCKS}; these have {weight.shape[1]}")
    step, below = _fit(weight.float().unflatten(1, (-1, BLOCK)))
    return _in_six_bits(step), _in_six_bits(below)


def _fit(blocks: Tensor) -> Grid:
    """Step and least value of each block by least squares, large values counting more: of grids of some 14 to 16 steps
    between least and greatest, each starting from the best so far, the one whose fit leaves the least error."""
    importance = blocks.square().mean(2, keepdim=True).sqrt() + blocks.abs()

    def summed(values: Tensor) -> Tensor:
        return (importance * values).sum(2, keepdim=True)

    least, most = blocks.amin(2, keepdim=True).clamp(max=0), blocks.amax(2, keepdim=True)
    total, weighed = summed(torch.ones_like(blocks)), summed(blocks)
    flat = most == least
    step = torch.where(flat, 0, (most - least) / MOST)
    whole = _whole(blocks, least, MOST / (most - least))
    best = summed((step * whole + least - blocks).square())
    for number in range(TRIES):
        whole = _whole(blocks, least, (MOST - 1 + number / 10) / (most - least))
        ones, squares, along = summed(whole), summed(whole.square()), summed(whole * blocks)
        spread = total * squares - ones.square()
        tried, lowest = (total * along - weighed * ones) / spread, (squares * weighed - ones * along) / spread
        tried, lowest = torch.where(lowest > 0, along / squares, tried), lowest.clamp(max=0)
        error = summed((tried * whole + lowest - blocks).square())
        better = (spread > 0) & (error < best) & ~flat
        step, least, best = (
            torch.where(better, new, old) for new, old in ((tried, step), (lowest, least), (error, best))
        )
    return step, -least


def _whole(blocks: Tensor, least: Tensor, steps: Tensor) -> Tensor:
    return ((blocks - least) * steps).nan_to_num_(0).round_().clamp_(0, MOST)


def _in_six_bits(values: Tensor) -> Tensor:
    """`[outputs, blocks, 1]` in whole steps of a 63rd, in float16, of the largest among BLOCKS."""
    grouped = values.unflatten(1, (-1, BLOCKS))
    largest = grouped.amax(2, keepdim=True)
    whole = (grouped * torch.where(largest > 0, MOST_STEPS / largest, 0)).round_().clamp_(max=MOST_STEPS)
    return (whole * (largest / MOST_STEPS).half().float()).flatten(1, 2)
