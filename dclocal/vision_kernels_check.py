"""Whether our operators do what ONNX Runtime means by them, before they take the place of its own.

Each is run in a session of its own, as a graph of one node, and compared with what it should give in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DOMAIN = "com.microsoft"
ATTENTION, PRODUCTS, GELU = "MultiHeadAttention", "DynamicQuantizeMatMul", "BiasGelu"
NEAR = {ATTENTION: 4e-3, PRODUCTS: 1e-5, GELU: 1e-6}
"""The greatest error there may be, of values that are about 1."""
BYTE, SUM = 255, 32767
THREADS = 2


Inputs = dict[str, np.ndarray | None]


class Case(NamedTuple):
    """A node's inputs, which of them are constant, its attributes, and what it should give: one of these."""

    name: str
    inputs: Inputs
    constant: tuple[str, ...]
    attributes: Mapping[str, Any]
    expected: tuple[np.ndarray, ...]

    def error(self, given: np.ndarray) -> float:
        """By how much this differs, at most."""
        return min(float(np.abs(given - each).max()) for each in self.expected)


def difference(library: Path) -> str:
    """Where an operator of the library gives something else than it should, or nothing."""
    ours = operators(library)
    for case in cases(np.random.default_rng(0)):
        if case.name not in ours:
            continue
        worst = case.error(run(library, case))
        if not worst <= NEAR[case.name]:
            shapes = [None if value is None else list(value.shape) for value in case.inputs.values()]
            return f"{case.name} of {shapes} differs by up to {worst}"
    return ""


def operators(library: Path) -> set[str]:
    """The names of those that the library has."""
    import ctypes

    function = ctypes.CDLL(str(library)).operator_name
    function.argtypes, function.restype = (ctypes.c_size_t,), ctypes.c_char_p
    return {name.decode() for name in takewhile(bool, map(function, count()))}


