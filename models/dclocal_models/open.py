"""Opens a checkpoint folder of either layout: what chatting from a checkpoint and exporting one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dclocal_models.checkpoint import CheckpointError, load_checkpoint
from dclocal_models.llava_checkpoint import is_llava_checkpoint, open_llava_checkpoint
from dclocal_models.vlm import DenseConnectorModel


def open_checkpoint(
    folder: Path,
    *,
    base: Path | None = None,
    vision_tower: Path | None = None,
    dtype: torch.dtype = torch.float32,
    llm_weights: bool = True,
    **options: Any,
) -> tuple[DenseConnectorModel, Any]:
    """The model and tokenizer of a folder that `save_pretrained` wrote, or of one in LLaVA's layout.

    `base`, `vision_tower` and further `options` are those of `open_llava_checkpoint`.  Without
    `llm_weights` the language model is on the meta device, without memory.  Raises CheckpointError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder", "name a checkpoint's folder")
    if is_llava_checkpoint(folder):
        return open_llava_checkpoint(
            folder, base=base, vision_tower=vision_tower, dtype=dtype, llm_weights=llm_weights, **options
        )
    given = {"base": base, "vision_tower": vision_tower, **options}
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise CheckpointError(
            f"{folder} is a whole checkpoint of ours, which takes no {', '.join(unused)}", "leave it out"
        )
    return load_checkpoint(folder, dtype=dtype, llm_weights=llm_weights)
