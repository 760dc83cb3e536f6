"""Export in small: the graph must be the model, at any batch size, and a merge must land where the adapter acts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dclocal.assemble import fill_graph, quantize_vision
from dclocal.errors import BundleError
from dclocal.optimize import fuse_ahead, optimize
from dclocal_export.parity import compare_embeds, run_graph
from dclocal_export.parts import export_graph, shipped_vision_weights
from dclocal_export.vision_onnx import export_vision
from tests.tiny import tiny_model
from tests.tiny_files import largest_int8


@pytest.mark.parametrize("backbone", ["dinov2", "dinov2+efficientnet_lite2"])
def test_graph_equals_the_model(backbone: str, tmp_path: Path) -> None:
    model = tiny_model(backbone).eval()
    export_vision(model, tmp_path / "vision.onnx")
    pixels = torch.randn(3, 3, 56, 56)
    with torch.no_grad():
        expected = model.encode_images(pixels).numpy()
    np.testing.assert_allclose(run_graph(tmp_path / "vision.onnx", pixels.numpy()), expected, atol=1e-5)
    np.testing.assert_allclose(run_graph(tmp_path / "vision.onnx", pixels[:1].numpy()), expected[:1], atol=1e-5)
    optimize(tmp_path / "vision.onnx", tmp_path / "fused.onnx")
    quantize_vision(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    quantized = onnx.load(tmp_path / "int8.onnx").graph
    assert "MatMulInteger" in {node.op_type for node in quantized.node}  # quantized at all
    assert 60 < largest_int8(quantized) <= 64  # 2 · 64 · 255 fits into 16 bits, in which some processors add
    assert compare_embeds(run_graph(tmp_path / "int8.onnx", pixels.numpy()), expected)["cosine_min"] > 0.99


def test_what_is_fused_ahead_is_what_each_start_would_fuse(tmp_path: Path) -> None:
    """The same embeddings; nothing for one kind of processor, and no convolution that GPUs have no kernel for."""
    model = tiny_model("dinov2+efficientnet_lite2").eval()
    export_vision(model, tmp_path / "vision.onnx")
    optimize(tmp_path / "vision.onnx", tmp_path / "fused.onnx")
    quantize_vision(tmp_path / "fused.onnx", tmp_path / "int8.onnx")
    fuse_ahead(tmp_path / "int8.onnx", tmp_path / "ahead.onnx")
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    expected = run_graph(tmp_path / "int8.onnx", pixels)
    np.testing.assert_array_equal(run_graph(tmp_path / "ahead.onnx", pixels), expected)
    before, after = (
        Counter(node.op_type for node in onnx.load(tmp_path / name, load_external_data=False).graph.node)
        for name in ("int8.onnx", "ahead.onnx")
    )
    assert after["DynamicQuantizeMatMul"] > 0 == after["MatMulInteger"]
    assert before["MatMulInteger"] == after["DynamicQuantizeMatMul"] + after["MatMulIntegerToFloat"]
    assert before["Conv"] == after["Conv"] > 0 and after.total() < before.total()
    assert not {"FusedConv", "ReorderInput"} & after.keys()
    assert (tmp_path / "ahead.onnx.data").stat().st_size > (tmp_path / "ahead.onnx").stat().st_size


def test_an_empty_graph_is_filled_by_name(tmp_path: Path) -> None:
    """The graph ships without weights; filled with them it is the model again."""
    model = tiny_model().eval()
    export_graph(model, tmp_path / "empty.onnx")
    assert (tmp_path / "empty.onnx").stat().st_size < 400_000
    names = {f"vision.{name}": tensor for name, tensor in model.vision.state_dict().items()}
    names |= {f"connector.{name}": tensor for name, tensor in model.connector.state_dict().items()}
    weights = {name: tensor.numpy() for name, tensor in names.items()}
    fill_graph(tmp_path / "empty.onnx", weights, tmp_path / "full.onnx")
    pixels = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        expected = model.encode_images(pixels).numpy()
    np.testing.assert_allclose(run_graph(tmp_path / "full.onnx", pixels.numpy()), expected, atol=1e-5)
    del weights["connector.projector.0.weight"]
    with pytest.raises(BundleError, match="connector.projector.0.weight is missing"):
        fill_graph(tmp_path / "empty.onnx", weights, tmp_path / "full.onnx")


def test_what_ships_leaves_the_towers_out() -> None:
    """The user's machine has the vision transformer from its package; shipping it would add 85 MB."""
    names = set(shipped_vision_weights(tiny_model("dinov2+efficientnet_lite2")))
    transformer = {name for name in names if name.startswith("vision.vit.tower.")}
    assert transformer == {"vision.vit.tower.embeddings.position_embeddings"}
    assert "vision.conv.stem.weight" in names and "connector.projector.2.bias" in names


def test_rows_of_queries_and_keys_are_reordered() -> None:
    """Against the rotary embeddings themselves: transformers rotates (i, i + d/2), llama.cpp (2i, 2i + 1)."""
    from dclocal.gguf_merge import _reorder

    rows = np.arange(2 * 8, dtype=np.float32)[:, None]  # two heads of eight
    assert _reorder(rows, 2)[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert _reorder(rows, 2)[8:, 0].tolist() == [8, 12, 9, 13, 10, 14, 11, 15]
    assert _reorder(rows, 0) is rows
