"""Tiny random language models as Hugging Face folders, with real tokenizers made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SAMPLE = Path(__file__).parent.parent / "export" / "dclocal_export" / "llm_text.txt"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
WIDTHS = {"llama": 96, "phi": 64, "qwen2": 64}


def byte_tokenizer(kind: str) -> Any:
    """A byte-level BPE of some 350 tokens that splits as GPT-2 (Phi), Llama-3 or Qwen2 do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    if kind == "phi":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pattern = QWEN_SPLIT if kind == "qwen2" else QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=SPECIALS, **options)
    tokenizer.train_from_iterator([SAMPLE.read_text(encoding="utf-8")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", bos_token="<|im_start|>")


def make_llm(kind: str, width: int | None = None, seed: int = 0, **changes: Any) -> Any:
    """Two layers, weights drawn widely enough that a wrong row is seen."""
    import transformers

    width = width or WIDTHS[kind]
    sizes = {
        "vocab_size": 352,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if kind == "phi" else 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[kind](**{**sizes, **changes})
    llm = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn_like(parameter) * 1.5 * parameter.shape[1] ** -0.5
        else:
            parameter.data += torch.randn_like(parameter) * 0.05
    return llm.half().float().eval()


def write_folder(folder: Path, kind: str, llm: Any = None, **options: Any) -> Any:
    """A model and its tokenizer saved as transformers does; the model."""
    llm = make_llm(kind) if llm is None else llm
    llm.save_pretrained(folder, **options)
    byte_tokenizer(kind).save_pretrained(folder)
    return llm


def add_lora(llm: Any, folder: Path, **options: Any) -> Any:
    """A copy of the model under random LoRA on every linear layer of its blocks, the adapter saved as peft does."""
    import copy

    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": LINEAR[llm.config.model_type], **options})
    tuned = get_peft_model(copy.deepcopy(llm), config)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * (0.3 if "lora_B" in name else parameter.shape[1] ** -0.5)
    tuned.save_pretrained(folder)
    return tuned.eval()
