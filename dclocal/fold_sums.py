"""Sums of an exported vision graph in an order that takes less time: means of layers, and sums of looked-up rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

TO_THE_END = (1 << 31) - 1
"""Where exporters have a slice end that has no end."""


def fold_sums(graph: Any) -> tuple[int, int]:
    """Mend both kinds of a float32 graph, in place; how many there were of each.

    A mean of layers, as dense connectors have it, cuts the class token off each layer and puts the rest side by side;
    adding the layers and cutting once needs neither.  Rows that are looked up by a table `[n, k]` and added by k lie
    far from each other; turned, they are added as k long rows.
    """
    from onnxruntime.transformers.onnx_model import OnnxModel

    means, lookups = 0, 0
    if any(value.HasField("g") for node in graph.graph.node for value in node.attribute):
        return means, lookups  # a graph within may read anything of this one
    nodes: list[Any] = []
    parts = _Parts(graph)
    for node in graph.graph.node:
        mended = parts.mean_of_layers(node) or parts.sum_of_rows(node)
        means += bool(mended) and node.op_type == "ReduceMean"
        lookups += bool(mended) and node.op_type == "ReduceSum"
        nodes.extend(mended or [node])
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    OnnxModel(graph).prune_graph(allow_remove_graph_inputs=False)
    return means, lookups


class _Parts:
    """The graph's nodes and weights by name, as they were."""

    def __init__(self, graph: Any):
        self._graph = graph.graph
        given = {value.name for value in graph.graph.input}
        self._weights = {tensor.name: tensor for tensor in graph.graph.initializer if tensor.name not in given}
        self._producers = {name: node for node in graph.graph.node for name in node.output}
        self._uses = Counter(name for node in graph.graph.node for name in node.input)
        self._uses.update(value.name for value in graph.graph.output)

    def mean_of_layers(self, mean: Any) -> list[Any]:
        """What does the same as ReduceMean(Concat(Unsqueeze(x), Unsqueeze(y), ...)), where the node is that."""
        import numpy as np
        from onnx import helper

        concat = self._only_source(mean, "Concat")
        if mean.op_type != "ReduceMean" or self._axes(mean) != [0] or _attribute(mean, "keepdims", 1) or concat is None:
            return []
        stacked = [self._producers.get(name) for name in concat.input]
        if _attribute(concat, "axis", 0) or any(
            node is None or node.op_type != "Unsqueeze" or self._axes(node) != [0] for node in stacked
        ):
            return []
        layers = [node.input[0] for node in stacked if node is not None]
        cut = self._same_cut(layers)
        if cut is not None:
            layers = [self._producers[name].input[0] for name in layers]
        result, total, nodes = mean.output[0], layers[0], []
        for i, layer in enumerate(layers[1:]):
            nodes.append(helper.make_node("Add", [total, layer], [f"{result}.sum{i}"]))
            total = f"{result}.sum{i}"
        share = self._constant(f"{result}.share", np.asarray(1 / len(layers), np.float32))
        scaled = result if cut is None else f"{result}.whole"
        nodes.append(helper.make_node("Mul", [total, share], [scaled]))
        if cut is not None:
            nodes.append(helper.make_node("Slice", [scaled, *cut.input[1:]], [result]))
        return nodes

    def _same_cut(self, layers: list[str]) -> Any:
        """The Slice that makes the first layer, where all are made by one that cuts the same, from a place to the end:
        layers of one length after it had one before."""
        from onnx import numpy_helper

        cuts = [self._producers.get(name) for name in layers]
        if any(node is None or node.op_type != "Slice" or len(node.input) < 3 for node in cuts):
            return None
        first = cuts[0]
        assert first is not None
        ends = self._weights.get(first.input[2])
        if ends is None or numpy_helper.to_array(ends).min() < TO_THE_END:
            return None
        return first if all(node is not None and node.input[1:] == first.input[1:] for node in cuts) else None

    def sum_of_rows(self, total: Any) -> list[Any]:
        """What does the same as ReduceSum(Gather(rows, table), 1), where the node is that and the table constant."""
        import numpy as np
        from onnx import helper, numpy_helper

        gather = self._only_source(total, "Gather")
        if (
            total.op_type != "ReduceSum"
            or len(total.input) < 2
            or self._axes(total) != [1]
            or _attribute(total, "keepdims", 1)
        ):
            return []
        table = None if gather is None else self._weights.get(gather.input[1])
        if table is None or len(table.dims) != 2 or _attribute(gather, "axis", 0):
            return []
        result = total.output[0]
        turned = self._constant(f"{result}.table", np.ascontiguousarray(numpy_helper.to_array(table).T))
        first = self._constant(f"{result}.axes", np.zeros(1, np.int64))
        return [
            helper.make_node("Gather", [gather.input[0], turned], [f"{result}.rows"], axis=0),
            helper.make_node("ReduceSum", [f"{result}.rows", first], [result], keepdims=0),
        ]

    def _only_source(self, node: Any, kind: str) -> Any:
        """What makes the node's first input, where that is of this kind and nobody else's."""
        source = self._producers.get(node.input[0]) if node.input else None
        return source if source is not None and source.op_type == kind and self._uses[node.input[0]] == 1 else None

    def _axes(self, node: Any) -> list[int]:
        """Given as an attribute or, by later versions of operators, as an input."""
        from onnx import numpy_helper

        tensor = self._weights.get(node.input[1]) if len(node.input) > 1 else None
        if tensor is not None:
            return [int(axis) for axis in numpy_helper.to_array(tensor)]
        return list(_attribute(node, "axes", []))

    def _constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _attribute(node: Any, name: str, otherwise: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(value) for value in node.attribute if value.name == name), otherwise)
