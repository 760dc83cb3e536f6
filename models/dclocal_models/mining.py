"""Patch info mining (Mini-Gemini, arXiv 2403.18814): each token looks at its own region of a finer map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchInfoMining(nn.Module):
    """Attention of every token over the features of a convolutional map that lie under it.

    `query`, `key` and `value` are each a LayerNorm and a Linear; the result is added to the tokens.
    """

    def __init__(self, width: int, map_channels: int):
        super().__init__()
        self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.key = nn.Sequential(nn.LayerNorm(map_channels), nn.Linear(map_channels, width))
        self.value = nn.Sequential(nn.LayerNorm(map_channels), nn.Linear(map_channels, width))

    def forward(self, tokens: Tensor, fine_map: Tensor, grid: tuple[int, int]) -> Tensor:
        """`tokens`: `[n, rows·columns, width]`; `fine_map`: `[n, map_channels, rows·k, columns·k]`; the tokens'
        shape again.  Raises ValueError where the map is no whole multiple of the grid."""
        rows, columns = grid
        images, channels, height, wide = fine_map.shape
        if height % rows or wide % columns:
            raise ValueError(f"a map of {height}×{wide} does not divide into {rows}×{columns} regions")
        regions = fine_map.reshape(images, channels, rows, height // rows, columns, wide // columns)
        regions = regions.permute(0, 2, 4, 3, 5, 1).reshape(images, rows * columns, -1, channels)
        keys, values = self.key(regions), self.value(regions)
        scores = torch.einsum("ntd,ntkd->ntk", self.query(tokens), keys) / tokens.shape[-1] ** 0.5
        return tokens + torch.einsum("ntk,ntkd->ntd", scores.softmax(-1), values)
