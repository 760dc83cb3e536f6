"""A checkpoint's whole way from picture to first token in PyTorch: what a bundle's speed is compared with.

`open_pipelines` is what the entry-point group `dclocal.benchmarks` names "torch".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from dclocal.progress import Progress, silent
from dclocal_models.answer import embed_pictures, encode_pixels, prompt_embeds
from dclocal_models.embedded import trained_dc_tiny
from dclocal_models.open import open_checkpoint
from dclocal_models.quiet import hush
from dclocal_models.vlm import DenseConnectorModel

KEY = "picture"
WORDS = ("class_words", "thing_words", "count_words", "text_words")


class TorchPipeline:
    """A model with a token grid, `(rows, columns)`, of its own choice; others may share the model.

    Words are said at the places of the model's own grid: in another one there are none, which costs a little less.
    """

    def __init__(self, model: DenseConnectorModel, tokenizer: Any, grid: tuple[int, int]):
        self._model, self._tokenizer, self._grid = model, tokenizer, grid
        own = grid == model.connector.token_grid
        self._words = {name: getattr(model.connector, name) if own else None for name in WORDS}
        self._use_grid()
        self.tokens = model.connector.tokens

    def _use_grid(self) -> None:
        self._model.connector.token_grid = self._grid
        for name, words in self._words.items():
            setattr(self._model.connector, name, words)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[n, 3, size, size]` to float32 `[n, tokens, n_embd]`."""
        self._use_grid()
        return encode_pixels(self._model, pixels)

    @torch.inference_mode()
    def first_token(self, image: Image, text: str) -> int:
        """The most likely first token of the answer to a question about a picture."""
        self._use_grid()
        embeds = prompt_embeds(self._model, self._tokenizer, text, {KEY: embed_pictures(self._model, [image])[0]})
        logits = self._model.llm(inputs_embeds=embeds, use_cache=True, logits_to_keep=1).logits
        return int(logits[0, -1].argmax())


def open_pipelines(
    *,
    checkpoint: Path | None = None,
    parts: Path | None = None,
    sources: Mapping[str, Path] | None = None,
    threads: int,
    progress: Progress = silent,
) -> dict[str, TorchPipeline]:
    """A model on the CPU in float32, not compiled: "own", with its own token grid, and "full", with the backbone's.

    It is that of the folder `checkpoint`, or the embedded one of what ships (`parts`) and of the packages' files
    (`sources`, by "vision" and "llm").  Raises UserError for a folder that is not a whole checkpoint.
    """
    hush()
    torch.set_num_threads(threads)
    progress("loading the PyTorch checkpoint", 0, 1)
    if checkpoint is not None:
        model, tokenizer = open_checkpoint(checkpoint, dtype=torch.float32)
    elif parts is not None and sources is not None:
        model, tokenizer = trained_dc_tiny(parts, sources["vision"], sources["llm"])
    else:
        raise ValueError("neither a checkpoint nor the embedded model's parts and sources are given")
    model.eval()
    progress("loading the PyTorch checkpoint", 1, 1)
    own, full = model.connector.token_grid, model.connector.grid
    return {"own": TorchPipeline(model, tokenizer, own), "full": TorchPipeline(model, tokenizer, full)}
