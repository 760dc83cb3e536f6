"""How fast a run is: pictures, text tokens and steps a second, in the log beside the loss."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback


class SpeedCallback(TrainerCallback):
    """Adds `rows_per_s` and `visual_tokens_per_s` over the steps since the last log to each log entry."""

    def __init__(self, tokens_per_image: int):
        self.tokens_per_image = tokens_per_image
        self._since, self._step = time.perf_counter(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._since, self._step = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        steps, spent = state.global_step - self._step, time.perf_counter() - self._since
        if logs is None or "loss" not in logs or steps < 1:
            return
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        logs["rows_per_s"] = round(steps * batch / spent, 3)
        logs["visual_tokens_per_s"] = round(steps * batch * self.tokens_per_image / spent, 1)
        self._since, self._step = time.perf_counter(), state.global_step
