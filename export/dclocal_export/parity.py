"""How far a bundle is from its checkpoint: embeddings on pictures, and greedy answers end to end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from torch import Tensor

from dclocal.adapters import default_scales
from dclocal.bundle import Bundle
from dclocal.chat import Answered, ChatSession
from dclocal.graph_files import files_of
from dclocal.images import to_pixels
from dclocal.progress import Progress, silent
from dclocal.session import open_llm
from dclocal.vision import INPUT, OUTPUT, VisionEncoder
from dclocal_models.answer import answer_embedded, embed_images, embed_pictures, encode_pixels
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


def measure_vision(
    model: DenseConnectorModel, files: dict[str, Path], images: Sequence[Image], *, repeats: int = 5, threads: int = 1
) -> dict[str, dict[str, Any]]:
    """For `parity.json`: each graph of `files` (precision → file) against PyTorch on the same pictures, at least two.

    Cosines are over a picture's tokens as one vector and over each token; errors are shares of the embeddings' root
    mean square, and of the distance from a picture to the one most like it (at 1 the two could be taken for each
    other).  Seconds are a picture's, the median of `repeats` runs and the least and greatest, of batches of 1 and 4.
    """
    import onnxruntime

    if len(images) < 2:
        raise ValueError(f"{len(images)} picture given; the distance between pictures needs at least 2")
    pixels = to_pixels(images, image_spec(model))
    reference = encode_pixels(model, pixels)
    measured: dict[str, dict[str, Any]] = {}
    for precision, path in files.items():
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = np.concatenate([session.run([OUTPUT], {INPUT: pixels[i : i + 1]})[0] for i in range(len(pixels))])
        measured[precision] = {
            **compare_in_detail(found, reference),
            "seconds_batch_1": _time(session, pixels, 1, repeats),
            "seconds_batch_4": _time(session, pixels, 4, repeats),
            "threads": threads,
            "size_bytes": sum(file.stat().st_size for file in files_of(path)),
        }
    return measured


def compare_in_detail(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Cosines and errors of embeddings `[n, tokens, n_embd]` as `measure_vision` tells them."""
    flat, error = reference.reshape(len(reference), -1), np.abs(found - reference)
    scale = float(np.sqrt(np.square(reference).mean()))
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    shares = np.linalg.norm(error.reshape(len(error), -1), axis=1) / apart.min(1)
    pictures, tokens = _cosines(found.reshape(len(found), -1), flat), _cosines(found, reference)
    return {
        "cosine_mean": float(pictures.mean()),
        "cosine_min": float(pictures.min()),
        "token_cosine_mean": float(tokens.mean()),
        "token_cosine_min": float(tokens.min()),
        "max_error": float(error.max()) / scale,
        "mean_error": float(error.mean()) / scale,
        "share_of_distance_mean": float(shares.mean()),
        "share_of_distance_max": float(shares.max()),
    }


def _cosines(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(reference, axis=-1)
    cosines: np.ndarray = (found * reference).sum(-1) / norms
    return cosines


def _time(session: Any, pixels: np.ndarray, batch: int, repeats: int) -> dict[str, float]:
    """Seconds a picture, after a run that does not count."""
    pictures = np.resize(pixels, (batch, *pixels.shape[1:]))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        session.run([OUTPUT], {INPUT: pictures})
        seconds.append((time.perf_counter() - start) / batch)
    counted = seconds[1:]
    return {"median": float(np.median(counted)), "min": min(counted), "max": max(counted)}


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
    """Greedy answers of the bundle against the PyTorch model's, each through its own vision encoder.

    The bundle answers as in a conversation: its adapters at their own scales, AnyRes's tiles gathered.
    """
    embedded: dict[str, Tensor] = {}
    differing = []
    with open_llm(bundle, default_scales(bundle.manifest.adapters)) as llm:
        session = ChatSession(bundle, VisionEncoder(bundle), llm)
        for index, (image, text) in enumerate(questions):
            progress("comparing answers with PyTorch's", index + 1, len(questions))
            session.reset()
            attached = session.attach(image)
            if attached.key not in embedded:
                embedded[attached.key] = embed_pictures(model, [image])[0]
            shown = {attached.key: embedded[attached.key]}
            expected = answer_embedded(model, tokenizer, text, shown, max_tokens)
            *_, last = session.ask(text, [attached], max_tokens=max_tokens, temperature=0.0)
            assert isinstance(last, Answered)
            if last.answer != expected:
                differing.append({"question": text, "pytorch": expected, "bundle": last.answer})
    same = len(questions) - len(differing)
    return {"questions": len(questions), "same": same, "differing": differing[:10]}
