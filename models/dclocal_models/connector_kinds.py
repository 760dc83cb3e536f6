"""The connectors of the paper (arXiv 2405.13800, section 3 and appendix), each by what it integrates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dclocal_models.connectors import Connector
from dclocal_models.layers import layer_groups

TOKEN_STRIDE = 8  # STI pools, or convolves, runs of eight tokens


class BaselineConnector(Connector):
    """LLaVA-1.5: the final feature alone."""

    def integrate(self, hidden_states: Sequence[Tensor]) -> Tensor:
        return hidden_states[self.final]


class TokenConnector(Connector):
    """STI, sparse token integration: shallower layers, pooled along tokens, join on the token axis (3.1)."""

    takes_layers = True

    def integrated_width(self) -> int:
        return self.width

    def extra_tokens(self) -> int:
        return len(self.groups) * (self.grid[0] * self.grid[1] // TOKEN_STRIDE)

    def integrate(self, hidden_states: Sequence[Tensor]) -> Tensor:
        shallow = [self.shorten(hidden_states[layer].transpose(1, 2)).transpose(1, 2) for layer in self.layers]
        return torch.cat([hidden_states[self.final], *shallow], dim=1)

    def shorten(self, state: Tensor) -> Tensor:
        """`[n, width, tokens]` to an eighth of the tokens."""
        return functional.avg_pool1d(state, kernel_size=TOKEN_STRIDE, stride=TOKEN_STRIDE)


class ConvolvedTokenConnector(TokenConnector):
    """STI with one shared 1-D convolution in place of pooling (appendix)."""

    has_parameters = True

    def build(self) -> None:
        self.convolution = nn.Conv1d(self.width, self.width, kernel_size=TOKEN_STRIDE, stride=TOKEN_STRIDE)

    def shorten(self, state: Tensor) -> Tensor:
        shortened: Tensor = self.convolution(state)
        return shortened


class ChannelConnector(Connector):
    """SCI, sparse channel integration: chosen layers join on the channel axis (3.1)."""

    takes_layers = True

    def integrate(self, hidden_states: Sequence[Tensor]) -> Tensor:
        return torch.cat([hidden_states[self.final], *(self.refine(hidden_states[layer]) for layer in self.layers)], -1)

    def refine(self, state: Tensor) -> Tensor:
        """What is done to a shallow layer before it joins."""
        return state


class ConvolvedChannelConnector(ChannelConnector):
    """SCI with one shared 3×3 convolution on each shallow layer (appendix)."""

    has_parameters = True

    def build(self) -> None:
        self.convolution = nn.Conv2d(self.width, self.width, kernel_size=3, padding=1)

    def refine(self, state: Tensor) -> Tensor:
        rows, columns = self.grid
        as_map = state.transpose(1, 2).reshape(state.shape[0], self.width, rows, columns)
        refined: Tensor = self.convolution(as_map).flatten(2).transpose(1, 2)
        return refined


class DenseChannelConnector(Connector):
    """DCI, dense channel integration: every layer, in groups of neighbours, joins on the channel axis (3.1)."""

    def integrated_layers(self) -> tuple[tuple[int, ...], ...]:
        return layer_groups(self.config.first_layer, self.final, self.config.groups)

    def integrate(self, hidden_states: Sequence[Tensor]) -> Tensor:
        reduced = []
        for group in self.groups:
            stacked = torch.stack([self.refine(hidden_states[layer]) for layer in group])
            reduced.append(stacked.mean(0) if self.config.reduce == "mean" else stacked.sum(0))
        return torch.cat([hidden_states[self.final], *reduced], dim=-1)

    def refine(self, state: Tensor) -> Tensor:
        """What is done to a layer before its group is reduced."""
        return state


class NormedDenseChannelConnector(DenseChannelConnector):
    """DCI with a shared Linear and LayerNorm on each layer before the sum (appendix)."""

    has_parameters = True

    def build(self) -> None:
        self.linear = nn.Sequential(nn.Linear(self.width, self.width), nn.LayerNorm(self.width))

    def refine(self, state: Tensor) -> Tensor:
        refined: Tensor = self.linear(state)
        return refined
