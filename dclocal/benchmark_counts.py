"""The work that a bundle's two models must do, counted from their files: multiply-adds, and bytes of weights.

The vision graph is counted by the shapes that ONNX Runtime infers for one picture, the language model by the shapes
of its GGUF's tensors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

LOOKUPS = ("token_embd.weight", "position_embd.weight", "token_types.weight")
"""Tables of which one row is read for a token."""
FLOAT_TYPES = ("F32", "F16", "BF16")
Shape = Sequence[int]


@dataclass(frozen=True)
class GraphCount:
    """Multiply-adds of a graph for one picture, by the kind of number; `uncounted` are nodes of unknown shape."""

    int8: int
    float32: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class LlmCount:
    """A language model's work.

    Multiply-adds: `matrices` for each token, `output` for each position whose logits are wanted, `attention` for
    each pair of a position and one that it looks at.  `weight_bytes` are read for one token.  `quantized`: whether
    most of its matrices are of whole numbers.
    """

    matrices: int
    output: int
    attention: int
    weight_bytes: int
    quantized: bool

    def prefill(self, tokens: int) -> int:
        """Multiply-adds of evaluating `tokens` positions from an empty cache, logits after the last alone."""
        return tokens * self.matrices + self.output + self.attention * tokens * (tokens + 1) // 2


def _conv(shapes: Sequence[Shape], out: Shape, attributes: Mapping[str, Any]) -> int:
    return prod(out) * prod(shapes[1][1:])  # a weight is [out channels, in channels of a group, height, width]


def _quantized_conv(shapes: Sequence[Shape], out: Shape, attributes: Mapping[str, Any]) -> int:
    return prod(out) * prod(shapes[3][1:])


def _transposed_conv(shapes: Sequence[Shape], out: Shape, attributes: Mapping[str, Any]) -> int:
    return prod(shapes[0]) * prod(shapes[1][1:])


def _matmul(shapes: Sequence[Shape], out: Shape, attributes: Mapping[str, Any]) -> int:
    return prod(out) * shapes[0][-2 if attributes.get("transA") else -1]


def _fused_attention(shapes: Sequence[Shape], out: Shape, attributes: Mapping[str, Any]) -> int:
    queries, keys = shapes[0], shapes[1]
    return keys[-2] * (prod(queries) + prod(out))


Rule = Callable[[Sequence[Shape], Shape, Mapping[str, Any]], int]
FLOAT_RULES: dict[str, Rule] = {
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvTranspose": _transposed_conv,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _matmul,
    "FusedGemm": _matmul,
    "MultiHeadAttention": _fused_attention,
}
INT8_RULES: dict[str, Rule] = {
    "ConvInteger": _conv,
    "QLinearConv": _quantized_conv,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "QGemm": _matmul,
    "MatMulNBits": _matmul,
}


def count_graph(file: Path) -> GraphCount:
    """Multiply-adds of an ONNX graph's products and convolutions for a batch of one; the rest is not counted."""
    graph = one_picture_graph(file).graph
    shapes = _shapes(graph)
    found, uncounted = {"int8": 0, "float32": 0}, []
    for node in graph.node:
        kind = "int8" if node.op_type in INT8_RULES else "float32"
        rule = INT8_RULES.get(node.op_type) or FLOAT_RULES.get(node.op_type)
        if rule is None:
            continue
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        try:
            found[kind] += rule([shapes.get(name, ()) for name in node.input], shapes[node.output[0]], attributes)
        except (KeyError, IndexError):
            uncounted.append(node.name or node.op_type)
    return GraphCount(found["int8"], found["float32"], tuple(uncounted))


def one_picture_graph(file: Path) -> Any:
    """The ONNX model with a batch of one, its constants folded, and every shape that can be inferred."""
    import onnx
    import onnxruntime

    model = onnx.load(file)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
    return onnx.shape_inference.infer_shapes(folded)  # ONNX Runtime leaves some out, of DynamicQuantizeLinear


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by name, those alone that are known in full."""
    shapes: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def count_llm(file: Path) -> LlmCount:
    """A GGUF's work for a token.  Of experts, those are counted that a token goes through."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    names = {tensor.name for tensor in reader.tensors}
    head = "output.weight" if "output.weight" in names else "token_embd.weight"
    matrices = output = 0
    read = 0.0
    elements = {True: 0, False: 0}
    for tensor in reader.tensors:
        size, share = [int(side) for side in tensor.shape], _share(reader, tensor.name)
        if tensor.name in LOOKUPS and tensor.name != head:
            read += int(tensor.n_bytes) / size[-1]
            continue
        read += share * int(tensor.n_bytes)
        if tensor.name == head:
            output = prod(size)
        elif len(size) > 1:
            matrices += round(share * prod(size))
        if len(size) > 1:
            elements[tensor.tensor_type.name not in FLOAT_TYPES] += prod(size)
    return LlmCount(matrices, output, _attention(reader), round(read), elements[True] > elements[False])


def _field(reader: Any, name: str, default: Any = None) -> Any:
    """A value of the architecture's own metadata."""
    architecture = reader.fields["general.architecture"].contents()
    field = reader.fields.get(f"{architecture}.{name}")
    return default if field is None else field.contents()


def _share(reader: Any, tensor_name: str) -> float:
    """The part of a tensor that one token goes through."""
    if "_exps." not in tensor_name:
        return 1.0
    return float(_field(reader, "expert_used_count", 1)) / float(_field(reader, "expert_count", 1))


def _attention(reader: Any) -> int:
    """Multiply-adds of all layers for one position looking at one position: its key and its value."""
    heads, layers = _field(reader, "attention.head_count"), _field(reader, "block_count")
    each = heads if isinstance(heads, list) else [heads] * layers
    width = _field(reader, "embedding_length") // max(each)
    key, value = _field(reader, "attention.key_length", width), _field(reader, "attention.value_length", width)
    return int(sum(each)) * (int(key) + int(value))
