"""Dense connectors: hidden states of all layers to tokens in the LLM's space.

Dense channel integration (DCI, section 3.1 of arXiv 2405.13800): the layers are cut into equal groups of
neighbours, each group is reduced to one map, and these are concatenated to the final layer on the channel
axis, final first.  A two-layer projector follows, then the efficient connector's parameter-free bilinear
interpolation of the token grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class ConnectorConfig:
    """`groups`: how many equal groups of layers; `reduce`: mean (the released code) or sum (the paper);
    `token_grid`: rows and columns after the interpolation."""

    kind: str = "dci"
    groups: int = 2
    reduce: str = "mean"
    token_grid: tuple[int, int] = (12, 12)

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f"reduce is {self.reduce!r}; expected mean or sum")


def layer_groups(depth: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """Indices into hidden_states of each group: layers 1 to depth in equal runs of neighbours.

    Raises ValueError where depth does not divide.
    """
    if groups < 1 or depth % groups:
        raise ValueError(f"{depth} layers do not divide into {groups} equal groups")
    size = depth // groups
    return tuple(tuple(range(1 + group * size, 1 + (group + 1) * size)) for group in range(groups))


def integrate_channels(hidden_states: Sequence[Tensor], groups: Sequence[Sequence[int]], reduce: str) -> Tensor:
    """DCI without its projector: `[n, tokens, (groups + 1)·width]`, the final layer first."""
    reduced = []
    for group in groups:
        stacked = torch.stack([hidden_states[index] for index in group])
        reduced.append(stacked.mean(0) if reduce == "mean" else stacked.sum(0))
    return torch.cat([hidden_states[-1], *reduced], dim=-1)


class DenseChannelConnector(nn.Module):
    """DCI, an optional convolutional map on the channel axis, projector and efficient interpolation.

    `integrate` has no parameters (its result may be cached while the backbone is frozen); `project` does
    the rest: `[n, rows·columns, dense_width]` and `[n, conv_channels, r, c]` to `[n, tokens, n_embd]`.
    """

    def __init__(
        self, config: ConnectorConfig, *, depth: int, width: int, grid: tuple[int, int], conv_channels: int, n_embd: int
    ):
        super().__init__()
        self.config, self.grid = config, grid
        self.groups = layer_groups(depth, config.groups)
        self.dense_width = (config.groups + 1) * width
        self.conv_channels = conv_channels
        self.projector = nn.Sequential(
            nn.Linear(self.dense_width + conv_channels, n_embd), nn.GELU(), nn.Linear(n_embd, n_embd)
        )

    @property
    def tokens(self) -> int:
        """Visual tokens per image."""
        rows, columns = self.config.token_grid
        return rows * columns

    def integrate(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """The densely integrated features, `[n, rows·columns, dense_width]`."""
        return integrate_channels(hidden_states, self.groups, self.config.reduce)

    def project(self, dense: Tensor, conv_map: Tensor | None) -> Tensor:
        """Embeddings in the LLM's space, `[n, tokens, n_embd]`."""
        features = dense
        if conv_map is not None:
            resampled = _resample(conv_map, self.grid)
            features = torch.cat([dense, resampled.flatten(2).transpose(1, 2)], dim=-1)
        embeds = self.projector(features)
        if self.config.token_grid == self.grid:
            return embeds
        rows, columns = self.grid
        as_map = embeds.transpose(1, 2).reshape(embeds.shape[0], embeds.shape[2], rows, columns)
        return _resample(as_map, self.config.token_grid).flatten(2).transpose(1, 2)

    def forward(self, hidden_states: Sequence[Tensor], conv_map: Tensor | None = None) -> Tensor:
        return self.project(self.integrate(hidden_states), conv_map)


def _resample(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear interpolation of `[n, channels, rows, columns]` to `grid`, pixel centres aligned at halves."""
    return functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
