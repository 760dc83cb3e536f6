"""Whether our norms, rows over the root of the mean of their squares, are llama.cpp's, before they take their place."""

from __future__ import annotations

import ctypes

import numpy as np

from dclocal.ggml_graph import FLOAT, POINTER, Graph, by_two_threads

NAME = "ggml_compute_forward_rms_norm_mul_fused"
SHAPES = ((576, 5, 1, 1), (16, 1, 1, 1), (64, 3, 2, 2))
"""Numbers of a row, rows, and groups of them."""
NEAR = 2e-7
LEAST = 1e-5


def difference(ours: ctypes.CDLL, theirs: ctypes.CDLL) -> str:
    """Where the function of `ours` is not that of llama.cpp's library `theirs`, or nothing."""
    random = np.random.default_rng(0)
    for shape in SHAPES:
        for weights_first in (False, True):
            ours_has, theirs_has = _both(ours, theirs, random, shape, weights_first)
            worst = float((np.abs(ours_has - theirs_has) / np.maximum(np.abs(theirs_has), 1e-30)).max())
            if not worst <= NEAR:
                return f"{NAME} of {shape} differs by up to {worst}, as a share"
    return ""


def _both(
    ours: ctypes.CDLL, ggml: ctypes.CDLL, random: np.random.Generator, shape: tuple[int, ...], weights_first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What both make of random rows, of which one is 0, with weights for all rows alike."""
    numbers = (random.normal(0, 3, shape[::-1]) * 10 ** random.uniform(-4, 2, (*shape[:0:-1], 1))).astype(np.float32)
    numbers[0, 0, 0] = 0
    with Graph(ggml) as graph:
        norm = graph.call("ggml_rms_norm", (POINTER, FLOAT), graph.tensor(numbers), LEAST)
        both = [norm, graph.tensor(random.normal(0, 1, shape[:1]).astype(np.float32))]
        if weights_first and numbers.size == shape[0]:  # llama.cpp's product has the shape of its first
            both.reverse()
        product = graph.call("ggml_mul", (POINTER, POINTER), *both)
        graph.of(product)()
        result = graph.numbers(product, numbers.shape)
        theirs_has = result.copy()
        result[:] = np.nan
        by_two_threads(ours, NAME, norm, product)
        return result.copy(), theirs_has
