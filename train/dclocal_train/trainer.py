"""The run itself: transformers' Trainer over one stage, saving only what the stage trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import Recipe, StageConfig
from dclocal_train.stages import parameter_groups

TRAINED_FILE = "trained.safetensors"


class StageTrainer(Trainer):
    """Trainer with a learning rate per part, and checkpoints that hold the trained parameters alone."""

    model: Any

    def __init__(self, *arguments: Any, stage: StageConfig, **options: Any):
        self.stage = stage
        super().__init__(*arguments, **options)

    def create_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(self.model, self.stage)
            self.optimizer = torch.optim.AdamW(groups, weight_decay=self.stage.weight_decay)
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self.model), folder / TRAINED_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint) / TRAINED_FILE)


class EpochCallback(TrainerCallback):
    """Tells the data set which pass it is in, so that each pass draws its turns anew, and the same after a resume."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.dataset.epoch = int(state.epoch or 0)


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that move, by name."""
    return {
        name: parameter.detach().contiguous() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def load_trained(model: torch.nn.Module, file: Path) -> None:
    """Put saved parameters back; raises ValueError naming what does not belong to this model."""
    state = load_file(file)
    unknown = set(state) - {name for name, _ in model.named_parameters()}
    if unknown:
        raise ValueError(f"{file} holds {sorted(unknown)[0]} and {len(unknown) - 1} more that this model has not")
    model.load_state_dict(state, strict=False)


def run_stage(
    model: DenseConnectorModel, dataset: Any, collator: Any, recipe: Recipe, stage: StageConfig, folder: Path
) -> None:
    """Train one stage in `folder`, resuming from its newest checkpoint; writes `trained.safetensors` at the end."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.gradient_accumulation,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": stage.decay_steps, "min_lr_ratio": 0.02},
        warmup_steps=stage.warmup_steps,
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.bf16,
        save_steps=stage.save_steps,
        save_total_limit=2,
        logging_steps=stage.log_steps,
        seed=recipe.seed,
        data_seed=recipe.seed,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=0,
        label_names=["labels"],
    )
    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        stage=stage,
        callbacks=[EpochCallback(dataset)],
    )
    newest = _newest_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    save_file(trained_state(model), folder / TRAINED_FILE)
    (folder / "losses.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")


def _newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end (the trainer's state is its last file)."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
