"""The run itself: transformers' Trainer over one stage, saving only what the stage trains."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.averaging import Averaging
from dclocal_train.config import Recipe, RecipeError, StageConfig
from dclocal_train.data import RowDataset
from dclocal_train.precision import has_quick_bf16
from dclocal_train.sampler import LengthGroupedSampler, row_length
from dclocal_train.speed import Speed
from dclocal_train.stages import make_optimizer
from dclocal_train.trained import TRAINED_FILE, load_trained, save_whole, trained_state


class StageArguments(TrainingArguments):
    """TrainingArguments that name a processor as torch.load knows it: accelerate's "cpu:0" is no place of its."""

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        device: torch.device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class StageTrainer(Trainer):
    """Trainer with a learning rate per part, and checkpoints that hold the trained parameters alone."""

    model: Any

    def __init__(self, *arguments: Any, stage: StageConfig, **options: Any):
        self.stage, self.speed = stage, Speed()
        super().__init__(*arguments, **options)
        self.averaging: Averaging | None = None
        if stage.average_from is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise RecipeError(
                    f"stage {stage.name}: average_from", "leave it out: this model's weights are in shards"
                )
            self.averaging = Averaging(self.model, stage.average_from)
            self.add_callback(self.averaging)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        ids, shown = inputs["input_ids"], inputs["image_mask"].any(dim=1)
        self.speed.count(len(ids), int(shown.sum()), ids.numel())
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.speed.rates(self.args.world_size)
        super().log(logs, start_time)

    def create_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model, self.stage)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.stage.group_by_length:
            return super()._get_train_sampler(train_dataset)
        dataset: Any = train_dataset or self.train_dataset
        batch = self.args.per_device_train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler([row_length(row) for row in dataset.rows], batch, self.args.seed)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_whole(trained_state(self.accelerator.unwrap_model(self.model), state_dict), folder / TRAINED_FILE)
        if self.averaging is not None:
            self.averaging.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint) / TRAINED_FILE)
        if self.averaging is not None:
            self.averaging.resume(Path(resume_from_checkpoint))


class EpochCallback(TrainerCallback):
    """Tells the data set which pass it is in, so that each pass draws its turns anew, and the same after a resume."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.dataset.epoch = int(state.epoch or 0)


def run_stage(
    model: DenseConnectorModel, dataset: RowDataset, collator: Any, recipe: Recipe, stage: StageConfig, folder: Path
) -> bool:
    """Train one stage in `folder`, resuming from its newest checkpoint; writes `trained.safetensors` at the end.

    The model has the stage's last weights then, or their mean with `average_from`.  True where the processes hold it in
    shards, so that it is of no further use here.
    """
    trainer = StageTrainer(
        model=model,
        args=training_arguments(recipe, stage, folder, len(dataset)),
        train_dataset=dataset,
        data_collator=collator,
        stage=stage,
        callbacks=[EpochCallback(dataset)],
    )
    newest = _newest_checkpoint(folder) if folder.exists() else None
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.averaging is not None:
        trained.load_state_dict(trainer.averaging.mean, strict=False)
    if trainer.is_world_process_zero():
        save_whole(trained_state(trained, gathered), folder / TRAINED_FILE)
        (folder / "losses.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    return sharded


def training_arguments(recipe: Recipe, stage: StageConfig, folder: Path, rows: int) -> StageArguments:
    """The stage in transformers' terms, for as many processes as run."""
    from accelerate import PartialState

    processes = PartialState().num_processes
    accumulation = accumulation_steps(stage, processes)
    steps = stage_steps(stage, rows, stage.batch_size * processes * accumulation)
    decay = {"num_decay_steps": min(stage.decay_steps, steps), "min_lr_ratio": 0.02}
    stable = stage.schedule == "stable"
    return StageArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="warmup_stable_decay" if stable else "cosine",
        lr_scheduler_kwargs=decay if stable else {},
        warmup_steps=warmup_steps(stage, steps),
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.bf16 and has_quick_bf16(),
        save_steps=stage.save_steps,
        save_total_limit=2,
        logging_steps=stage.log_steps,
        logging_dir=str(folder / "logs"),
        seed=recipe.seed,
        data_seed=recipe.seed,
        remove_unused_columns=False,
        report_to=_loggers(recipe),
        run_name=f"{recipe.name}-{stage.name}",
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=stage.workers,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )


def accumulation_steps(stage: StageConfig, processes: int) -> int:
    """How many batches of every process make one step; raises RecipeError where they don't make the global one."""
    if stage.global_batch is None:
        return 1
    at_once = stage.batch_size * processes
    if stage.global_batch % at_once:
        raise RecipeError(
            f"stage {stage.name}: global_batch {stage.global_batch} is no multiple of {processes} processes × "
            f"batch_size {stage.batch_size}",
            "change batch_size",
        )
    return stage.global_batch // at_once


def stage_steps(stage: StageConfig, rows: int, batch: int) -> int:
    """Optimizer steps of a stage over `rows`."""
    return stage.steps if stage.steps is not None else math.ceil(stage.epochs * rows / batch)


def warmup_steps(stage: StageConfig, steps: int) -> int:
    """How many of a stage's `steps` warm the rate up."""
    return round(stage.warmup_share * steps) if stage.warmup_share is not None else min(stage.warmup_steps, steps)


def _loggers(recipe: Recipe) -> list[str]:
    """The recipe's loggers that are installed; others are told of and left out."""
    from importlib.util import find_spec

    missing = [name for name in recipe.loggers if find_spec(name) is None]
    for name in missing:
        print(f"dclocal: no {name} log: pip install {name}", file=sys.stderr)
    return [name for name in recipe.loggers if name not in missing]


def _newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end (the trainer's state is its last file); others are removed."""
    found = {path: (path / "trainer_state.json").is_file() for path in folder.glob("checkpoint-*")}
    for path, whole in found.items():
        if not whole:
            shutil.rmtree(path, ignore_errors=True)
    whole_ones = [path for path, whole in found.items() if whole]
    return max(whole_ones, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
