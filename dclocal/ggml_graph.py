"""Computations of ggml's, llama.cpp's library below it, on random numbers: what our functions are compared with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

MEMORY = 1 << 24
THREADS = 2
FLOAT32, FLOAT16 = 0, 1
POINTER, SIZE, INTEGER, LONG, FLOAT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64, ctypes.c_float


class Memory(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("size", SIZE), ("buffer", POINTER), ("without_data", ctypes.c_bool))


class Tensor(ctypes.Structure):
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


class Graph:
    """Tensors in memory of the library's own, by their addresses, until the `with` ends."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library

    def __enter__(self) -> Graph:
        self._memory = _function(self._library, "ggml_init", POINTER, Memory)(Memory(MEMORY, None, False))
        return self

    def __exit__(self, *_: object) -> None:
        _function(self._library, "ggml_free", None, POINTER)(self._memory)

    def call(self, name: str, kinds: Sequence[Any], *arguments: Any) -> int:
        """What a function makes of these arguments, after the memory, which are of such kinds."""
        made: int = _function(self._library, name, POINTER, POINTER, *kinds)(self._memory, *arguments)
        return made

    def tensor(self, values: np.ndarray) -> int:
        """A tensor of float32 or float16 numbers, with at most four dimensions."""
        lengths = reversed((1,) * (4 - values.ndim) + values.shape)
        kind = FLOAT16 if values.dtype == np.float16 else FLOAT32
        made = self.call("ggml_new_tensor_4d", (INTEGER, *[LONG] * 4), kind, *lengths)
        ctypes.memmove(self._address(made), values.ctypes.data, values.nbytes)
        return made

    def numbers(self, tensor: int, shape: Sequence[int]) -> np.ndarray:
        """A float32 tensor's numbers, where they are."""
        return np.ctypeslib.as_array(ctypes.cast(self._address(tensor), ctypes.POINTER(FLOAT)), tuple(shape))

    def of(self, result: int) -> Callable[[], object]:
        """What has the library compute a tensor and all that it depends on."""
        graph = self.call("ggml_new_graph", ())
        _function(self._library, "ggml_build_forward_expand", None, POINTER, POINTER)(graph, result)
        compute = _function(self._library, "ggml_graph_compute_with_ctx", INTEGER, POINTER, POINTER, INTEGER)
        return lambda: compute(self._memory, graph, THREADS)

    def _address(self, tensor: int) -> int:
        found: int = _function(self._library, "ggml_get_data", POINTER, POINTER)(tensor)
        return found


def by_two_threads(library: ctypes.CDLL, name: str, *tensors: int) -> None:
    """Call a library's function that computes tensors, for each of two threads in turn."""
    for thread in range(THREADS):
        parameters = Parameters(thread, THREADS, 0, None, None, False)
        _function(library, name, None, POINTER, *[POINTER] * len(tensors))(ctypes.addressof(parameters), *tensors)


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return ctypes.CFUNCTYPE(result, *arguments)((name, library))
