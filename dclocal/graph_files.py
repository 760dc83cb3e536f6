"""An ONNX graph on disk: in one file, or with its weights in another beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

EXTERNAL_DATA = 2**31 - 2**24
"""Bytes from which weights stand in a file beside the graph: a protobuf message holds less than 2 GiB, and 16 MiB are
left for the graph itself.  SigLIP-SO400M's 1.7 GB still fit in one file."""


def save_graph(graph: Any, out: Path, *, apart: bool = False) -> None:
    """Write a graph, its weights beside it where they are to be `apart`, or are too many for one file."""
    import onnx

    remove(out)
    if apart or sum(len(tensor.raw_data) for tensor in graph.graph.initializer) >= EXTERNAL_DATA:
        save_apart(graph, out)
    else:
        onnx.save(graph, out)


def data_name(graph: Path) -> str:
    """The name of the file beside a graph that holds its weights."""
    return f"{graph.name}.data"


def save_apart(model: Any, out: Path) -> None:
    """Write a graph, its weights in a file beside it: ONNX Runtime maps that into memory, where it reads and copies
    what stands in the graph itself."""
    import onnx

    out.unlink(missing_ok=True)
    onnx.save(model, out, save_as_external_data=True, location=data_name(out))
    weights = out.with_name(data_name(out))
    if weights.exists():
        weights.chmod(out.stat().st_mode)  # onnx lets nobody else read it


def files_of(file: Path) -> tuple[Path, ...]:
    """A graph's file and, where its weights stand beside it, theirs."""
    beside = file.with_name(data_name(file))
    return (file, beside) if beside.exists() else (file,)


def remove(file: Path) -> None:
    """Delete a graph and the weights beside it, as far as they exist."""
    for part in files_of(file):
        part.unlink(missing_ok=True)


def is_large(file: Path) -> bool:
    """Whether a graph's weights, as float32, are too many for one file."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    return sum(4 * int(np.prod(list(tensor.dims) or [1])) for tensor in graph.initializer) >= EXTERNAL_DATA
