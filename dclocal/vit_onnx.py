"""The DINOv2 weights inside the saliency model's ONNX file, as numpy arrays under transformers' names.

Linear weights stand there transposed, as anonymous inputs of named MatMul nodes; the position embeddings
are two constants, the class token's and the 37×37 grid's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PREFIX = "backbone."


def read_vit_weights(onnx_file: Path) -> dict[str, np.ndarray]:
    """float32 weights of `Dinov2Model` (without its mask token); raises BundleError where one is missing."""
    import onnx
    from onnx import numpy_helper

    from dclocal.errors import BundleError

    graph = onnx.load(onnx_file).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = {
        name.removeprefix(PREFIX): numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }
    for node in graph.node:
        matrix = tensors.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is not None and node.name.startswith("/backbone/"):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = np.ascontiguousarray(numpy_helper.to_array(matrix).T)
    positions = [
        numpy_helper.to_array(tensor)
        for tensor in tensors.values()
        if list(tensor.dims) in ([1, 1, 384], [1, 1369, 384]) and tensor.name.startswith("onnx::")
    ]
    if len(positions) != 2 or "encoder.layer.11.mlp.fc2.weight" not in weights:
        raise BundleError(f"{onnx_file} does not hold the vision transformer expected", "remove it and pull again")
    weights["embeddings.position_embeddings"] = np.concatenate(sorted(positions, key=lambda a: a.shape[1]), axis=1)
    return weights
