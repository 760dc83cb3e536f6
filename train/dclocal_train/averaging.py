"""The mean of a stage's weights along its way: better than any one of them, where the rate stays.

Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from dclocal_train.trained import MEAN_FILE, save_whole, trained_state


class Averaging(TrainerCallback):
    """Keeps the mean of what `model` trains after step `first` and each later one; `mean` is float32 by the
    parameters' names, and empty before that step."""

    def __init__(self, model: nn.Module, first: int):
        self._model, self._first = model, first
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the step's weights in."""
        count = state.global_step - self._first + 1
        if count < 1:
            return
        weights = trained_state(self._model)
        if count == 1:
            self.mean = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for name, tensor in weights.items():
            self.mean[name] += (tensor - self.mean[name]) / count

    def save(self, checkpoint: Path) -> None:
        """Write it beside a checkpoint's weights."""
        if self.mean:
            save_whole(self.mean, checkpoint / MEAN_FILE)

    def resume(self, checkpoint: Path) -> None:
        """Go on from what `save` wrote."""
        if (checkpoint / MEAN_FILE).is_file():
            self.mean = load_file(checkpoint / MEAN_FILE)
