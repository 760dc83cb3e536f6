"""What a stage trains, as a file: written whole or not at all, safetensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TRAINED_FILE, MEAN_FILE = "trained.safetensors", "mean.safetensors"


def trained_state(model: torch.nn.Module, gathered: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """The parameters that move, by name; out of `gathered` where the model itself holds but a shard of each."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    state = gathered or dict(model.named_parameters())
    return {name: state[name].detach().cpu() for name in names}


def save_whole(state: dict[str, Tensor], file: Path) -> None:
    """Write tensors, in whatever layout, whole or not at all."""
    part = file.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, part)
    part.replace(file)


def load_trained(model: torch.nn.Module, file: Path) -> None:
    """Put saved parameters back; raises ValueError naming what does not belong to this model."""
    state = load_file(file)
    unknown = set(state) - {name for name, _ in model.named_parameters()}
    if unknown:
        raise ValueError(f"{file} holds {sorted(unknown)[0]} and {len(unknown) - 1} more that this model has not")
    model.load_state_dict(state, strict=False)
