"""Where a training step's time goes: vision, connector, language model forward, backward, optimizer.

`python -m dclocal_train.step_benchmark RECIPE` takes a few steps of a recipe's stage on its own rows, once with
the pictures' pixels and once with features that are there already, in turn, so that both meet the same machine.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.collate import Collator
from dclocal_train.config import Recipe, StageConfig, load_recipe
from dclocal_train.inputs import Pixels
from dclocal_train.precision import has_quick_bf16
from dclocal_train.run import stage_dataset
from dclocal_train.stages import make_optimizer, prepare_stage, trained
from dclocal_train.start import start_model

PARTS = ("vision", "connector", "llm_forward", "backward", "optimizer")


class StepTimer:
    """One step, timed part by part, in milliseconds."""

    def __init__(self, model: DenseConnectorModel, stage: StageConfig):
        self.model, self.stage = model, stage
        self.device = next(model.connector.parameters()).device
        self.optimizer = make_optimizer(model, stage)

    def step(self, batch: dict[str, Any]) -> dict[str, float]:
        """Times of one step over a batch with `pixels`, or with `dense` features."""
        batch = {key: value.to(self.device) for key, value in batch.items()}
        times: dict[str, float] = {}
        model = self.model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.bf16 and has_quick_bf16()):
            if "pixels" in batch:
                pixels = batch.pop("pixels").to(next(model.vision.parameters()).dtype)
                dense, conv_map = self._timed("vision", times, lambda: model.vision_features(pixels))
            else:
                dense, conv_map = batch.pop("dense"), batch.pop("conv_map", None)
            order = batch.pop("token_order", None)
            embeds = self._timed(
                "connector", times, lambda: model.arrange(model.connector.project(dense, conv_map), order)
            )
            loss = self._timed("llm_forward", times, lambda: self._loss(batch, embeds))
        self._timed("backward", times, loss.backward)
        self._timed("optimizer", times, self._update)
        return times

    def _loss(self, batch: dict[str, Any], embeds: torch.Tensor) -> torch.Tensor:
        inputs = self.model.embed(batch["input_ids"], batch["image_mask"], embeds)
        return self.model.next_token_loss(inputs, batch["position_ids"], batch["attention_mask"], batch["labels"])

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(trained(self.model), self.stage.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _timed(self, part: str, times: dict[str, float], work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        times[part] = 1000 * (time.perf_counter() - started)
        return result


def measure(recipe: Recipe, stage: StageConfig, steps: int, sources: Path | None) -> dict[str, Any]:
    """Medians and spreads (lowest, highest) of each part, and rows a second, from pixels and from features."""
    model, tokenizer = start_model(recipe, sources)
    prepare_stage(model, stage)
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    dataset = stage_dataset(recipe, stage, model, tokenizer, Path(recipe.output) / "features", cached=False)
    assert isinstance(dataset.inputs, Pixels)
    collate, timer = Collator(tokens_per_tile=model.connector.tokens), StepTimer(model, stage)
    times: dict[str, dict[str, list[float]]] = {"pixels": defaultdict(list), "features": defaultdict(list)}
    for index in range(steps + 1):
        examples = [dataset[(index * stage.batch_size + row) % len(dataset)] for row in range(stage.batch_size)]
        batch = collate(examples)
        features = {key: value for key, value in batch.items() if key != "pixels"}
        if "pixels" in batch:
            with torch.no_grad():
                pixels = batch["pixels"].to(timer.device, next(model.vision.parameters()).dtype)
                dense, conv_map = model.vision_features(pixels)
            features["dense"] = dense
            if conv_map is not None:
                features["conv_map"] = conv_map
        for source, inputs in (("pixels", dict(batch)), ("features", features)):
            found = timer.step(inputs)
            if index:  # the first step warms up
                for part, spent in found.items():
                    times[source][part].append(spent)
    return {source: _summary(parts, stage.batch_size) for source, parts in times.items()}


def _summary(parts: dict[str, list[float]], rows: int) -> dict[str, Any]:
    totals = [sum(step) for step in zip(*parts.values())]
    return {
        **{f"{part}_ms": [round(value, 1) for value in _spread(parts[part])] for part in PARTS if part in parts},
        "step_ms": [round(value, 1) for value in _spread(totals)],
        "rows_per_s": round(1000 * rows / statistics.median(totals), 3),
    }


def _spread(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


@click.command(epilog="Example: python -m dclocal_train.step_benchmark train/recipes/dc-tiny.yaml --steps 5")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--stage", "stage_index", default=-1, show_default=True, help="Which stage, from 0.")
@click.option("--steps", default=5, show_default=True)
@click.option("--sources", type=click.Path(path_type=Path), help="A folder with the packages.")
def main(recipe: Path, overrides: tuple[str, ...], stage_index: int, steps: int, sources: Path | None) -> None:
    """Time the parts of a training step; prints medians with lowest and highest as JSON."""
    settings = load_recipe(recipe, overrides)
    print(json.dumps(measure(settings, settings.stages[stage_index], steps, sources), indent=1))


if __name__ == "__main__":
    main()
