"""A picture to its embeddings: one square through the vision encoder, or AnyRes's tiles put into reading order.

The one place that knows which of the two a model takes; the runtime and the PyTorch reference share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL.Image import Image

from dclocal.anyres import gather, to_tiles, token_count, token_order
from dclocal.bundle import ImageSpec, VisionSpec
from dclocal.errors import BundleError
from dclocal.images import to_pixels

NEWLINE_TENSOR = "image_newline"

Encode = Callable[[np.ndarray], np.ndarray]
"""Normalised pixels float32 `[n, 3, size, size]` to embeddings float32 `[n, tokens, n_embd]`."""


def encode_picture(image: Image, spec: VisionSpec, encode: Encode, newline: np.ndarray | None) -> np.ndarray:
    """What the language model reads of a picture: float32 `[tokens, n_embd]`, by one call of `encode`.

    `newline` is AnyRes's embedding `[n_embd]`.  Raises ValueError where the spec names one and it is not given, or
    the other way round.
    """
    if (newline is None) != (spec.newline is None):
        raise ValueError(f"a newline embedding is {'not ' * (newline is None)}given, the spec says {spec.newline}")
    embeds = encode(squares(image, spec.image))
    if spec.image.fit != "anyres":
        return embeds[0]
    order = token_order(image.size, spec.image.pinpoints, spec.image.size, spec.grid, newline is not None)
    return gather(embeds, np.zeros(spec.n_embd, np.float32) if newline is None else newline, order)


def squares(image: Image, spec: ImageSpec) -> np.ndarray:
    """What the vision encoder sees of a picture, float32 `[n, 3, size, size]`: all of it as one square, or AnyRes's
    tiles."""
    if spec.fit != "anyres":
        return to_pixels([image], spec)
    return to_pixels(to_tiles(image, spec.pinpoints, spec.size), dataclasses.replace(spec, fit="stretch"))


def picture_tokens(image_size: tuple[int, int], spec: VisionSpec) -> int:
    """How many tokens `encode_picture` gives for a picture of (width, height), by arithmetic alone."""
    if spec.image.fit != "anyres":
        return spec.tokens
    return token_count(image_size, spec.image.pinpoints, spec.image.size, spec.grid, spec.newline is not None)


def save_newline(newline: np.ndarray, file: Path) -> None:
    """Write AnyRes's newline embedding `[n_embd]` as float32, for a bundle."""
    from safetensors.numpy import save_file

    save_file({NEWLINE_TENSOR: np.ascontiguousarray(newline, np.float32)}, file)


def load_newline(file: Path, n_embd: int) -> np.ndarray:
    """AnyRes's newline embedding, float32 `[n_embd]`; raises BundleError where the file holds anything else."""
    from safetensors.numpy import load_file

    try:
        tensors = load_file(file)
    except Exception as error:  # the library has an exception class of its own
        raise BundleError(f"{file} cannot be read ({error})", "remove the bundle and pull it again") from error
    newline = tensors.get(NEWLINE_TENSOR)
    if newline is None or newline.shape != (n_embd,) or newline.dtype != np.float32 or not np.isfinite(newline).all():
        found = "missing" if newline is None else f"{newline.dtype} {list(newline.shape)}"
        raise BundleError(
            f"{file}: {NEWLINE_TENSOR} is {found}, expected {n_embd} finite float32", "export the bundle again"
        )
    return newline
