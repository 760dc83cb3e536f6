"""Whether our kernels do what llama.cpp's own do, before they take their place: the products to the bit."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from dclocal import llama_attention_check, llama_norms_check
from dclocal.ggml_graph import Parameters

NAMES = ("ggml_gemm_iq4_nl_8x8_q8_0", "ggml_gemm_q4_0_8x8_q8_0")
OF_ONE_ROW = {name: name.replace("gemm", "gemv") for name in NAMES}
"""Those that go with them; we have them for processors with VNNI alone."""
OF_BYTES = "llamafile_sgemm"
"""The one for eight-bit weights and a few rows, for processors with VNNI alone."""
ONE_BY_ONE = "ggml_vec_dot_q8_0_q8_0"
"""What llama.cpp takes for one row in its place."""
BYTES, FLOATS = 8, 0
"""ggml's numbers of their types."""
BLOCK = 32
SHAPES = ((32, 4, 8), (576, 68, 24), (544, 212, 56), (1536, 20, 48), (8224, 4, 24))
"""Lengths, rows and columns: less than is taken at a time of each, and several times that with something left."""
BYTE_SHAPES = ((576, 1, 70), (32, 2, 3), (576, 4, 50), (1536, 7, 9), (64, 9, 1), (576, 16, 31))
"""Lengths, rows and columns, in eight bits."""
EXTREMES = (0x00, 0x77, 0x88, 0xFF)
"""Two nibbles each that stand for the least or the greatest weight of one kind or the other."""
COLUMNS = np.dtype([("scale", "<f2", 8), ("nibbles", "u1", 8 * BLOCK // 2)])
ROWS = np.dtype([("scale", "<f2", 4), ("values", "i1", 4 * BLOCK)])
ONE_ROW = np.dtype([("scale", "<f2"), ("values", "i1", BLOCK)])
"""llama.cpp's layouts: a block of eight columns of weights, one of four rows of activations, and one of one."""


def difference(ours: Path, *theirs: Path) -> str:
    """Where a function of the library `ours` differs from that of the last of `theirs`, or nothing.

    The others of `theirs` are what that needs.
    """
    for needed in theirs[:-1]:
        ctypes.CDLL(str(needed), ctypes.RTLD_GLOBAL)
    libraries = ctypes.CDLL(str(ours)), ctypes.CDLL(str(theirs[-1]))
    libraries[1].ggml_cpu_init()  # its table of float16, which one row's products look scales up in
    checks = (_of_products, _of_bytes, llama_norms_check.difference, llama_attention_check.difference)
    return next(filter(None, (check(*libraries) for check in checks)), "")


def _of_products(*libraries: ctypes.CDLL) -> str:
    """The same for products alone.  Weights, activations and scales are random, with the extremes of each."""
    random = np.random.default_rng(0)
    for name in NAMES:
        for length, rows, columns in SHAPES:
            left = _weights(random, length, columns)
            kernels = (name, rows, _activations(random, length, rows)), (OF_ONE_ROW[name], 1, _one_row(random, length))
            for kernel, count, right in kernels:
                if not hasattr(libraries[0], kernel):
                    continue
                ours_has, theirs_has = (_product(library, kernel, left, right, count) for library in libraries)
                if ours_has.tobytes() != theirs_has.tobytes():
                    worst = np.abs(ours_has - theirs_has).max()
                    return f"{kernel} of {count} rows, {columns} columns and length {length} differs by up to {worst}"
    return ""


def _of_bytes(*libraries: ctypes.CDLL) -> str:
    """The same for eight-bit weights, by one thread and by three."""
    random = np.random.default_rng(0)
    if not hasattr(libraries[0], OF_BYTES):
        return ""
    for length, rows, columns in BYTE_SHAPES:
        left, right = (np.stack([_one_row(random, length) for _ in range(count)]) for count in (columns, rows))
        left["values"][0, 0], left["values"][-1, 0] = -128, 127
        for threads in (1, 3):
            ours_has, theirs_has = (_product_of_bytes(library, left, right, threads) for library in libraries)
            if ours_has.tobytes() != theirs_has.tobytes():
                worst = np.abs(ours_has - theirs_has).max()
                return f"{OF_BYTES} of {rows} rows, {columns} columns and length {length} differs by up to {worst}"
    return ""


def _product_of_bytes(library: ctypes.CDLL, left: np.ndarray, right: np.ndarray, threads: int) -> np.ndarray:
    """The library's product, float32 `[rows, columns]`, by llama.cpp's arguments."""
    (columns, depth), rows = left.shape, len(right)
    result = np.full((rows, columns + 5), np.nan, np.float32)  # rows need not follow one another
    pointer, size, kind = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    apart = np.zeros((columns, depth + 3), ONE_ROW)
    apart[:, :depth] = left
    call = ctypes.CFUNCTYPE(
        ctypes.c_bool, pointer, size, size, size, pointer, size, pointer, size, pointer, size, kind, kind, kind
    )((OF_BYTES, library))
    for thread in range(threads):
        parameters = Parameters(thread, threads, 0, None, None, False)
        where = (apart.ctypes.data, depth + 3, right.ctypes.data, depth, result.ctypes.data, columns + 5)
        if not call(ctypes.addressof(parameters), columns, rows, depth, *where, BYTES, BYTES, FLOATS):
            return _one_by_one(library, left, right)
    assert np.isnan(result[:, columns:]).all(), "nothing is written beside it"
    return result[:, :columns]


def _one_by_one(library: ctypes.CDLL, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The same of a library that leaves one row to another function, which gives one number."""
    result = np.full((len(right), len(left)), np.nan, np.float32)
    pointer, size, count = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    dot = ctypes.CFUNCTYPE(None, count, pointer, size, pointer, size, pointer, size, count)((ONE_BY_ONE, library))
    for (row, column), _ in np.ndenumerate(result):
        to = result[row, column:]
        dot(BLOCK * left.shape[1], to.ctypes.data, 0, left[column].ctypes.data, 0, right[row].ctypes.data, 0, 1)
    return result


def _weights(random: np.random.Generator, length: int, columns: int) -> np.ndarray:
    """Blocks `[columns / 8, length / 32]`."""
    blocks = np.zeros((columns // 8, length // BLOCK), COLUMNS)
    blocks["scale"] = random.normal(0, 0.01, blocks["scale"].shape)
    blocks["nibbles"] = random.integers(0, 256, blocks["nibbles"].shape)
    blocks["nibbles"][0] = random.choice(EXTREMES, (*blocks["nibbles"][0].shape[:-1], 1))
    return blocks


def _activations(random: np.random.Generator, length: int, rows: int) -> np.ndarray:
    """Blocks `[rows / 4, length / 32]`."""
    blocks = np.zeros((rows // 4, length // BLOCK), ROWS)
    blocks["scale"] = random.uniform(0, 0.05, blocks["scale"].shape)
    blocks["values"] = random.integers(-127, 128, blocks["values"].shape)
    blocks["values"][0] = random.choice([-127, 127], (*blocks["values"][0].shape[:-1], 1))
    return blocks


def _one_row(random: np.random.Generator, length: int) -> np.ndarray:
    """Blocks `[length / 32]`."""
    blocks = np.zeros(length // BLOCK, ONE_ROW)
    blocks["scale"] = random.uniform(0, 0.05, blocks["scale"].shape)
    blocks["values"] = random.integers(-127, 128, blocks["values"].shape)
    blocks["values"][0] = random.choice([-127, 127])
    return blocks


def _product(library: ctypes.CDLL, name: str, left: np.ndarray, right: np.ndarray, rows: int) -> np.ndarray:
    """The library's product, float32 `[rows, columns]`, by llama.cpp's arguments."""
    columns, length = 8 * len(left), BLOCK * left.shape[1]
    result = np.full((rows, columns), np.nan, np.float32)
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    call = ctypes.CFUNCTYPE(None, integer, pointer, ctypes.c_size_t, pointer, pointer, integer, integer)
    call((name, library))(length, result.ctypes.data, columns, left.ctypes.data, right.ctypes.data, rows, columns)
    return result
