"""What a recipe would do, without data, weights or network: sizes, steps, rates, memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dclocal import anyres
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import Recipe, StageConfig, to_plain
from dclocal_train.memory import MemoryEstimate, estimate_memory
from dclocal_train.meta import meta_model
from dclocal_train.run import count_parameters
from dclocal_train.stages import prepare_stage, trained
from dclocal_train.trainer import accumulation_steps, stage_steps, warmup_steps

GIB = 1 << 30
NOTE = "Memory is an estimate from shapes, for batches whose rows are all max_length long; it was not measured."


@dataclass(frozen=True)
class StagePlan:
    """One stage.  `rows_from`: "file" where the rows were counted, "recipe", or "unknown"; then `steps` may be None.

    `trained` counts parameters by part: connector, language model (its LoRA alone where there is one), vision.
    `memory` is per GPU, by way of sharding; see `memory.py` for the formula.
    """

    name: str
    rows: int | None
    rows_from: str
    steps: int | None
    warmup_steps: int | None
    batch_size: int
    accumulation: int
    global_batch: int
    trained: dict[str, int]
    trained_total: int
    frozen_total: int
    learning_rates: dict[str, float]
    memory: dict[str, MemoryEstimate]


@dataclass(frozen=True)
class Plan:
    """A recipe worked out.  `image_tokens` are the fewest and the most of one picture: equal but for AnyRes, where
    pictures that fill their canvas are meant (a very thin one has fewer); `parameters` counts the untrained model's
    by part; `layer_groups` are the hidden states that join `final_layer`."""

    recipe: dict[str, Any]
    gpus: int
    image_tokens: tuple[int, int]
    tiles: int
    projector_input_width: int
    projector_output_width: int
    final_layer: int
    layer_groups: tuple[tuple[int, ...], ...]
    parameters: dict[str, int]
    stages: tuple[StagePlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        data = dataclasses.asdict(self)
        for stage, plain in zip(self.stages, data["stages"]):
            for way, estimate in stage.memory.items():
                plain["memory"][way]["total_bytes"] = estimate.total_bytes
        return data


def dry_run(recipe: Recipe) -> Plan:
    """The plan of a recipe on `recipe.gpus` processes, its model built on the meta device.

    Raises RecipeError for what cannot be followed: an unknown name, or a batch that cannot be divided.
    """
    start = meta_model(recipe)
    model = start.model
    counts = {name: _size(part) for name, part in _parts(model).items()}
    tiles, image_tokens = _pictures(model)
    stages = []
    for stage in recipe.stages:
        with torch.device("meta"):  # LoRA is made here
            prepare_stage(model, stage)
        memory = estimate_memory(model, stage, recipe.gpus, tiles=tiles, in_4bit=start.in_4bit)
        stages.append(_stage_plan(recipe, stage, model, memory))
    return Plan(
        recipe=to_plain(recipe),
        gpus=recipe.gpus,
        image_tokens=image_tokens,
        tiles=tiles,
        projector_input_width=model.connector.projector[0].in_features,  # type: ignore[arg-type]
        projector_output_width=model.connector.projector[-1].out_features,  # type: ignore[arg-type]
        final_layer=model.connector.final,
        layer_groups=model.connector.groups,
        parameters={**counts, "total": sum(counts.values())},
        stages=tuple(stages),
    )


def _stage_plan(
    recipe: Recipe, stage: StageConfig, model: DenseConnectorModel, memory: dict[str, MemoryEstimate]
) -> StagePlan:
    accumulation = accumulation_steps(stage, recipe.gpus)
    batch = stage.batch_size * recipe.gpus * accumulation
    rows, rows_from = _rows(Path(recipe.data.folder) / stage.rows, stage)
    steps = stage_steps(stage, rows or 0, batch) if rows is not None or stage.steps is not None else None
    moved, frozen = count_parameters(model)
    return StagePlan(
        name=stage.name,
        rows=rows,
        rows_from=rows_from,
        steps=steps,
        warmup_steps=None if steps is None else warmup_steps(stage, steps),
        batch_size=stage.batch_size,
        accumulation=accumulation,
        global_batch=batch,
        trained={name: sum(p.numel() for p in trained(part)) for name, part in _parts(model).items()},
        trained_total=moved,
        frozen_total=frozen,
        learning_rates=_rates(stage),
        memory=memory,
    )


def _rows(file: Path, stage: StageConfig) -> tuple[int | None, str]:
    """How many rows there are: those of the file, or else those that the recipe says."""
    if file.exists():
        from dclocal_train.rows import open_rows

        return len(open_rows(file)), "file"
    return stage.row_count, "unknown" if stage.row_count is None else "recipe"


def _rates(stage: StageConfig) -> dict[str, float]:
    rates = {
        "connector": stage.connector_learning_rate,
        "lora": None if stage.lora is None else stage.lora.learning_rate,
        "llm": stage.llm_learning_rate,
        "vision": stage.vision_learning_rate,
    }
    return {name: rate for name, rate in rates.items() if rate is not None}


def _pictures(model: DenseConnectorModel) -> tuple[int, tuple[int, int]]:
    """The most squares that one picture is encoded as, and the fewest and the most tokens that it becomes."""
    config, tokens = model.config, model.connector.tokens
    if config.fit != "anyres":
        return 1, (tokens, tokens)
    side, grid = config.vision.image_size, model.connector.token_grid
    tiles = 1 + max((width // side) * (height // side) for width, height in config.pinpoints)
    fewest = min(anyres.token_count(canvas, [canvas], side, grid) for canvas in config.pinpoints)
    return tiles, (fewest, anyres.max_tokens(config.pinpoints, side, grid))


def _parts(model: DenseConnectorModel) -> dict[str, nn.Module]:
    connector = nn.ModuleList([model.connector])
    if model.image_newline is not None:
        connector.register_parameter("image_newline", model.image_newline)
    return {"vision": model.vision, "connector": connector, "llm": model.llm}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def format_plan(plan: Plan) -> str:
    """The plan as text; `Plan.to_dict` has the whole resolved recipe too."""
    recipe, fewest_most = plan.recipe, plan.image_tokens
    groups = ", ".join(f"{group[0]}–{group[-1]}" if len(group) > 1 else str(group[0]) for group in plan.layer_groups)
    tokens = f"{fewest_most[0]:,}" if fewest_most[0] == fewest_most[1] else f"{fewest_most[0]:,} to {fewest_most[1]:,}"
    lines = [
        f"{recipe['name']}: starts from {recipe['start']}, for {plan.gpus} process{'es' * (plan.gpus > 1)}",
        f"  parameters    {', '.join(f'{name} {count:,}' for name, count in plan.parameters.items())}",
        f"  hidden states {plan.final_layer}" + (f" with groups {groups}" if groups else ""),
        f"  projector     {plan.projector_input_width:,} → {plan.projector_output_width:,}",
        f"  visual tokens {tokens} per image" + (f", at most {plan.tiles} tiles" if plan.tiles > 1 else ""),
    ]
    for stage in plan.stages:
        lines += ["", *_stage_lines(stage, plan.gpus)]
    return "\n".join([*lines, "", NOTE])


def _stage_lines(stage: StagePlan, gpus: int) -> list[str]:
    said = {"file": "counted", "recipe": "as the recipe says", "unknown": ""}[stage.rows_from]
    rows = "rows unknown" if stage.rows is None else f"{stage.rows:,} rows ({said})"
    steps = "steps unknown" if stage.steps is None else f"{stage.steps:,} steps, {stage.warmup_steps} of warm-up"
    parts = ", ".join(f"{name} {count:,}" for name, count in stage.trained.items() if count)
    return [
        f"stage {stage.name}: {rows}, {steps}",
        f"  batch     {stage.global_batch} a step: {stage.accumulation} times {stage.batch_size} on each of {gpus}",
        f"  trained   {stage.trained_total:,} ({parts}), frozen {stage.frozen_total:,}",
        f"  rates     {', '.join(f'{name} {rate:g}' for name, rate in stage.learning_rates.items())}",
        *_memory_lines(stage.memory),
    ]


def _memory_lines(memory: dict[str, MemoryEstimate]) -> Sequence[str]:
    head = f"  {'GiB a GPU':<11} {'weights':>8} {'gradients':>10} {'optimizer':>10} {'activations':>12} {'total':>8}"
    lines = [head]
    for way, estimate in memory.items():
        cells = [*dataclasses.astuple(estimate), estimate.total_bytes]
        columns = [f"{size / GIB:>{width}.1f}" for size, width in zip(cells, (8, 10, 10, 12, 8))]
        lines.append(f"  {way:<11} {' '.join(columns)}")
    return lines
