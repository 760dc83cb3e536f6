"""How far a bundle is from its checkpoint: embeddings on pictures, and greedy answers end to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from dclocal.bundle import Bundle, Sampling
from dclocal.images import image_key, to_pixels
from dclocal.llm import LLM
from dclocal.progress import Progress, silent
from dclocal.prompt import Message, render, to_segments
from dclocal.vision import INPUT, OUTPUT, VisionEncoder
from dclocal_models.answer import answer_embedded, embed_images
from dclocal_models.vlm import DenseConnectorModel, image_spec


def compare_embeds(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Cosine (mean and least over images, each image's tokens as one vector) and the largest difference."""
    flat, flat_reference = found.reshape(len(found), -1), reference.reshape(len(reference), -1)
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(flat_reference, axis=1)
    cosines = (flat * flat_reference).sum(1) / norms
    return {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "max_abs_difference": float(np.abs(found - reference).max()),
    }


def run_graph(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Embeddings from an ONNX file, by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([OUTPUT], {INPUT: pixels[i : i + 4]})[0] for i in range(0, len(pixels), 4)])


def vision_parity(
    model: DenseConnectorModel, images: Sequence[Image], graphs: dict[str, Path]
) -> dict[str, dict[str, float]]:
    """Each graph of `graphs` (precision → file) against PyTorch on the same pictures."""
    reference = embed_images(model, images).numpy()
    pixels = to_pixels(images, image_spec(model))
    return {precision: compare_embeds(run_graph(path, pixels), reference) for precision, path in graphs.items()}


def answer_parity(
    model: DenseConnectorModel,
    tokenizer: Any,
    bundle: Bundle,
    questions: Sequence[tuple[Image, str]],
    max_tokens: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Greedy answers of the bundle against the PyTorch model's, each through its own vision encoder."""
    vision = VisionEncoder(bundle)
    same = 0
    differing = []
    with LLM(bundle.llm_path, n_ctx=bundle.manifest.n_ctx) as llm:
        for index, (image, text) in enumerate(questions):
            progress("comparing answers with PyTorch's", index + 1, len(questions))
            key = image_key(image)
            expected = answer_embedded(model, tokenizer, text, {key: embed_images(model, [image])[0]}, max_tokens)
            embeds = vision.encode(to_pixels([image], bundle.manifest.vision.image))[0]
            pieces = render(bundle.manifest.prompt, [Message("user", text, (key,))], answer_next=True)
            llm.prefill(to_segments(pieces, llm.tokenize, {key: embeds}))
            stop = (bundle.manifest.prompt.answer_end,)
            found = "".join(llm.generate(Sampling(), seed=0, max_tokens=max_tokens, stop=stop)).strip()
            same += found == expected
            if found != expected:
                differing.append({"question": text, "pytorch": expected, "bundle": found})
    return {"questions": len(questions), "same": same, "differing": differing[:10]}
