"""A model as one folder: written whole or not at all, read back exactly, safetensors alone.

It holds `config.json`, `vision.safetensors`, `connector.safetensors`, the language model with its tokenizer
under `llm/` as transformers saves it, and, where it was trained with LoRA, `adapter/` as peft saves it.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dclocal.errors import UserError
from dclocal_models.vlm import DenseConnectorModel, ModelConfig

CONFIG_FILE, VISION_FILE, CONNECTOR_FILE = "config.json", "vision.safetensors", "connector.safetensors"
LLM_FOLDER, ADAPTER_FOLDER = "llm", "adapter"
NEWLINE_NAME = "image_newline"


class CheckpointError(UserError):
    """A checkpoint that is partial, damaged or of another model than its config says."""


def save_checkpoint(model: DenseConnectorModel, tokenizer: Any, folder: Path) -> None:
    """Write a whole checkpoint under a temporary name and rename it; an older one is replaced."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in model.vision.state_dict().items()}, part / VISION_FILE)
    connector = dict(model.connector.state_dict())
    if model.image_newline is not None:
        connector[NEWLINE_NAME] = model.image_newline.detach()
    save_file({name: tensor.float().contiguous() for name, tensor in connector.items()}, part / CONNECTOR_FILE)
    llm = model.llm
    if hasattr(llm, "peft_config"):
        llm.save_pretrained(part / ADAPTER_FOLDER)
        _save_base(llm, part / LLM_FOLDER)
    else:
        llm.save_pretrained(part / LLM_FOLDER)
    tokenizer.save_pretrained(part / LLM_FOLDER)
    (part / CONFIG_FILE).write_text(json.dumps(asdict(model.config), indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_checkpoint(
    folder: Path, *, dtype: torch.dtype = torch.float32, llm_weights: bool = True
) -> tuple[DenseConnectorModel, Any]:
    """The model (LoRA applied but not merged) and its tokenizer; raises CheckpointError.

    Without `llm_weights` the language model is on the meta device: its config and shapes, and no memory.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = read_config(folder)
    for name in (VISION_FILE, CONNECTOR_FILE, LLM_FOLDER):
        if not (folder / name).exists():
            raise CheckpointError(f"{folder} is not a whole checkpoint: {name} is missing", "copy or train it again")
    llm: Any
    if llm_weights:
        llm = AutoModelForCausalLM.from_pretrained(folder / LLM_FOLDER, dtype=dtype)
    else:
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / LLM_FOLDER), dtype=dtype)
    if llm_weights and (folder / ADAPTER_FOLDER).exists():
        from peft import PeftModel

        llm = PeftModel.from_pretrained(llm, folder / ADAPTER_FOLDER)
    model = DenseConnectorModel(config, llm)
    load_exactly(model.vision, read_tensors(folder / VISION_FILE), VISION_FILE)
    connector = read_tensors(folder / CONNECTOR_FILE)
    if model.image_newline is not None:
        if NEWLINE_NAME not in connector:
            raise CheckpointError(f"{CONNECTOR_FILE} lacks {NEWLINE_NAME}", "an AnyRes model needs it: copy it again")
        model.image_newline.data.copy_(connector.pop(NEWLINE_NAME))
    load_exactly(model.connector, connector, CONNECTOR_FILE)
    return model.eval(), AutoTokenizer.from_pretrained(folder / LLM_FOLDER)


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint folder; raises CheckpointError."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} is not a whole checkpoint: {CONFIG_FILE} is missing", "name its folder")
    try:
        return ModelConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} is not a config of ours ({error!r})", "copy or train it again") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A safetensors file; raises CheckpointError where it is damaged."""
    try:
        return load_file(file)
    except Exception as error:  # the library has an exception class of its own
        raise CheckpointError(f"{file} cannot be read ({error})", "copy or train it again") from error


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put `tensors` into `module`; raises CheckpointError naming what is missing, surplus or of another shape."""
    require_fit(module.state_dict(), tensors, where)
    module.load_state_dict(tensors)


def require_fit(wanted: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Compare names and shapes; raises CheckpointError naming what is missing, surplus or of another shape."""
    missing, surplus = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = [
        f"{name} is {list(found[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and tuple(found[name].shape) != tuple(tensor.shape)
    ]
    problems = [f"missing {some(missing)}"] * bool(missing) + [f"surplus {some(surplus)}"] * bool(surplus)
    problems += shapes[:3] + [f"{len(shapes) - 3} more shapes differ"] * (len(shapes) > 3)
    if problems:
        raise CheckpointError(f"{where} does not fit its config: {'; '.join(problems)}", "is it of another model?")


def some(names: list[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _save_base(peft_model: Any, folder: Path) -> None:
    """The language model without its LoRA layers, under its own tensor names; 4-bit weights as the numbers that
    they stand for, which are what the adapter was trained on."""
    base = peft_model.get_base_model()
    quantized = {name: module for name, module in base.named_modules() if hasattr(module, "quant_state")}
    state = {
        name.replace(".base_layer.", "."): tensor.contiguous()
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name and not any(name.startswith(f"{owner}.weight") for owner in quantized)
    }
    for owner, module in quantized.items():
        state[f"{owner.removesuffix('.base_layer')}.weight"] = _dequantized(module, base.config.dtype)
    if base.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    config = copy.deepcopy(base.config)
    config.architectures = [type(base).__name__]
    for key in ("quantization_config", "_pre_quantization_dtype"):
        config.__dict__.pop(key, None)
    config.save_pretrained(folder)
    base.generation_config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _dequantized(module: Any, dtype: torch.dtype) -> Tensor:
    """The weight of a bitsandbytes 4-bit layer."""
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return weight.to(dtype).cpu().contiguous()
