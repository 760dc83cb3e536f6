"""Tiny models with the real architecture, for tests that need no weights."""

from __future__ import annotations

from typing import Any

import torch

from dclocal_models.connectors import ConnectorConfig
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig

TOWER = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 14, "mlp_ratio": 2}
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


def tiny_config(backbone: str = "dinov2", groups: int = 2) -> ModelConfig:
    """A four-layer ViT on 56-pixel pictures: 16 patches, 4 visual tokens."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    vision = VisionConfig(backbone=backbone, image_size=56, image_mean=mean, image_std=std, tower=TOWER)
    return ModelConfig(vision, ConnectorConfig(groups=groups, token_grid=(2, 2)), "chatml")


def tiny_llm() -> Any:
    """A two-layer Llama of width 24."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def tiny_model(backbone: str = "dinov2") -> DenseConnectorModel:
    """The whole model, random, the same each time."""
    torch.manual_seed(0)
    return DenseConnectorModel(tiny_config(backbone), tiny_llm())


def tokenize(text: str, parse_special: bool) -> list[int]:
    """Words and marks of WORDS; anything else by its first letter."""
    import re

    found = re.findall(r"<\|im_start\|>|<\|im_end\|>|\n|\w+|\S", text)
    return [WORDS.index(word) if word in WORDS else 20 + ord(word[0]) % 40 for word in found]
