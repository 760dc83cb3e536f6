"""Vision backbone, connector and interpolation as one ONNX graph: pixels in, LLM-space embeddings out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dclocal.bundle import ImageSpec
from dclocal.optimize import optimize
from dclocal.progress import Progress, silent
from dclocal.vision import INPUT, OUTPUT
from dclocal_models.vlm import DenseConnectorModel, image_spec

OPSET = 17


@dataclass(frozen=True)
class VisionGraph:
    """The optimized float32 graph that each precision is written from, and how its pixels are made.

    `fused`: how many nodes there are of each fused kind.
    """

    file: Path
    image: ImageSpec
    fused: dict[str, int]


class _ImageEncoder(nn.Module):
    """The vision side alone, so that the graph's initializers carry the checkpoint's own names."""

    def __init__(self, model: DenseConnectorModel):
        super().__init__()
        self.vision, self.connector = model.vision, model.connector

    def forward(self, pixels: Tensor) -> Tensor:
        output = self.vision(pixels)
        return self.connector(output.hidden_states, output.conv_map)


def export_vision(model: DenseConnectorModel, path: Path) -> None:
    """Write the fp32 graph to `path`: input "pixels" `[batch, 3, H, W]`, output "embeds" `[batch, tokens, n_embd]`.

    Initializers keep the names of the model's parameters (nothing is folded), so that a graph can be shipped
    without its weights and filled later.
    """
    size = model.config.vision.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of shape checks inside transformers
        torch.onnx.export(
            _ImageEncoder(model).eval().float(),
            (torch.zeros(2, 3, size, size),),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )


def trace_vision(model: DenseConnectorModel, file: Path, progress: Progress = silent) -> VisionGraph:
    """Trace the vision side, write it optimized to `file`, and its weights beside that where they are many.

    The model must be on the processor; its vision side is brought to float32.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix="traced-") as temporary:
        traced = Path(temporary) / "traced.onnx"
        with fusible(model, progress):
            export_vision(model, traced)
        progress("fusing the vision graph", 0, 1)
        tower = transformer(model).config
        fused = optimize(traced, file, heads=tower.num_attention_heads, width=tower.hidden_size)
        progress("fusing the vision graph", 1, 1)
    return VisionGraph(file, image_spec(model), fused)


def transformer(model: DenseConnectorModel) -> Any:
    """The transformers model inside the vision backbone."""
    return getattr(model.vision, "vit", model.vision).tower


@contextmanager
def fusible(model: DenseConnectorModel, progress: Progress = silent) -> Iterator[None]:
    """Attention in the plain form that ONNX Runtime's fusions know, each layer told as it is traced."""
    tower, depth = transformer(model), model.vision.depth
    former = tower.config._attn_implementation
    traced = 0

    def tell(*_: Any) -> None:
        nonlocal traced
        traced += 1
        progress("tracing the vision graph", min(traced, depth), depth)

    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    hooks = [layer.register_forward_hook(tell) for layer in lists[0]]
    tower.set_attn_implementation("eager")
    try:
        yield
    finally:
        tower.set_attn_implementation(former)
        for hook in hooks:
            hook.remove()
