"""The connector's projector: two linear layers with GELU between, the second on what is left of the tokens.

Bilinear interpolation is a weighted mean of places, so it commutes with a linear layer.  Each is applied where there
are fewer places, to the same result: the first layer's part for a second tower's map on that map's own grid, the
second layer after the efficient connector's interpolation.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.layers import resample


class Projector(nn.Sequential):
    """Features `[n, places, width]` on `grid` to the language model's `n_embd`; its layers are "0" and "2", as in the
    published checkpoints.  `conv_channels` of the width are a second tower's map's, 0 for none."""

    def __init__(self, width: int, n_embd: int, grid: tuple[int, int], conv_channels: int = 0):
        super().__init__(nn.Linear(width, n_embd), nn.GELU(), nn.Linear(n_embd, n_embd))
        self._grid, self._conv_channels = grid, conv_channels

    def forward(  # type: ignore[override]
        self, dense: Tensor, conv_map: Tensor | None, interpolate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`dense` without the map's channels, `conv_map` `[n, conv_channels, r, c]`; `interpolate` is linear in its
        tokens, with weights that sum to one."""
        enter, activation, leave = self
        assert isinstance(enter, nn.Linear)
        if conv_map is None or not self._conv_channels:
            entered = enter(dense)
        else:
            weight = enter.weight
            of_dense, of_map = weight.split([weight.shape[1] - self._conv_channels, self._conv_channels], dim=1)
            seen = functional.linear(conv_map.flatten(2).transpose(1, 2), of_map)
            as_map = seen.transpose(1, 2).unflatten(2, conv_map.shape[-2:])
            beside = resample(as_map, self._grid).flatten(2).transpose(1, 2)
            entered = functional.linear(dense, of_dense, enter.bias) + beside
        projected: Tensor = leave(interpolate(activation(entered)))
        return projected
