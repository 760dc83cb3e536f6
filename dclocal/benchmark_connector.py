"""The connector by itself: the part of a vision graph whose nodes bear the connector's name, cut out to be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dclocal.benchmark import Measure, repeated, summary, timed
from dclocal.benchmark_counts import one_picture_graph
from dclocal.bundle import Bundle

PREFIX = "/connector/"


def measure_connector(bundle: Bundle, threads: int, runs: int) -> Measure | None:
    """The connector of a bundle's graph for one picture; None where its nodes cannot be told from the others."""
    run = cut_connector(bundle, threads)
    return run and summary("connector alone, 1 picture", "ms", repeated(partial(timed, run), runs))


def cut_connector(bundle: Bundle, threads: int) -> Callable[[], Sequence[np.ndarray]] | None:
    """What takes the backbone's hidden states of a grey picture, computed once, to its embeddings
    `[1, tokens, n_embd]`; None where the connector's nodes cannot be told from the others."""
    import onnxruntime
    from onnx import helper

    model = one_picture_graph(bundle.vision_path)
    inner, outer = [], []
    made: set[str] = set()
    for node in model.graph.node:  # in the order of their dependence: what follows the connector belongs to it
        if node.name.startswith(PREFIX) or made.intersection(node.input):
            inner.append(node)
            made.update(node.output)
        else:
            outer.append(node)
    wanted = {name for node in inner for name in node.input if name}
    given = sorted(wanted & {name for node in outer for name in node.output})
    if not given:
        return None
    pixels = model.graph.input[0]
    size = bundle.manifest.vision.image.size
    towers = _part(model, outer, [pixels], [_untyped(name) for name in given])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    open_session = onnxruntime.InferenceSession
    tower = open_session(towers.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = tower.run(given, {pixels.name: np.zeros((1, 3, size, size), np.float32)})
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(given, values)
    ]
    part = _part(model, inner, inputs, model.graph.output)
    session = open_session(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = dict(zip(given, values))
    return lambda: session.run(None, feeds)


def _untyped(name: str) -> Any:
    """A tensor whose type ONNX Runtime finds out."""
    from onnx import ValueInfoProto

    return ValueInfoProto(name=name)


def _part(model: Any, nodes: list[Any], inputs: list[Any], outputs: Sequence[Any]) -> Any:
    """A model of these nodes, with the constants that they use."""
    from onnx import helper

    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = helper.make_graph(nodes, "part", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
