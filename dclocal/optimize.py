"""An exported vision graph made smaller and faster without changing what it computes.

Constants are folded, LayerScale goes into the weights before it, attention, GELU and normalisations are fused, sums
take another order.

optimum's `ORTOptimizer` cannot take these graphs: it looks its fusions up by a transformers `model_type`, knows
neither `siglip_vision_model` nor `clip_vision_model`, and sends `dinov2` to fusions that match none of its attention.
So what it wraps, `onnxruntime.transformers.optimizer`, is called directly, with the fusions made for CLIP, whose
attention all three towers share once it is exported in its plain ("eager") form.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dclocal.fold_sums import fold_sums
from dclocal.graph_files import data_name, is_large, remove, save_graph

FUSED = (
    "MultiHeadAttention",
    "Gelu",
    "BiasGelu",
    "FastGelu",
    "QuickGelu",
    "LayerNormalization",
)
MODEL_TYPE = "clip"


def optimize(source: Path, out: Path, *, heads: int = 0, width: int = 0) -> dict[str, int]:
    """Write the optimized graph of `source` to `out`; how many there are of each kind in `FUSED`.

    `heads` and `width` are those of the vision transformer, for where the graph does not tell them.  Attention is fused
    where it is in its plain ("eager") form.
    """
    import onnx
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    folded = out.with_suffix(".folded.onnx")
    with quiet_logging():
        fold_constants(source, folded)
        graph = onnx.load(folded)
        remove(folded)
        fold_layer_scale(graph)
        fold_padding(graph)
        put_residuals_first(graph)
        options = FusionOptions(MODEL_TYPE)
        options.enable_nhwc_conv = False  # the processor has its own layout
        options.enable_bias_skip_layer_norm = False
        options.enable_rotary_embeddings = False  # none of the towers has any, and they are looked for at length
        graph = optimize_model(graph, MODEL_TYPE, heads, width, opt_level=0, optimization_options=options).model
    open_attention(graph)
    open_skip_norms(graph)
    fold_sums(graph)
    name_nodes(graph)
    save_graph(graph, out)
    return count_fused(graph)


def fold_constants(source: Path, out: Path) -> None:
    """ONNX Runtime's basic, provider-independent simplifications, the weights beside the graph where they are many."""
    _simplify(source, out, "ORT_ENABLE_BASIC", apart=is_large(source))


def fuse_ahead(source: Path, out: Path) -> None:
    """What ONNX Runtime would do to a graph at every start, on any processor; weights go beside the graph.

    Left to it is what is for one kind of processor (the layout of convolutions), and what GPUs have no kernels for
    (convolutions with an activation).
    """
    _simplify(source, out, "ORT_ENABLE_EXTENDED", apart=True, without=("ConvActivationFusion",))


def _simplify(source: Path, out: Path, level: str, *, apart: bool, without: Sequence[str] = ()) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(out)
    if apart:
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data_name(out))
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    onnxruntime.InferenceSession(
        str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
    )


def fold_layer_scale(graph: Any) -> int:
    """Multiply W and b of `(x·W + b)·scale` by the scale; how often.  DINOv2's and ConvNeXt's LayerScale go, which
    stand in the way of the fusions."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    uses.update(value.name for value in graph.graph.output)
    removed = []
    for scaling in graph.graph.node:
        if scaling.op_type != "Mul":
            continue
        scale, added = _constant_and_other(scaling, weights)
        add = producers.get(added)
        if scale is None or add is None or add.op_type != "Add" or uses[added] > 1:
            continue
        bias, product = _constant_and_other(add, weights)
        multiply = producers.get(product)
        if bias is None or multiply is None or multiply.op_type != "MatMul" or uses[product] > 1:
            continue
        weight = weights.get(multiply.input[1])
        if weight is None or list(weights[scale].dims) != [weight.dims[-1]]:
            continue
        factor = numpy_helper.to_array(weights[scale])
        for node, name in ((multiply, weight.name), (add, bias)):
            scaled = numpy_helper.to_array(weights[name]) * factor
            if uses[name] == 1:
                weights[name].CopyFrom(numpy_helper.from_array(scaled, name))
                continue
            own = f"{node.output[0]}.scaled"  # equal weights, such as zeros, are shared
            graph.graph.initializer.append(numpy_helper.from_array(scaled, own))
            node.input[list(node.input).index(name)] = own
        add.output[0] = scaling.output[0]
        removed.append(scaling)
    for node in removed:
        graph.graph.node.remove(node)
    return len(removed)


def fold_padding(graph: Any) -> int:
    """Give a convolution the zeros that a Pad before it adds, TensorFlow's uneven ones too; how many Pads went."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    uses = Counter(name for node in graph.graph.node for name in node.input)
    removed = []
    for node in graph.graph.node:
        pad = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or uses[pad.output[0]] > 1 or pad.input[1] not in weights:
            continue
        if any(pad.input[2:]) or any(value.s != b"constant" for value in pad.attribute):
            continue  # anything but zeros
        amounts = numpy_helper.to_array(weights[pad.input[1]]).tolist()
        before, after = amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]
        if any(before[:2] + after[:2]) or min(amounts) < 0:
            continue
        pads = next(value for value in node.attribute if value.name == "pads")
        total = [own + more for own, more in zip(pads.ints, before[2:] + after[2:])]
        pads.CopyFrom(helper.make_attribute("pads", total))
        node.input[0] = pad.input[0]
        removed.append(pad)
    for pad in removed:
        graph.graph.node.remove(pad)
    return len(removed)


