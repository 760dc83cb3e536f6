"""The model that a recipe starts from: the embedded default's parts, parts named by the recipe, or a checkpoint."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dclocal.errors import UserError
from dclocal.formats import FORMATS
from dclocal.store import parts_folder
from dclocal_models.embedded import SHIPPED, UNTRAINED, pretrained_dc_tiny, shipped_dc_tiny
from dclocal_models.open import open_checkpoint
from dclocal_models.registry import BACKBONES, CONNECTORS, lookup
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig
from dclocal_train.config import LlmSource, ModelSource, Recipe, RecipeError, TowerSource
from dclocal_train.matmul_attention import prepare_for_cpu
from dclocal_train.precision import has_quick_bf16

KNOWN_STARTS = f"use {UNTRAINED}, {SHIPPED}, model, or the folder of a checkpoint"


class StartError(UserError):
    """Weights that are not what the recipe says they are."""


def start_model(recipe: Recipe, source_folder: Path | None) -> tuple[DenseConnectorModel, Any]:
    """The untrained model and its tokenizer; frozen parts are bfloat16 where the recipe's stages and the machine's
    products are."""
    dtype = _dtype_here(recipe)
    model, tokenizer = _start(recipe, source_folder, dtype)
    if dtype is torch.bfloat16 and not torch.cuda.is_available():
        prepare_for_cpu(model)
    return model, tokenizer


def _start(recipe: Recipe, source_folder: Path | None, dtype: torch.dtype) -> tuple[DenseConnectorModel, Any]:
    if recipe.start == UNTRAINED:
        from dclocal_train.sources import fetch_sources

        sources = fetch_sources(("vit", "conv", "llm"), source_folder)
        return pretrained_dc_tiny(sources["vit"], sources["conv"], sources["llm"], dtype=dtype)
    if recipe.start == SHIPPED:
        from dclocal_train.sources import fetch_sources

        sources = fetch_sources(("vit", "llm"), source_folder)
        return shipped_dc_tiny(parts_folder("dc-tiny"), sources["vit"], sources["llm"], dtype=dtype)
    if recipe.model is not None:
        return _assemble(recipe.model, dtype)
    if not Path(recipe.start).is_dir():
        raise RecipeError(f"start is {recipe.start!r}", KNOWN_STARTS)
    return open_checkpoint(Path(recipe.start), dtype=dtype)


def training_dtype(recipe: Recipe) -> torch.dtype:
    """In which the frozen parts are held, on a machine that has it."""
    return torch.bfloat16 if all(stage.bf16 for stage in recipe.stages) else torch.float32


def _dtype_here(recipe: Recipe) -> torch.dtype:
    dtype = training_dtype(recipe)
    if dtype is torch.bfloat16 and not has_quick_bf16():
        print("dclocal: this processor has no quick bfloat16, so training is in float32", file=sys.stderr)
        return torch.float32
    return dtype


def model_config(source: ModelSource) -> ModelConfig:
    """The architecture that a recipe describes; raises RecipeError for a name that is not known."""
    tower = source.vision
    try:
        lookup(BACKBONES, tower.backbone, "vision backbone")
        lookup(CONNECTORS, source.connector.kind, "connector")
        lookup(FORMATS, source.prompt, "prompt format")
        vision = VisionConfig(**{field.name: getattr(tower, field.name) for field in dataclasses.fields(VisionConfig)})
        return ModelConfig(vision, source.connector, source.prompt, source.fit, source.pinpoints)
    except ValueError as error:
        raise RecipeError(f"the recipe's model: {error}", "mend the recipe") from error


def llm_config(source: LlmSource) -> Any:
    """transformers' config of the language model that a recipe describes."""
    from transformers import AutoConfig

    settings = dict(source.config)
    kind = settings.pop("model_type", None)
    if kind is None:
        raise RecipeError("model.llm.config has no model_type", "name one, such as llama, phi or qwen2")
    try:
        return AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise RecipeError(f"model.llm.config: {error}", "name a model_type that transformers knows") from error


def _assemble(source: ModelSource, dtype: torch.dtype) -> tuple[DenseConnectorModel, Any]:
    from transformers import AutoTokenizer

    model = DenseConnectorModel(model_config(source), _language_model(source.llm, dtype))
    _load_tower(model, source.vision)
    where = source.llm.tokenizer or source.llm.pretrained
    if where is None:
        raise RecipeError("model.llm names no tokenizer", "add tokenizer: NAME-OR-FOLDER")
    model.vision.to(dtype)
    with _loading(where):
        return model, AutoTokenizer.from_pretrained(where)


@contextmanager
def _loading(where: str) -> Iterator[None]:
    """What transformers says of weights that it cannot get, as one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # a name that is no name is the latter
        reason = " ".join(str(error).split())
        raise StartError(
            f"{where} cannot be loaded ({reason:.200})", "name a folder, or a hub model that you may fetch"
        ) from error


def _language_model(source: LlmSource, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if source.pretrained is None:
        return AutoModelForCausalLM.from_config(llm_config(source), dtype=dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if source.load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    with _loading(source.pretrained):
        llm = AutoModelForCausalLM.from_pretrained(source.pretrained, **options)
    for key, wanted in source.config.items():
        found = getattr(llm.config, key, None)
        if found != wanted:
            raise StartError(
                f"{source.pretrained} has {key} {found!r}, the recipe says {wanted!r}", "name the right model"
            )
    return llm


def _load_tower(model: DenseConnectorModel, source: TowerSource) -> None:
    """The backbone's pretrained weights, from the hub or a folder."""
    vision = model.vision
    towers = [(getattr(vision, "vit", vision), "tower", source.pretrained), (vision, "conv", source.conv_pretrained)]
    for owner, name, where in towers:
        if where is None:
            continue
        fresh = getattr(owner, name)
        with _loading(where):
            loaded, info = type(fresh).from_pretrained(where, config=fresh.config, output_loading_info=True)
        if info["missing_keys"]:
            raise StartError(f"{where} lacks {sorted(info['missing_keys'])[0]} and others", "name the right tower")
        setattr(owner, name, loaded.requires_grad_(False).eval())
