"""Whether our attention is what llama.cpp means by it, before it takes the place of its own.

Both are compared with attention in float64: ours has to be as near as float32 allows, llama.cpp's own near enough to
say that its tensors mean what they are taken for.  They may differ between each other: of fewer than 64 queries
llama.cpp multiplies in float16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from dclocal.ggml_graph import FLOAT, INTEGER, POINTER, Graph, Tensor, by_two_threads

NAME = "ggml_compute_forward_flash_attn_ext"
OURS_NEAR, THEIRS_NEAR = 1e-4, 5e-2


class Shape(NamedTuple):
    """Numbers of a head, heads, those that keys and values have, queries, keys, sequences, and how many keys stand
    before the first query."""

    width: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    sequences: int
    before: int


SHAPES = (
    Shape(64, 9, 3, 160, 256, 1, 0),
    Shape(64, 9, 3, 1, 96, 1, 70),
    Shape(128, 4, 4, 3, 128, 2, 100),
    Shape(16, 4, 2, 70, 96, 2, 20),
    Shape(256, 2, 2, 33, 64, 1, 31),
)
"""Less than is taken at a time of each, and several times that with something left; one query and many."""


class Computation(NamedTuple):
    """An attention in ggml's memory: the address of the result's tensor, its numbers and those that they are to be,
    `[sequences, queries, heads, width]`, and what has llama.cpp compute them."""

    tensor: int
    result: np.ndarray
    expected: np.ndarray
    by_llama_cpp: Callable[[], object]

    def worst(self) -> float:
        """How far the result is from what it is to be."""
        return float(np.abs(self.result - self.expected).max())


def difference(ours: ctypes.CDLL, theirs: ctypes.CDLL) -> str:
    """Where the attention of `ours` is not that of llama.cpp's library `theirs`, or nothing."""
    random = np.random.default_rng(0)
    for shape in SHAPES:
        with computation(theirs, random, shape) as work:
            if Tensor.from_address(work.tensor).data != work.result.ctypes.data:
                return "llama.cpp's tensors have other fields than ours"
            work.by_llama_cpp()
            if (worst := work.worst()) > THEIRS_NEAR:
                return f"{NAME} of {shape} means something else than ours: {worst} apart"
            work.result[:] = np.nan
            by_two_threads(ours, NAME, work.tensor)
            if not (worst := work.worst()) <= OURS_NEAR:
                return f"{NAME} of {shape} differs by up to {worst}"
    return ""


@contextmanager
def computation(
    ggml: ctypes.CDLL, random: np.random.Generator, shape: Shape, *, masked: bool = True, cap: float = 0
) -> Iterator[Computation]:
    """An attention of random numbers, for as long as it takes; with a `cap`, scores come no further from 0."""
    with Graph(ggml) as graph:
        queries, keys, values, mask = _values(random, shape)
        mask = mask if masked else np.zeros_like(mask)
        turns = (POINTER, *[INTEGER] * 4)
        turned = [graph.call("ggml_permute", turns, graph.tensor(v), 0, 2, 1, 3) for v in (queries, keys, values)]
        scale = shape.width**-0.5
        masks = graph.tensor(mask[:, None]) if masked else None
        kinds = (*[POINTER] * 4, *[FLOAT] * 3)
        result = graph.call("ggml_flash_attn_ext", kinds, *turned, masks, scale, 0, cap)
        expected = _attention(queries, keys, values, mask, scale, cap)
        yield Computation(result, graph.numbers(result, queries.shape), expected, graph.of(result))


def _values(random: np.random.Generator, shape: Shape) -> tuple[np.ndarray, ...]:
    """Queries, keys and values `[sequences, number, heads, width]`, and a mask `[sequences, queries, keys]` of which
    each query sees keys up to its own place, some less than others, and of the last sequence not the first ones."""
    many = (shape.sequences, shape.keys, shape.key_heads, shape.width)
    queries = random.normal(0, 2, (shape.sequences, shape.queries, shape.heads, shape.width)).astype(np.float32)
    keys, values = random.normal(0, 1, (2, *many)).astype(np.float16)
    places, own = np.arange(shape.keys), shape.before + np.arange(shape.queries)[:, None]
    mask = np.where(places <= own, 0, -np.inf) * np.ones((shape.sequences, 1, 1))
    mask[:, :, ::5] -= 0.5
    mask[-1, :, : shape.before // 2] = -np.inf
    return queries, keys, values, mask.astype(np.float16)


def _attention(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray, scale: float, cap: float
) -> np.ndarray:
    """As the formula has it, in float64."""
    share = queries.shape[2] // keys.shape[2]
    keys, values = (np.repeat(these.astype(np.float64), share, axis=2) for these in (keys, values))
    scores = np.einsum("sqhw,skhw->shqk", queries.astype(np.float64), keys) * scale
    scores = (cap * np.tanh(scores / cap) if cap else scores) + mask[:, None].astype(np.float64)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("shqk,skhw->sqhw", weights / weights.sum(-1, keepdims=True), values)
