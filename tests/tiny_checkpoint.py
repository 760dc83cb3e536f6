"""A checkpoint that is random but whole: model, language model and tokenizer in a folder, as training leaves them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from dclocal_models.vlm import DenseConnectorModel
from tests.tiny import tiny_config, tiny_llm

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]


def byte_tokenizer() -> Any:
    """All 256 bytes and a few merges: random models write half characters with it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is in the picture? user assistant\nsystem red blue circle"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")


def lively_llm(vocab: int) -> Any:
    """A random Llama whose answers vary: weights large enough that no token wins always."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "max_position_embeddings": 512}
    return tiny_llm(vocab_size=vocab, initializer_range=0.2, **sizes)


def save(folder: Path, **config: object) -> Path:
    tokenizer = byte_tokenizer()
    torch.manual_seed(3)
    model = DenseConnectorModel(dataclasses.replace(tiny_config(), **config), lively_llm(len(tokenizer)))  # type: ignore[arg-type]
    model.save_pretrained(folder, tokenizer)
    return folder
