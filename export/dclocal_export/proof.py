"""`parity.json`: how far each part of a bundle is from its checkpoint, measured part by part and end to end."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from dclocal.bundle import Bundle
from dclocal.images import image_key
from dclocal.machine import cpu_model, memory_bytes, usable_cores
from dclocal.progress import Progress
from dclocal.prompt import Embeds, Segment
from dclocal_export.llm_parity import measure_llm
from dclocal_export.options import MEASURED, ExportOptions
from dclocal_export.parity import answer_parity, measure_vision
from dclocal_export.quantize import CALIBRATED, write_vision
from dclocal_export.vision_onnx import VisionGraph
from dclocal_models.answer import embed_pictures
from dclocal_models.open import open_checkpoint
from dclocal_models.vlm import DenseConnectorModel

QUESTIONS = ("What is this?", "Describe the picture.", "What color is it?", "Is there a circle in the picture?")
ANSWER_TOKENS = 24
PREFIXES = 3
MEMORY_SHARE = 0.5
"""Answers are compared with PyTorch's where its language model takes at most this share of the machine's memory."""


def measure(
    checkpoint: Path,
    model: DenseConnectorModel,
    graph: VisionGraph,
    bundle: Bundle,
    reference: Path,
    pictures: Sequence[Image],
    options: ExportOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Vision, the other precisions written from `graph`, against PyTorch on `pictures`, the language model against its
    16-bit GGUF `reference`, greedy answers end to end, how long it took, and on what machine."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=reference.parent, prefix="precisions-") as temporary:
        files = {options.vision: bundle.vision_path}
        for precision in () if options.quick else MEASURED:
            if precision not in files:
                files[precision] = Path(temporary) / f"{precision}.onnx"
                calibration = pictures if precision in CALIBRATED else ()
                write_vision(graph, files[precision], precision, calibration=calibration, progress=progress)
        vision = measure_vision(model, files, pictures)
    prefixes: list[list[Segment]] = [
        [Embeds(image_key(image), embeds.numpy())]
        for image, embeds in zip(pictures[:PREFIXES], embed_pictures(model, pictures[:PREFIXES]))
    ]
    candidates = {} if options.llm == "f16" else {options.llm: bundle.llm_path}
    llm = measure_llm(reference, candidates, prefixes, progress=progress)
    parity: dict[str, Any] = {
        "vision": vision,
        "llm": llm.pop("quantizations"),
        "llm_text": llm,
        "answers": _answers(checkpoint, model, bundle, pictures, options, progress),
        "machine": {
            "cpu": cpu_model(),
            "cores": usable_cores(),
            "memory_bytes": memory_bytes(),
            "system": platform.platform(),
        },
    }
    parity["timings"] = {"measuring_s": round(time.perf_counter() - started, 1)}
    return parity


def _answers(
    checkpoint: Path,
    model: DenseConnectorModel,
    bundle: Bundle,
    pictures: Sequence[Image],
    options: ExportOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Greedy answers of the bundle and of the checkpoint in PyTorch, unless that takes too much memory."""
    wanted = 4 * sum(parameter.numel() for parameter in model.base_llm.parameters())
    if wanted > MEMORY_SHARE * memory_bytes():
        return {
            "skipped": f"PyTorch's language model takes {wanted >> 30} GiB here, {memory_bytes() >> 30} GiB are there"
        }
    whole, tokenizer = open_checkpoint(
        checkpoint, base=options.base, vision_tower=options.vision_tower, dtype=torch.float32
    )
    questions = [(picture, text) for picture in pictures for text in QUESTIONS]
    return answer_parity(whole, tokenizer, bundle, questions, ANSWER_TOKENS, progress)
