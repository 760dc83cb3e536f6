"""The vision side of a model as one ONNX file, in the precision that is asked for.

`write_vision` takes the graph as `trace_vision` (`vision_onnx.py`) left it and writes it as fp32, fp16, int8 or int4.
What stays in float was decided by measurement on dc-tiny with real pictures, and every file says what did.

optimum's `ORTQuantizer` writes dynamic int8.  Static int8 needs an option that it does not pass on (a product's output
must not be quantized), and it has neither float16 of single graphs nor 4 bits: these go to ONNX Runtime's own tools.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from dclocal.assemble import tells_words
from dclocal.graph_files import files_of, is_large, remove, save_graph
from dclocal.images import to_pixels
from dclocal.optimize import fuse_ahead, quiet_logging
from dclocal.progress import Progress, silent
from dclocal.vision import INPUT
from dclocal_export.vision_onnx import VisionGraph

FLOAT16_CEILING = 65504 / 8
"""What exceeds this on a calibration picture is kept in float32: another picture may reach eight times as far."""
BLOCK = 32
INT8_COMPUTE = 4
"""MatMulNBits' accuracy level at which activations, too, are multiplied as 8-bit integers."""
CONVOLUTION = "8 bits here cost more than in all matrix products (dc-tiny, static: least cosine 0.997 to 0.990)"
NO_WEIGHTS = "both factors are computed, there are no weights"
TELLS_WORDS = "tells words: with fewer bits, some would be others"


@dataclass(frozen=True)
class VisionFile:
    """A written graph.

    `files`: `file` and, where its weights do not fit into it, the one that holds them; `size_bytes` is all of them.
    `fused`: how many nodes there are of each fused kind.  `kept_float`: what is left in float32, why, and how often:
    (kind of node, reason) → count.
    """

    file: Path
    precision: str
    size_bytes: int
    fused: dict[str, int]
    kept_float: dict[tuple[str, str], int]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Job:
    """What a precision is written from: the optimized graph's file, normalised pixels, and who is told."""

    graph: Path
    pixels: np.ndarray
    work: Path
    progress: Progress


def write_vision(
    graph: VisionGraph,
    out: Path,
    precision: str,
    *,
    calibration: Sequence[Image] = (),
    progress: Progress = silent,
) -> VisionFile:
    """Write `out`: input "pixels" float32 `[batch, 3, H, W]`, output "embeds" float32 `[batch, tokens, n_embd]`.

    `calibration` are the pictures on which ranges are measured, for `CALIBRATED` precisions.  The same model and
    pictures give the same bytes.  Raises ValueError for an unknown precision and for missing calibration pictures.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision in CALIBRATED and not calibration:
        raise ValueError(f"{precision} is decided by measured ranges; give calibration pictures")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        pixels = to_pixels(calibration, graph.image) if precision in CALIBRATED else np.zeros(0, np.float32)
        progress(f"writing {precision}", 0, 1)
        with quiet_logging():
            written, kept = PRECISIONS[precision](_Job(graph.file, pixels, Path(temporary), progress))
        save_graph(written, out, apart=True)
        progress(f"writing {precision}", 1, 1)
    files = files_of(out)
    return VisionFile(out, precision, sum(file.stat().st_size for file in files), graph.fused, dict(kept), files)


Written = tuple[Any, Counter[tuple[str, str]]]
"""A graph, and what was left in float32 with the reason."""


def _fp32(job: _Job) -> Written:
    import onnx

    return onnx.load(job.graph), Counter()


def _fp16(job: _Job) -> Written:
    """Weights and activations float16 but for nodes that see, or give, values near its end.  The fused kernels of
    normalisation and attention accumulate in float32 by themselves."""
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    ranges = _calibrated(job, None).items()
    large = {name for name, data in ranges if max(-np.min(data.lowest), np.max(data.highest)) > FLOAT16_CEILING}
    graph = onnx.load(job.graph)
    large |= {tensor.name for tensor in graph.graph.initializer if _largest(tensor) > FLOAT16_CEILING}
    blocked = {node.name: node.op_type for node in graph.graph.node if large & {*node.input, *node.output}}
    kept = Counter((kind, f"beyond ±{FLOAT16_CEILING:.0f} on a calibration picture") for kind in blocked.values())
    never = {node.op_type for node in graph.graph.node} & set(DEFAULT_OP_BLOCK_LIST)
    kept.update((node.op_type, "no float16 kernel") for node in graph.graph.node if node.op_type in never)
    del graph
    converted = convert_float_to_float16(str(job.graph), keep_io_types=True, node_block_list=list(blocked))
    _mend_casts(converted)
    return converted, kept


def _mend_casts(graph: Any) -> None:
    """Let float32 nodes hand on float32.

    The conversion takes all that they give through float16, where it overflows, and casts a tensor once for each
    float32 node that reads it, under one name, which is an invalid graph.
    """
    from onnx import TensorProto
    from onnxruntime.transformers.onnx_model import OnnxModel

    nodes = list({node.name: node for node in graph.graph.node}.values())
    targets = {node.name: node.attribute[0].i for node in nodes if node.op_type == "Cast"}
    narrowed = {node.output[0]: node.input[0] for node in nodes if targets.get(node.name) == TensorProto.FLOAT16}
    widened = [node for node in nodes if targets.get(node.name) == TensorProto.FLOAT and node.input[0] in narrowed]
    names = {node.output[0]: narrowed[node.input[0]] for node in widened}
    given = {names.pop(value.name): value.name for value in graph.graph.output if value.name in names}
    kept = [node for node in nodes if node not in widened]
    for node in kept:
        node.input[:] = [given.get(names.get(name, name), names.get(name, name)) for name in node.input]
        node.output[:] = [given.get(name, name) for name in node.output]
    read = {name for node in kept for name in node.input} | {value.name for value in graph.graph.output}
    kept = [node for node in kept if node.output[0] in read or node.op_type != "Cast"]
    del graph.graph.node[:]
    graph.graph.node.extend(kept)
    OnnxModel(graph).topological_sort(is_deterministic=True)


def _int8(job: _Job) -> Written:
    """Activations quantized as they come, one scale a tensor; weights one scale an output channel, in seven bits: see
    `dclocal.assemble.quantize_vision`."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantizationMode, QuantType
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import QuantizationConfig

    products, kept = _products(job.graph)
    config = QuantizationConfig(
        is_static=False,
        format=QuantFormat.QOperator,
        mode=QuantizationMode.IntegerOps,
        activations_dtype=QuantType.QUInt8,
        weights_dtype=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        nodes_to_quantize=products,
        operators_to_quantize=["MatMul"],
    )
    large = is_large(job.graph)
    ORTQuantizer(job.graph).quantize(config, job.work, file_suffix="int8", use_external_data_format=large)
    fuse_ahead(job.work / f"{job.graph.stem}_int8.onnx", job.work / "ahead.onnx")
    return onnx.load(job.work / "ahead.onnx"), kept


