"""A recipe's whole model without its weights: on PyTorch's meta device, where a tensor is a shape and a dtype.

What a dry run counts parameters on; needs no network, no tokenizer and next to no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dclocal_models.checkpoint import ADAPTER_FOLDER, CONFIG_FILE, LLM_FOLDER, read_config
from dclocal_models.embedded import DC_TINY, SHIPPED, UNTRAINED
from dclocal_models.vlm import DenseConnectorModel, ModelConfig
from dclocal_train.config import LlmSource, Recipe, RecipeError
from dclocal_train.start import KNOWN_STARTS, llm_config, model_config, training_dtype

SMOLLM2_135M = LlmSource(
    {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
)
"""The embedded default's language model, which is otherwise read out of its GGUF."""


@dataclass(frozen=True)
class MetaModel:
    """A model on the meta device; `in_4bit` of the language model's parameters will be held in four bits."""

    model: DenseConnectorModel
    in_4bit: int = 0


def meta_model(recipe: Recipe) -> MetaModel:
    """What `start.start_model` would load, in its dtypes; raises RecipeError for a start that there is not."""
    dtype = training_dtype(recipe)
    if recipe.start in (UNTRAINED, SHIPPED):
        return MetaModel(_on_meta(DC_TINY, llm_config(SMOLLM2_135M), dtype))
    if recipe.model is not None:
        model = _on_meta(model_config(recipe.model), llm_config(recipe.model.llm), dtype)
        model.vision.to(dtype)
        return MetaModel(model, _linear_parameters(model) if recipe.model.llm.load_in_4bit else 0)
    return MetaModel(_checkpoint(Path(recipe.start), dtype))


def _on_meta(config: ModelConfig, language: Any, dtype: torch.dtype) -> DenseConnectorModel:
    from transformers import AutoModelForCausalLM
    from transformers.modeling_utils import no_init_weights

    with torch.device("meta"), no_init_weights():
        try:
            llm = AutoModelForCausalLM.from_config(language, dtype=dtype)
            llm.tie_weights()  # no_init_weights skips it
            return DenseConnectorModel(config, llm)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"the recipe's model: {error}", "mend the recipe") from error


def _checkpoint(folder: Path, dtype: torch.dtype) -> DenseConnectorModel:
    from transformers import AutoConfig

    if not (folder / CONFIG_FILE).is_file():
        raise RecipeError(f"start is {str(folder)!r}", KNOWN_STARTS)
    model = _on_meta(read_config(folder), AutoConfig.from_pretrained(folder / LLM_FOLDER), dtype)
    if (folder / ADAPTER_FOLDER).exists():
        from peft import PeftConfig, get_peft_model

        with torch.device("meta"):
            model.llm = get_peft_model(model.llm, PeftConfig.from_pretrained(str(folder / ADAPTER_FOLDER)))
    return model


def _linear_parameters(model: DenseConnectorModel) -> int:
    """What bitsandbytes quantizes: the weights of the decoder's linear layers, the output embeddings left out."""
    layers = model.base_llm.get_decoder().modules()
    return sum(layer.weight.numel() for layer in layers if isinstance(layer, nn.Linear))
