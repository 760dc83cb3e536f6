"""Tiny models with the real architecture, for tests that need no weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dclocal_models.connectors import ConnectorConfig
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig

TOWER = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14}
WIDTHS: dict[str, dict[str, Any]] = {
    "dinov2": {"mlp_ratio": 2},
    "clip": {"intermediate_size": 64},
    "siglip": {"intermediate_size": 64},
    "dinov2+efficientnet_lite2": {"mlp_ratio": 2},
    "clip+convnext": {"intermediate_size": 64},
}
CONVNEXT = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "patch_size": 4}
WORDS = [
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "\n",
    "user",
    "assistant",
    "a",
    "red",
    "blue",
    "circle",
    "what",
    "?",
    "is",
]


def tiny_config(backbone: str = "dinov2", **connector: Any) -> ModelConfig:
    """A four-layer ViT on 56-pixel pictures: 16 patches, 4 visual tokens; where counts are said, on 84-pixel ones:
    36 patches and a block of 6 tokens."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    vision = VisionConfig(backbone, 56, mean, std, TOWER | WIDTHS[backbone])
    if backbone == "clip+convnext":
        vision = replace(vision, image_size=128, low_size=56, conv=CONVNEXT)
    settings: dict[str, Any] = {"final_layer": -1, "first_layer": 1, "token_grid": (2, 2)}
    if connector.get("counts"):
        tower = {**vision.tower, "image_size": 84}
        vision, settings = replace(vision, image_size=84, tower=tower), settings | {"token_grid": (2, 3)}
    return ModelConfig(vision, ConnectorConfig(**{**settings, **connector}), "chatml")


def tiny_llm(model_type: str = "llama", **changes: Any) -> Any:
    """A two-layer language model of width 24, its config changed where said."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**sizes, **changes}))


def tiny_model(backbone: str = "dinov2", **connector: Any) -> DenseConnectorModel:
    """The whole model, random, the same each time."""
    torch.manual_seed(0)
    return DenseConnectorModel(tiny_config(backbone, **connector), tiny_llm())


def tokenize(text: str, parse_special: bool) -> list[int]:
    """Words and marks of WORDS; anything else by its first letter."""
    import re

    found = re.findall(r"<\|im_start\|>|<\|im_end\|>|\n|\w+|\S", text)
    return [WORDS.index(word) if word in WORDS else 20 + ord(word[0]) % 40 for word in found]


def tiny_tokenizer() -> Any:
    """A transformers tokenizer of WORDS; anything else is one unknown token."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