def _int8_static(job: _Job) -> Written:
    """Activations quantized by the ranges of the calibration pictures, as QuantizeLinear and DequantizeLinear pairs.

    The products' outputs stay in float: quantized as well, they made the error on dc-tiny 2.4 times as large.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    products, kept = _products(job.graph)
    quantizer = QDQQuantizer(
        onnx.load(job.graph),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=_calibrated(job, ["MatMul"]),
        nodes_to_quantize=products,
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    quantizer.quantize_model()
    return quantizer.model.model, kept


def _int4(job: _Job) -> Written:
    """Weights of 4 bits with a scale and a zero point for each block of `BLOCK`; activations 8 bits by blocks."""
    return _blockwise(job, 4)


def _int8_block(job: _Job) -> Written:
    """The same with weights of 8 bits: outliers of one block do not coarsen the others, as they do in `int8`."""
    return _blockwise(job, 8)


def _blockwise(job: _Job, bits: int) -> Written:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    products, kept = _products(job.graph)
    graph = onnx.load(job.graph)
    quantizer = MatMulNBitsQuantizer(
        graph,
        bits=bits,
        block_size=BLOCK,
        is_symmetric=False,
        accuracy_level=INT8_COMPUTE,
        nodes_to_exclude=[node.name for node in graph.graph.node if node.name not in products],
    )
    quantizer.process()
    return quantizer.model.model, kept


PRECISIONS: dict[str, Callable[[_Job], Written]] = {
    "fp32": _fp32,
    "fp16": _fp16,
    "int8": _int8,
    "int8_static": _int8_static,
    "int8_block": _int8_block,
    "int4": _int4,
}
CALIBRATED = ("fp16", "int8_static")
"""Precisions that need calibration pictures."""


class _Pictures:
    """What ONNX Runtime's calibrator reads: one picture, then the end."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = [pixels]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {INPUT: self.pixels.pop()} if self.pixels else None


def _calibrated(job: _Job, kinds: list[str] | None) -> Any:
    """Least and greatest values over the calibration pictures, of the inputs and outputs of `kinds` (None: all)."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    calibrator = create_calibrator(
        job.graph,
        kinds,
        str(job.work / "augmented.onnx"),
        CalibrationMethod.MinMax,
        use_external_data_format=is_large(job.graph),
    )
    for index in range(len(job.pixels)):
        job.progress("measuring ranges", index, len(job.pixels))
        calibrator.collect_data(_Pictures(job.pixels[index : index + 1]))
    job.progress("measuring ranges", len(job.pixels), len(job.pixels))
    ranges = calibrator.compute_data()
    remove(job.work / "augmented.onnx")
    return ranges


def _largest(tensor: Any) -> float:
    from onnx import TensorProto, numpy_helper

    return float(np.abs(numpy_helper.to_array(tensor)).max(initial=0)) if tensor.data_type == TensorProto.FLOAT else 0


def _products(file: Path) -> tuple[list[str], Counter[tuple[str, str]]]:
    """Names of the matrix products with constant weights, and what else computes and why it stays in float32."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    kept: Counter[tuple[str, str]] = Counter()
    names = []
    for node in graph.node:
        if node.op_type == "Conv":
            kept["Conv", CONVOLUTION] += 1
        elif node.op_type == "MultiHeadAttention" or (node.op_type == "MatMul" and node.input[1] not in weights):
            kept[node.op_type, NO_WEIGHTS] += 1
        elif node.op_type == "MatMul" and tells_words(node.name):
            kept["MatMul", TELLS_WORDS] += 1
        elif node.op_type == "MatMul":
            names.append(node.name)
    return names, kept
