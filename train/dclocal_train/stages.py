"""What each stage trains, and at which rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import LoraSettings, StageConfig


def prepare_stage(model: DenseConnectorModel, stage: StageConfig) -> None:
    """Freeze all but what this stage trains; adds LoRA to the language model where the stage wants it."""
    model.requires_grad_(False)
    model.connector.requires_grad_(True)
    if stage.lora is None:
        return
    if not hasattr(model.llm, "peft_config"):
        add_lora(model, stage.lora)
    for name, parameter in model.llm.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def add_lora(model: DenseConnectorModel, lora: LoraSettings) -> None:
    """Wrap the language model with peft's LoRA, trainable weights in float32."""
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
    """The optimizer's groups: the connector at its rate, LoRA at its own."""
    groups = [{"params": list(model.connector.parameters()), "lr": stage.connector_learning_rate}]
    if stage.lora is not None:
        groups.append({"params": trained(model.llm), "lr": stage.lora.learning_rate})
    return groups


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that move."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
