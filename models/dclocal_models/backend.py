"""A PyTorch checkpoint behind the runtime's protocols (`dclocal.chat`), so that it can be tried before it is exported.

`open_backend` is what the entry-point group `dclocal.backends` names "torch"; the session above it is the bundle's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dclocal.bundle import Manifest
from dclocal.errors import UserError
from dclocal.formats import FORMATS
from dclocal.progress import Progress, silent
from dclocal_models.answer import encode_pixels, newline_array, vision_spec
from dclocal_models.checkpoint import CheckpointError
from dclocal_models.open import open_checkpoint
from dclocal_models.quiet import hush
from dclocal_models.registry import lookup
from dclocal_models.torch_llm import TorchLLM
from dclocal_models.vlm import DenseConnectorModel

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True)
class Checkpoint:
    """What a session needs to know of a checkpoint, as `dclocal.bundle.Bundle` says it of a bundle."""

    path: Path
    manifest: Manifest
    newline: np.ndarray | None

    def read_newline(self) -> np.ndarray | None:
        """AnyRes's newline embedding, float32 `[n_embd]`, or None."""
        return self.newline


def open_backend(
    folder: Path, *, load_in_4bit: bool = False, threads: int | None = None, progress: Progress = silent
) -> tuple[Checkpoint, TorchVision, TorchLLM]:
    """A checkpoint folder, ready for `ChatSession(*open_backend(folder))`.

    On a GPU where there is one (the language model in bfloat16), else on the CPU in float32; `load_in_4bit` makes
    the language model NF4 after its LoRA is merged.  Raises UserError: no such folder, or a partial, damaged or
    foreign one.
    """
    hush()
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    step = f"loading {folder.resolve().name} in {'4 bits' if load_in_4bit else str(dtype).removeprefix('torch.')}"
    progress(step, 0, 1)
    model, tokenizer = _load(folder, dtype)
    if load_in_4bit:
        model.llm = quantized(model, dtype, device)
    model.to(device)
    progress(step, 1, 1)
    return describe(folder, model), TorchVision(model), TorchLLM(model.base_llm, tokenizer, context_length(model))


def describe(folder: Path, model: DenseConnectorModel) -> Checkpoint:
    """The model as a bundle's manifest would describe it, named after its folder."""
    four_bits = getattr(model.base_llm, "is_loaded_in_4bit", False)
    name = folder.resolve().name
    manifest = Manifest(
        name=name,
        description=f"The PyTorch checkpoint {folder}",
        vision=vision_spec(model),
        prompt=lookup(FORMATS, model.config.prompt, "prompt format"),
        n_ctx=context_length(model),
        files={},
        licences={},
        provenance=model.config.provenance,
        llm_quantization="nf4" if four_bits else str(model.base_llm.dtype).removeprefix("torch."),
    )
    return Checkpoint(folder, manifest, newline_array(model))


def context_length(model: DenseConnectorModel) -> int:
    """The positions that the language model knows."""
    return int(getattr(model.base_llm.config, "max_position_embeddings", DEFAULT_CONTEXT))


def quantized(model: DenseConnectorModel, dtype: torch.dtype, device: torch.device) -> Any:
    """The language model with NF4 weights on `device`, its LoRA merged; one that is in 4 bits already, as it is."""
    if getattr(model.base_llm, "is_loaded_in_4bit", False):
        return model.llm
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UserError("4 bits need bitsandbytes", "pip install bitsandbytes")
    llm = model.llm.merge_and_unload() if hasattr(model.llm, "peft_config") else model.llm
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return (
        type(llm)
        .from_pretrained(
            None,
            config=llm.config,
            state_dict=llm.state_dict(),
            dtype=dtype,
            device_map={"": device},
            quantization_config=settings,
        )
        .eval()
    )


class TorchVision:
    """The vision side; `encoded_images` counts its work."""

    def __init__(self, model: DenseConnectorModel):
        self._model = model
        self.encoded_images = 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[n, 3, size, size]` to float32 `[n, tokens, n_embd]`."""
        embeds = encode_pixels(self._model, pixels)
        self.encoded_images += len(pixels)
        return embeds


def _load(folder: Path, dtype: torch.dtype) -> tuple[DenseConnectorModel, Any]:
    """The model and its tokenizer; every way in which the folder can be wrong is a UserError."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", "name a checkpoint's folder")
    try:
        return open_checkpoint(folder, dtype=dtype)
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:  # transformers reports files that are missing or damaged by a dozen classes
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} cannot be loaded: {reason}", "copy or train it again") from error
