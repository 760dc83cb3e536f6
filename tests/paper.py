"""The paper's connectors written down again in numpy from its equations, for tests: nothing of ours is imported.

`states`: list of depth + 1 arrays `[tokens, width]`; `weights` the connector's parameters by name.
"""

from __future__ import annotations

from math import erf, sqrt

import numpy as np

Array = np.ndarray


def pooled(state: Array) -> Array:
    """Means of eight neighbouring tokens; a shorter rest is dropped."""
    whole = len(state) // 8 * 8
    return state[:whole].reshape(-1, 8, state.shape[1]).mean(axis=1)


def conv1d(state: Array, weight: Array, bias: Array) -> Array:
    """Kernel 8, stride 8; `weight` is [out, in, 8]."""
    runs = [state[start : start + 8] for start in range(0, len(state) - 7, 8)]
    return np.stack([np.einsum("oik,ki->o", weight, run) + bias for run in runs])


def conv2d(state: Array, grid: tuple[int, int], weight: Array, bias: Array) -> Array:
    """3×3, zero padding of one."""
    rows, columns = grid
    as_map = np.pad(state.reshape(rows, columns, -1), ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((rows, columns, len(bias)))
    for y in range(rows):
        for x in range(columns):
            out[y, x] = np.einsum("oiyx,yxi->o", weight, as_map[y : y + 3, x : x + 3]) + bias
    return out.reshape(rows * columns, -1)


def layer_norm(values: Array, weight: Array, bias: Array) -> Array:
    mean, variance = values.mean(-1, keepdims=True), values.var(-1, keepdims=True)
    return (values - mean) / np.sqrt(variance + 1e-5) * weight + bias


def sti(states: list[Array], final: int, layers: list[int]) -> Array:
    return np.concatenate([states[final], *(pooled(states[layer]) for layer in layers)], axis=0)


def sci(states: list[Array], final: int, layers: list[int]) -> Array:
    return np.concatenate([states[final], *(states[layer] for layer in layers)], axis=1)


def dci(states: list[Array], final: int, groups: list[range], reduce: str) -> Array:
    sums = [sum(states[layer] for layer in group) for group in groups]
    if reduce == "mean":
        sums = [total / len(group) for total, group in zip(sums, groups)]
    return np.concatenate([states[final], *sums], axis=1)


def project(features: Array, weights: dict[str, Array]) -> Array:
    """Two linear layers with the exact GELU between."""
    hidden = features @ weights["projector.0.weight"].T + weights["projector.0.bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / sqrt(2)))
    return hidden @ weights["projector.2.weight"].T + weights["projector.2.bias"]


def interpolate(values: Array, size: int) -> Array:
    """Linear interpolation of the first axis to `size`, centres aligned at halves, edges held."""
    length = len(values)
    out = []
    for place in range(size):
        source = min(max((place + 0.5) * length / size - 0.5, 0), length - 1)
        low = int(np.floor(source))
        high = min(low + 1, length - 1)
        out.append(values[low] * (1 - (source - low)) + values[high] * (source - low))
    return np.stack(out)


def efficient(tokens: Array, grid: tuple[int, int], token_grid: tuple[int, int]) -> Array:
    """The efficient connector: bilinear over rows, then columns."""
    as_map = interpolate(tokens.reshape(*grid, -1), token_grid[0])
    return interpolate(as_map.transpose(1, 0, 2), token_grid[1]).transpose(1, 0, 2).reshape(-1, tokens.shape[-1])


def mining(tokens: Array, fine: Array, grid: tuple[int, int], weights: dict[str, Array]) -> Array:
    """Mini-Gemini's patch info mining for one picture; `fine` is [channels, height, width]."""

    def part(name: str, values: Array) -> Array:
        normed = layer_norm(values, weights[f"mining.{name}.0.weight"], weights[f"mining.{name}.0.bias"])
        return normed @ weights[f"mining.{name}.1.weight"].T + weights[f"mining.{name}.1.bias"]

    rows, columns = grid
    high, wide = fine.shape[1] // rows, fine.shape[2] // columns
    out = []
    for index, token in enumerate(tokens):
        y, x = divmod(index, columns)
        region = fine[:, y * high : (y + 1) * high, x * wide : (x + 1) * wide].reshape(len(fine), -1).T
        scores = part("key", region) @ part("query", token) / sqrt(len(token))
        shares = np.exp(scores - scores.max())
        out.append(token + (shares / shares.sum()) @ part("value", region))
    return np.stack(out)
