"""Whether our norms, rows over the root of the mean of their squares, are llama.cpp's, before they take their place."""

from __future__ import annotations

import ctypes

import numpy as np

from dclocal.llama_attention_check import FLOAT, FLOAT32, INTEGER, LONG, MEMORY, POINTER, Memory, Parameters, function

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
    memory = function(ggml, "ggml_init", POINTER, Memory)(Memory(MEMORY, None, False))
    address = function(ggml, "ggml_get_data", POINTER, POINTER)
    numbers = (random.normal(0, 3, shape[::-1]) * 10 ** random.uniform(-4, 2, (*shape[:0:-1], 1))).astype(np.float32)
    numbers[0, 0, 0] = 0

    def tensor(values: np.ndarray) -> int:
        new = function(ggml, "ggml_new_tensor_4d", POINTER, POINTER, INTEGER, *[LONG] * 4)
        made: int = new(memory, FLOAT32, *reversed((1,) * (4 - values.ndim) + values.shape))
        ctypes.memmove(address(made), values.ctypes.data, values.nbytes)
        return made

    try:
        norm = function(ggml, "ggml_rms_norm", POINTER, POINTER, POINTER, FLOAT)(memory, tensor(numbers), LEAST)
        both = [norm, tensor(random.normal(0, 1, shape[:1]).astype(np.float32))]
        if weights_first and numbers.size == shape[0]:  # llama.cpp's product has the shape of its first
            both.reverse()
        product = function(ggml, "ggml_mul", POINTER, *[POINTER] * 3)(memory, *both)
        graph = function(ggml, "ggml_new_graph", POINTER, POINTER)(memory)
        function(ggml, "ggml_build_forward_expand", None, POINTER, POINTER)(graph, product)
        function(ggml, "ggml_graph_compute_with_ctx", INTEGER, POINTER, POINTER, INTEGER)(memory, graph, 2)
        result = np.ctypeslib.as_array(ctypes.cast(address(product), ctypes.POINTER(FLOAT)), numbers.shape)
        theirs_has = result.copy()
        result[:] = np.nan
        for thread in range(2):
            parameters = Parameters(thread, 2, 0, None, None, False)
            function(ours, NAME, None, *[POINTER] * 3)(ctypes.addressof(parameters), norm, product)
        return result.copy(), theirs_has
    finally:
        function(ggml, "ggml_free", None, POINTER)(memory)
