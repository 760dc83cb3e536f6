"""Which hidden states are integrated, and the grids that their features lie on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FULL_GRID = (0, 0)
"""As a token grid: the backbone's own, that is no interpolation."""


def layer_groups(first: int, final: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """Equal runs of neighbours among the hidden states `first` to `final`; a rest smaller than `groups`, next to
    the final layer, is in no group (SigLIP: 27 states, two groups of 13).

    Raises ValueError where there are fewer states than groups.
    """
    size = (final + 1 - first) // groups if groups > 0 else 0
    if size < 1 or first < 0:
        raise ValueError(f"hidden states {first} to {final} cannot be cut into {groups} groups")
    return tuple(tuple(range(first + group * size, first + (group + 1) * size)) for group in range(groups))


def resample(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of `[n, channels, rows, columns]` to `grid`, pixel centres aligned at halves.

    To half of each side that is the mean of four, which every library computes several times as fast.
    """
    rows, columns = maps.shape[-2:]
    if (rows, columns) == grid:
        return maps
    if (rows, columns) == (2 * grid[0], 2 * grid[1]):
        return functional.avg_pool2d(maps, 2)
    return functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)


def features_at(dense: Tensor, conv_map: Tensor | None, grid: tuple[int, int], token_grid: tuple[int, int]) -> Tensor:
    """All features at the places of the visual tokens, `[n, tokens, dense_width + conv_channels]`, of integrated ones
    `[n, rows · columns, dense_width]` on `grid` and a second tower's map, where there is one."""
    as_map = dense.transpose(1, 2).unflatten(2, grid)
    maps = [as_map] if conv_map is None else [as_map, conv_map]
    return torch.cat([resample(each.float(), token_grid) for each in maps], 1).flatten(2).transpose(1, 2)


def resolve_layer(layer: int, depth: int) -> int:
    """An index into depth + 1 hidden states, counted from the start."""
    index = layer if layer >= 0 else depth + 1 + layer
    if not 0 <= index <= depth:
        raise ValueError(f"layer {layer} is not among {depth + 1} hidden states")
    return index


def resolve_grid(wanted: tuple[int, int] | None, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of visual tokens: half of each side where None is wanted.  Raises ValueError for an empty one."""
    if wanted is None:
        return (max(1, grid[0] // 2), max(1, grid[1] // 2))
    if wanted == FULL_GRID:
        return grid
    if not (wanted[0] >= 1 and wanted[1] >= 1):
        raise ValueError(f"token_grid is {wanted}; expected rows and columns of at least 1, or 0, 0 for all")
    return wanted