def put_residuals_first(graph: Any) -> None:
    """Order the inputs of every residual sum as the fusions expect them; DINOv2 has them the other way round."""
    uses = Counter(name for node in graph.graph.node for name in node.input)
    for node in graph.graph.node:
        if node.op_type == "Add" and uses[node.input[0]] == 1 and uses[node.input[1]] > 1:
            node.input[:] = [node.input[1], node.input[0]]


def open_attention(graph: Any) -> None:
    """Take the projections out of every Attention node: one MatMul for queries, keys and values, then
    MultiHeadAttention.

    Static int8 and 4-bit weights exist for MatMul alone, so that a third of a transformer would stay in float.
    """
    from onnx import helper

    def opened(node: Any) -> list[Any]:
        name, source = node.output[0], node.input
        attributes = {value.name: helper.get_attribute_value(value) for value in node.attribute}
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        keep = {key: attributes[key] for key in ("num_heads", "scale") if key in attributes}
        return [
            helper.make_node("MatMul", [source[0], source[1]], [f"{name}.qkv_product"]),
            helper.make_node("Add", [f"{name}.qkv_product", source[2]], [f"{name}.qkv"]),
            helper.make_node("Split", [f"{name}.qkv"], parts, axis=-1),
            helper.make_node("MultiHeadAttention", parts, [name], domain="com.microsoft", **keep),
        ]

    _replace_nodes(graph, "Attention", opened)


def open_skip_norms(graph: Any) -> None:
    """Take the sum out of every SkipLayerNormalization.

    The attention fusions need these nodes, the processor does not: at 577 tokens of width 384 one takes 1.0 ms of a
    core, a sum and a LayerNormalization 0.2 ms.
    """
    from onnx import helper

    def opened(node: Any) -> list[Any]:
        epsilon = next(value.f for value in node.attribute if value.name == "epsilon")
        first, skip, scale, shift = node.input
        total = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.output[0]}.sum"
        return [
            helper.make_node("Add", [first, skip], [total]),
            helper.make_node("LayerNormalization", [total, scale, shift], [node.output[0]], axis=-1, epsilon=epsilon),
        ]

    _replace_nodes(graph, "SkipLayerNormalization", opened)


def name_nodes(graph: Any) -> None:
    """Name each node for its first output, which is unique, order the weights by name, and say that what fused nodes
    give is float32, since ONNX's own inference of types does not know them."""
    from onnx import TensorProto, helper

    for node in graph.graph.node:
        node.name = next(name for name in node.output if name)
    weights = sorted(graph.graph.initializer, key=lambda tensor: tensor.name)
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(weights)
    del graph.graph.value_info[:]
    names = [name for node in graph.graph.node if node.domain for name in node.output if name]
    graph.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)


def count_fused(graph: Any) -> dict[str, int]:
    """How many nodes there are of each kind in `FUSED`, without those there are none of."""
    kinds = Counter(node.op_type for node in graph.graph.node)
    return {kind: kinds[kind] for kind in FUSED if kinds[kind]}


@contextmanager
def quiet_logging() -> Iterator[None]:
    """ONNX Runtime's tools log each step, and ask for a preparation that the graph has had."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _replace_nodes(graph: Any, kind: str, make: Callable[[Any], list[Any]]) -> None:
    """Put what `make` gives for each node of a kind in its place."""
    nodes = [new for node in graph.graph.node for new in (make(node) if node.op_type == kind else [node])]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _constant_and_other(node: Any, weights: dict[str, Any]) -> tuple[str | None, str]:
    first, second = node.input
    if first in weights:
        return first, second
    return (second, first) if second in weights else (None, first)
