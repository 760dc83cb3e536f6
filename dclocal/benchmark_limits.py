"""What this machine could do at best, and which share of it each stage reaches.

Peaks are measured, not looked up: matrix products by ONNX Runtime, and a copy of memory by numpy.  A stage's limit is
the time that its multiply-adds take at those peaks, or that its weights take to be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from dclocal.benchmark import DECODE, PREFILLS, Measure, encode_name, prefill_name
from dclocal.benchmark_counts import GraphCount, LlmCount, count_graph, count_llm
from dclocal.bundle import Bundle
from dclocal.progress import Progress

SIDE = 1536
"""Rows and columns of the matrices whose product is timed."""
COPIED_BYTES = 256 << 20
TRIES = 7


@dataclass(frozen=True)
class Peaks:
    """The machine's best: multiply-adds a second in each kind of number, and bytes that a copy reads and writes."""

    float32_per_s: float
    int8_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Limit:
    """A stage's `measured` and least possible milliseconds; `share` of the limit reached, and the limit in words."""

    stage: str
    measured_ms: float
    limit_ms: float
    share: float
    of: str


@dataclass(frozen=True)
class Limits:
    """The machine's peaks, and the share of them that each stage reaches."""

    peaks: Peaks
    stages: Sequence[Limit]


def measure_limits(bundle: Bundle, threads: int, measures: Sequence[Measure], progress: Progress) -> Limits:
    """The limits of a bundle's stages whose `measures` were taken on this machine."""
    progress("counting the work", 0, 2)
    graph = count_graph(bundle.vision_path)
    progress("counting the work", 1, 2)
    llm = count_llm(bundle.llm_path)
    progress("counting the work", 2, 2)
    progress("measuring the machine", 0, 1)
    peaks = measure_peaks(threads)
    progress("measuring the machine", 1, 1)
    return Limits(peaks, limits({one.name: one for one in measures}, graph, llm, peaks))


def measure_peaks(threads: int, tries: int = TRIES) -> Peaks:
    """The best of `tries` after a warm-up, on `threads` threads."""
    random = np.random.default_rng(0)
    floats = random.standard_normal((SIDE, SIDE), dtype=np.float32)
    whole = random.integers(0, 127, (SIDE, SIDE), dtype=np.uint8)
    float32 = _product("MatMul", floats, floats, threads)
    int8 = _product("MatMulInteger", whole, whole.view(np.int8), threads)
    macs, copied = SIDE**3, 2 * COPIED_BYTES
    return Peaks(macs / _best(float32, tries), macs / _best(int8, tries), copied / _best(_copy(threads), tries))


def _best(work: Callable[[], object], tries: int) -> float:
    """The fewest seconds that `work` took."""
    work()
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _product(operator: str, left: np.ndarray, right: np.ndarray, threads: int) -> Callable[[], object]:
    """The product of a matrix with a constant one, which ONNX Runtime lays out as it likes."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(left.dtype)
    out = TensorProto.FLOAT if kind == TensorProto.FLOAT else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["out"])],
        "product",
        [helper.make_tensor_value_info("left", kind, left.shape)],
        [helper.make_tensor_value_info("out", out, left.shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["out"], {"left": left})


def _copy(threads: int) -> Callable[[], object]:
    """A copy of COPIED_BYTES, a part by each thread."""
    source, target = np.ones(COPIED_BYTES, np.uint8), np.zeros(COPIED_BYTES, np.uint8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads)))
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda pair: np.copyto(*pair), parts))


def limits(measures: Mapping[str, Measure], graph: GraphCount, llm: LlmCount, peaks: Peaks) -> list[Limit]:
    """The limits of encoding one picture, of each prefill and of decoding, beside their medians in `measures`."""
    found = []
    seconds = graph.int8 / peaks.int8_per_s + graph.float32 / peaks.float32_per_s
    work = f"{_billions(graph.int8)} int8 and {_billions(graph.float32)} float32 multiply-adds at peak speed"
    if graph.uncounted:
        work += f", {len(graph.uncounted)} operators not counted"
    found.append(_limit(encode_name(1), measures[encode_name(1)].median, 1000 * seconds, work))
    rate, kind = (peaks.int8_per_s, "int8") if llm.quantized else (peaks.float32_per_s, "float32")
    for tokens in PREFILLS:
        name, macs = prefill_name(tokens), llm.prefill(tokens)
        work = f"{_billions(macs)} multiply-adds at the {kind} peak"
        found.append(_limit(name, measures[name].median, 1000 * macs / rate, work))
    read_ms = 1000 * llm.weight_bytes / peaks.bytes_per_s
    work = f"reading {llm.weight_bytes / 1e6:.1f} MB of weights at the speed of a copy"
    found.append(_limit(DECODE, 1000 / measures[DECODE].median, read_ms, work))
    return found


def _limit(stage: str, measured_ms: float, limit_ms: float, of: str) -> Limit:
    return Limit(stage, measured_ms, limit_ms, limit_ms / measured_ms, of)


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} billion"
