"""What each stage trains, and at which rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dclocal_models.place_nets import PlaceNet
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import LoraSettings, RecipeError, StageConfig
from dclocal_train.fake_quant import round_lora


def prepare_stage(model: DenseConnectorModel, stage: StageConfig) -> None:
    """Freeze all but what this stage trains; adds LoRA to the language model where the stage wants it.

    What is trained is held in float32, whatever the rest is in: small steps are lost in bfloat16.
    """
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    for module in model.connector.modules():
        if isinstance(module, PlaceNet):
            module.requires_grad_(False)
    if model.image_newline is not None:
        model.image_newline.requires_grad_(True)
    if stage.vision_learning_rate is not None:
        model.vision.requires_grad_(True)
    if stage.llm_learning_rate is not None:
        model.llm.requires_grad_(True)
    if stage.lora is not None:
        if not hasattr(model.llm, "peft_config"):
            add_lora(model, stage.lora)
        found = model.llm.peft_config[model.llm.active_adapter]
        if (found.r, found.lora_alpha) != (stage.lora.rank, stage.lora.alpha):
            raise RecipeError(
                f"stage {stage.name} wants LoRA of rank {stage.lora.rank} and alpha {stage.lora.alpha}; the model has "
                f"rank {found.r} and alpha {found.lora_alpha}",
                "one run has one adapter: use the model's",
            )
        if stage.lora.rounded is not None:
            round_lora(model.llm, stage.lora.rounded)
        for name, parameter in model.llm.named_parameters():
            parameter.requires_grad_(".lora_" in name)
    for parameter in trained(model):
        parameter.data = parameter.data.float()
    if stage.gradient_checkpointing:
        model.base_llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.base_llm.enable_input_require_grads()


def add_lora(model: DenseConnectorModel, lora: LoraSettings) -> None:
    """Wrap the language model with peft's LoRA."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    model.llm = get_peft_model(model.llm, config)


def parameter_groups(model: DenseConnectorModel, stage: StageConfig) -> list[dict[str, Any]]:
    """The optimizer's groups: connector, language model (or its LoRA) and backbone, each at its own rate."""
    connector = trained(model.connector)
    if model.image_newline is not None:
        connector.append(model.image_newline)
    rate = stage.lora.learning_rate if stage.lora is not None else stage.llm_learning_rate
    groups: list[dict[str, Any]] = [
        {"params": connector, "lr": stage.connector_learning_rate},
        {"params": trained(model.llm), "lr": rate},
        {"params": trained(model.vision), "lr": stage.vision_learning_rate},
    ]
    return [group for group in groups if group["lr"] is not None]


def make_optimizer(model: DenseConnectorModel, stage: StageConfig) -> torch.optim.Optimizer:
    """AdamW, or bitsandbytes' with 8-bit states, which may be paged out of the GPU's memory."""
    groups = parameter_groups(model, stage)
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=stage.weight_decay)
    import bitsandbytes

    kinds = {"adamw_8bit": bitsandbytes.optim.AdamW8bit, "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit}
    optimizer: torch.optim.Optimizer = kinds[stage.optimizer](groups, weight_decay=stage.weight_decay)
    return optimizer


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that move."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
