"""What a share of the machine's limit is computed from: with a wrong count, a slow stage would look like a fast one."""

from __future__ import annotations

import dataclasses
from math import prod
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from dclocal.benchmark import Measure
from dclocal.benchmark_connector import cut_connector
from dclocal.benchmark_counts import GraphCount, LlmCount, count_graph, count_llm
from dclocal.benchmark_limits import Peaks, limits, measure_peaks
from dclocal.fake import fake_bundle
from dclocal.llama_model import load_model
from tests.tiny_files import write_tiny_gguf

FLOAT, BATCH = TensorProto.FLOAT, "batch"


def write_graph(
    file: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: tuple[int, ...], fused: tuple[str, ...] = ()
) -> Path:
    """A graph from `x`, a batch of float32 of `shape`, to `y`, whose type is that of its last node.

    What `fused` nodes give has the shape of `x`, of one picture, and says so.
    """
    whole = nodes[-1].op_type in ("MatMulInteger", "ConvInteger")
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, [BATCH, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.INT32 if whole else FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
        value_info=[helper.make_tensor_value_info(name, FLOAT, [1, *shape]) for name in fused],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(graph, opset_imports=domains, ir_version=8), file)
    return file


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def test_a_matrix_product_of_one_picture(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    file = write_graph(tmp_path / "graph.onnx", [node], {"w": zeros(7, 3)}, (5, 7))
    assert count_graph(file) == GraphCount(0, 5 * 7 * 3)


def test_attention_and_a_shape_that_is_computed(tmp_path: Path) -> None:
    """Exported graphs compute their shapes from the batch; 2 heads of 5 places of width 4 look at each other."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "sides"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["x", "wanted"], ["heads"]),
        helper.make_node("Transpose", ["heads"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["heads", "turned"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "one": np.array([1]), "sides": np.array([2, 5, 4])}
    assert count_graph(write_graph(tmp_path / "graph.onnx", nodes, constants, (40,))) == GraphCount(0, 2 * 5 * 5 * 4)


def test_fused_attention(tmp_path: Path) -> None:
    """Five places look at each other, in whatever heads: two products of 5 × 5 × 8."""
    nodes = [
        helper.make_node("MultiHeadAttention", ["x", "x", "x"], ["seen"], domain="com.microsoft", num_heads=2),
        helper.make_node("Relu", ["seen"], ["y"]),
    ]
    file = write_graph(tmp_path / "graph.onnx", nodes, {}, (5, 8), fused=("seen",))
    assert count_graph(file) == GraphCount(0, 2 * 5 * 5 * 8)


def test_a_convolution_in_groups(tmp_path: Path) -> None:
    """Six maps of 4×4, each cell of 3×3 places in two of the four channels."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    file = write_graph(tmp_path / "graph.onnx", [node], {"w": zeros(6, 2, 3, 3)}, (4, 8, 8))
    assert count_graph(file) == GraphCount(0, 6 * 4 * 4 * 2 * 3 * 3)


def test_a_transposed_factor(tmp_path: Path) -> None:
    """Gemm takes x `[1, 7]` and w `[3, 7]` turned."""
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    assert count_graph(write_graph(tmp_path / "graph.onnx", [node], {"w": zeros(3, 7)}, (7,))) == GraphCount(0, 21)


def test_quantized_products_count_as_int8(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("ConvInteger", ["q", "c", "zero"], ["maps"], kernel_shape=[2, 2]),
        helper.make_node("Cast", ["maps"], ["floats"], to=FLOAT),
        helper.make_node("MatMul", ["floats", "f"], ["again"]),
        helper.make_node("DynamicQuantizeLinear", ["again"], ["q2", "scale2", "zero2"]),
        helper.make_node("MatMulInteger", ["q2", "w", "zero2"], ["y"]),
    ]
    constants = {"c": zeros(2, 3, 2, 2, dtype=np.int8), "f": zeros(4, 6), "w": zeros(6, 8, dtype=np.int8)}
    counted = count_graph(write_graph(tmp_path / "graph.onnx", nodes, constants, (3, 5, 5)))
    maps = 2 * 4 * 4
    assert counted == GraphCount(int8=maps * 3 * 2 * 2 + 2 * 4 * 6 * 8, float32=maps * 6)


def test_what_quantizing_makes_of_a_graph_is_as_much_work(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    constants = {"a": np.ones((16, 32), np.float32), "b": np.ones((32, 8), np.float32)}
    file = write_graph(tmp_path / "graph.onnx", nodes, constants, (9, 16))
    quantize_dynamic(file, tmp_path / "int8.onnx", op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    work = 9 * (16 * 32 + 32 * 8)
    assert count_graph(file) == GraphCount(0, work)
    assert count_graph(tmp_path / "int8.onnx") == GraphCount(work, 0)


def test_a_language_model_by_hand(tmp_path: Path) -> None:
    """Two layers of width 32 (four square matrices, three of 32×64), 260 tokens, two heads of 16."""
    counted = count_llm(write_tiny_gguf(tmp_path / "tiny.gguf"))
    matrices, output, norms, row = 2 * (4 * 32 * 32 + 3 * 32 * 64), 260 * 32, 5 * 32, 32
    assert counted == LlmCount(matrices, output, 2 * 2 * (16 + 16), 4 * (matrices + output + norms + row), False)
    assert counted.prefill(3) == 3 * matrices + output + 128 * (1 + 2 + 3)


@pytest.mark.bundle
def test_the_embedded_models_bytes_are_llama_cpps(sources: dict[str, Path]) -> None:
    """Its table of tokens is its output, too, so every byte of it is read for each token."""
    model = load_model(sources["llm"])
    counted = count_llm(sources["llm"])
    assert counted.weight_bytes == llama.llama_model_size(model.pointer) and counted.quantized
    norms = 61 * 576
    assert counted.matrices + counted.output + norms == llama.llama_model_n_params(model.pointer)
    model.close()


def test_shares_of_the_limit() -> None:
    names = ["vision encode, 1 picture", *(f"prefill, {count} tokens" for count in ("16", "144", "576", "2,304"))]
    measures = {name: Measure(name, "ms", 50.0, 40.0, 60.0) for name in names}
    measures["decode"] = Measure("decode", "tokens/s", 100.0, 90.0, 110.0)
    llm = LlmCount(matrices=1_000_000, output=0, attention=0, weight_bytes=50_000_000, quantized=True)
    peaks = Peaks(float32_per_s=1e9, int8_per_s=4e9, bytes_per_s=10e9)
    found = {one.stage: one for one in limits(measures, GraphCount(int8=40_000_000, float32=5_000_000), llm, peaks)}
    assert found["vision encode, 1 picture"].limit_ms == pytest.approx(10 + 5)
    assert found["vision encode, 1 picture"].share == pytest.approx(0.3)
    assert found["prefill, 144 tokens"].limit_ms == pytest.approx(36)
    assert found["decode"].measured_ms == pytest.approx(10) and found["decode"].share == pytest.approx(0.5)
    floats = limits(measures, GraphCount(0, 0), dataclasses.replace(llm, quantized=False), peaks)
    assert floats[2].limit_ms == pytest.approx(144)


def test_peaks_are_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within what any processor of today can do: a wrong count of work or time is off by far more."""
    monkeypatch.setattr("dclocal.benchmark_limits.SIDE", 256)
    monkeypatch.setattr("dclocal.benchmark_limits.COPIED_BYTES", 8 << 20)
    peaks = measure_peaks(threads=1, tries=2)
    assert 1e8 < peaks.float32_per_s < 1e13 and 1e8 < peaks.int8_per_s < 1e14 and 1e7 < peaks.bytes_per_s < 1e13


def test_the_connector_is_cut_out(tmp_path: Path) -> None:
    """Behind the cut, the same embeddings come out; a graph without such names has no connector to cut."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="/vision/Flatten"),
        helper.make_node("Add", ["flat", "a"], ["deep"], name="/vision/Add"),
        helper.make_node("Mul", ["deep", "deep"], ["deeper"], name="/vision/Mul"),
        helper.make_node("Concat", ["deep", "deeper"], ["both"], name="/connector/Concat", axis=1),
        helper.make_node("MatMul", ["both", "w"], ["rows"], name="/connector/projector/MatMul"),
        helper.make_node("Relu", ["rows"], ["y"], name="renamed by a simplification"),
    ]
    size = prod((3, 16, 16))
    constants = {
        "a": random.standard_normal(size, dtype=np.float32),
        "w": random.standard_normal((2 * size, 8), dtype=np.float32),
    }
    bundle = fake_bundle(tmp_path)
    write_graph(bundle.vision_path, nodes, constants, (3, 16, 16))
    run = cut_connector(bundle, threads=1)
    assert run is not None
    deep = constants["a"]
    expected = np.maximum(np.concatenate([deep, deep * deep]) @ constants["w"], 0)
    np.testing.assert_allclose(run()[0][0], expected, rtol=1e-3, atol=1e-2)
    for node in nodes:
        node.name = ""
    write_graph(bundle.vision_path, nodes, constants, (3, 16, 16))
    assert cut_connector(bundle, threads=1) is None
