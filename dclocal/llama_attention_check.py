"""Whether our attention is what llama.cpp means by it, before it takes the place of its own.

Both are compared with attention in float64: ours has to be as near as float32 allows, llama.cpp's own near enough to
say that its tensors mean what they are taken for.  They may differ between each other: of fewer than 64 queries
llama.cpp multiplies in float16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

NAME = "ggml_compute_forward_flash_attn_ext"
OURS_NEAR, THEIRS_NEAR = 1e-4, 5e-2
MEMORY = 1 << 24
FLOAT32, FLOAT16 = 0, 1
POINTER, SIZE, INTEGER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64, ctypes.c_float


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


class Memory(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("size", SIZE), ("buffer", POINTER), ("without_data", ctypes.c_bool))


class _Tensor(ctypes.Structure):
    """ggml_tensor, as `kernels/llama/ggml.h` has it."""

    _fields_ = (
        ("type", INTEGER),
        ("buffer", POINTER),
        ("ne", LONG * 4),
        ("nb", SIZE * 4),
        ("op", INTEGER),
        ("options", FLOAT * 16),
        ("flags", INTEGER),
        ("sources", POINTER * 10),
        ("view", POINTER),
        ("view_at", SIZE),
        ("data", POINTER),
    )


class Parameters(ctypes.Structure):
    """ggml_compute_params."""

    _fields_ = (
        ("thread", INTEGER),
        ("threads", INTEGER),
        ("size", SIZE),
        ("work", POINTER),
        ("pool", POINTER),
        ("reference", ctypes.c_bool),
    )


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
            if _Tensor.from_address(work.tensor).data != work.result.ctypes.data:
                return "llama.cpp's tensors have other fields than ours"
            work.by_llama_cpp()
            if (worst := work.worst()) > THEIRS_NEAR:
                return f"{NAME} of {shape} means something else than ours: {worst} apart"
            work.result[:] = np.nan
            for thread in range(2):
                parameters = Parameters(thread, 2, 0, None, None, False)
                function(ours, NAME, None, POINTER, POINTER)(ctypes.addressof(parameters), work.tensor)
            if not (worst := work.worst()) <= OURS_NEAR:
                return f"{NAME} of {shape} differs by up to {worst}"
    return ""


def function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return ctypes.CFUNCTYPE(result, *arguments)((name, library))


@contextmanager
def computation(
    ggml: ctypes.CDLL, random: np.random.Generator, shape: Shape, *, masked: bool = True, cap: float = 0
) -> Iterator[Computation]:
    """An attention of random numbers, for as long as it takes; with a `cap`, scores come no further from 0."""
    memory = function(ggml, "ggml_init", POINTER, Memory)(Memory(MEMORY, None, False))
    new = function(ggml, "ggml_new_tensor_4d", POINTER, POINTER, INTEGER, *[LONG] * 4)
    permute = function(ggml, "ggml_permute", POINTER, POINTER, POINTER, *[INTEGER] * 4)
    attention = function(ggml, "ggml_flash_attn_ext", POINTER, *[POINTER] * 5, *[FLOAT] * 3)
    address = function(ggml, "ggml_get_data", POINTER, POINTER)
    compute = function(ggml, "ggml_graph_compute_with_ctx", INTEGER, POINTER, POINTER, INTEGER)

    def tensor(values: np.ndarray) -> int:
        made: int = new(memory, FLOAT16 if values.dtype == np.float16 else FLOAT32, *reversed(values.shape))
        ctypes.memmove(address(made), values.ctypes.data, values.nbytes)
        return made

    try:
        queries, keys, values, mask = _values(random, shape)
        mask = mask if masked else np.zeros_like(mask)
        turned = [permute(memory, tensor(these), 0, 2, 1, 3) for these in (queries, keys, values)]
        scale = shape.width**-0.5
        result = attention(memory, *turned, tensor(mask[:, None]) if masked else None, scale, 0, cap)
        graph = function(ggml, "ggml_new_graph", POINTER, POINTER)(memory)
        function(ggml, "ggml_build_forward_expand", None, POINTER, POINTER)(graph, result)
        numbers = np.ctypeslib.as_array(ctypes.cast(address(result), ctypes.POINTER(FLOAT)), queries.shape)
        expected = _attention(queries, keys, values, mask, scale, cap)
        yield Computation(result, numbers, expected, lambda: compute(memory, graph, 2))
    finally:
        function(ggml, "ggml_free", None, POINTER)(memory)


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