def run(library: Path | None, case: Case) -> np.ndarray:
    """What a session gives, with the library or with ONNX Runtime's own."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    given = {name: value for name, value in case.inputs.items() if value is not None}
    names = [name if value is not None else "" for name, value in case.inputs.items()]
    node = helper.make_node(case.name, names, ["result"], domain=DOMAIN, **case.attributes)
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int8): TensorProto.INT8}
    inputs = [
        helper.make_tensor_value_info(name, kinds[value.dtype], value.shape)
        for name, value in given.items()
        if name not in case.constant
    ]
    graph = helper.make_graph(
        [node],
        "one",
        inputs,
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(given[name], name) for name in case.constant if name in given],
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=onnx.IR_VERSION_2023_5_5)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = THREADS
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {value.name: given[value.name] for value in session.get_inputs()})[0]
    return result


def cases(random: np.random.Generator) -> Iterator[Case]:
    """Less than is taken at a time of each length, and several times that with something left."""
    yield from attention_cases(random)
    yield from product_cases(random)
    for rows, columns in ((37, 1536), (3, 21)):
        inputs: Inputs = {
            "values": random.normal(0, 3, (2, rows, columns)).astype(np.float32),
            "bias": random.normal(0, 1, columns).astype(np.float32),
        }
        yield Case(GELU, inputs, (), {}, (gelu(**inputs),))


def attention_cases(random: np.random.Generator) -> Iterator[Case]:
    """Of batches, queries, keys, heads, numbers of a head, those of a value, and a scale."""
    for batch, queries, keys, heads, width, value_width, scale in (
        (1, 577, 577, 2, 64, 64, None),
        (2, 5, 37, 3, 72, 40, 0.3),
        (1, 50, 1, 1, 16, 17, None),
        (1, 100, 130, 2, 7, 256, 1.0),
        (1, 13, 64, 1, 256, 8, None),
    ):
        query, key, value = (
            random.normal(0, 1, (batch, count, heads * numbers)).astype(np.float32)
            for count, numbers in ((queries, width), (keys, width), (keys, value_width))
        )
        query[:, 0] *= 4  # one that sees few keys
        query[:, 1] = 0  # and one that sees all alike
        if queries > 5:
            query[:, 2] = 300 * key[:, 0]  # scores in thousands
        key[:, -1, 0] = 20  # a number far from the others
        value[:, :, 0] = 1  # and one that is always the same: sums that are the greatest there are
        attributes = {"num_heads": heads} | ({} if scale is None else {"scale": scale})
        expected = attention(query, key, value, heads, scale or 1 / math.sqrt(width))
        yield Case(ATTENTION, {"query": query, "key": key, "value": value}, (), attributes, (expected,))


def product_cases(random: np.random.Generator) -> Iterator[Case]:
    """Of rows, their length, columns, bits of a weight, whether all columns have one scale, and whether there is a
    bias."""
    for rows, length, columns, bits, shared, with_bias in (
        (100, 384, 48, 7, False, True),
        (3, 37, 21, 7, False, False),
        (50, 1536, 16, 8, True, True),
        (7, 4, 33, 8, False, True),
    ):
        limit = 1 << (bits - 1)
        weights = np.clip(np.round(random.normal(0, limit / 3, (length, columns))), -limit, limit - 1).astype(np.int8)
        weights[:, 1], weights[:, 2] = limit - 1, -limit  # sums that are the greatest there are
        values = random.normal(0, 1, (2, rows, length)).astype(np.float32)
        values[0, 0], values[0, 1], values[0, 2] = 0, 3, -np.abs(values[0, 2])
        scales = random.uniform(0.2, 1, 1 if shared else columns) / limit / math.sqrt(length)
        inputs: Inputs = {
            "values": values,
            "weights": weights,
            "scales": scales.astype(np.float32),
            "zeros": None if shared else np.zeros(columns, np.int8),
            "bias": random.normal(0, 1, columns).astype(np.float32) if with_bias else None,
        }
        expected = tuple(products(limited=limited, **inputs) for limited in (False, True))
        yield Case(PRODUCTS, inputs, ("weights", "scales", "zeros"), {}, expected)


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int, scale: float) -> np.ndarray:
    """Of `[batch, tokens, heads × numbers]`, in float64."""

    def apart(of: np.ndarray) -> np.ndarray:
        return of.astype(np.float64).reshape(*of.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    scores = scale * apart(query) @ apart(key).swapaxes(2, 3)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    seen = powers / powers.sum(-1, keepdims=True) @ apart(value)
    return seen.transpose(0, 2, 1, 3).reshape(*query.shape[:2], -1)


def products(values: Any, weights: Any, scales: Any, zeros: Any, bias: Any, *, limited: bool) -> np.ndarray:
    """Of `[..., length]` and `[length, columns]`, exactly, of activations as `kernels/vision/products.c` has them.

    Those are `limited` without VNNI, where two weights are too heavy for all of a byte.
    """
    pairs = np.pad(weights.astype(int), ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    heaviest = max(np.maximum(pairs, 0).sum(1).max(), np.maximum(-pairs, 0).sum(1).max())
    greatest = np.float32(min(BYTE, SUM // heaviest) if limited else BYTE)
    least = np.minimum(values.min(-1, keepdims=True), 0)
    extent = np.maximum(values.max(-1, keepdims=True), 0) - least
    factor = np.divide(greatest, extent, out=np.zeros_like(extent), where=extent > 0)
    zero = np.rint(-least * factor)
    whole = np.clip(np.rint(values * factor) + zero, 0, greatest)
    unit = np.divide(np.float32(1), factor, out=np.zeros_like(factor), where=factor > 0)
    exact: np.ndarray = (whole - zero).astype(np.float64) @ weights.astype(np.float64) * unit * scales
    return exact if bias is None else exact + bias


def gelu(values: Any, bias: Any) -> np.ndarray:
    """In float64."""
    total = (values + bias).astype(np.float64)
    erf = np.vectorize(math.erf, otypes=[np.float64])
    result: np.ndarray = total / 2 * (1 + erf(total / math.sqrt(2)))
    return result
