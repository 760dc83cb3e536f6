"""Whole folders of published checkpoints for tests, and what is opened of them compared with the released code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dclocal_models.vlm import DenseConnectorModel
from tests import llava_layout as layout

BEFORE, AFTER = [1, 5, 7], [9, 4]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def pixels(size: int = layout.SIZE, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(5))


def compare(
    model: DenseConnectorModel, tokenizer: Any, llm: Any, expected: torch.Tensor, seen: torch.Tensor, folder: Path
) -> None:
    """Embeddings and logits are the expected ones, and stay exactly so over our own layout."""
    with torch.no_grad():
        embeds = model.encode_images(seen)
    torch.testing.assert_close(embeds, expected, **TOLERANCE)
    assert expected.std() > 0.1, "the test's numbers must not vanish"
    ids = torch.tensor([BEFORE + [0] * embeds.shape[1] + AFTER])
    length = ids.shape[1]
    inputs = {
        "input_ids": ids,
        "position_ids": torch.arange(length)[None],
        "attention_mask": torch.tril(torch.ones(1, 1, length, length, dtype=torch.bool)),
        "image_mask": torch.tensor([[False] * len(BEFORE) + [True] * embeds.shape[1] + [False] * len(AFTER)]),
        "pixels": seen[:1],
    }
    with torch.no_grad():
        logits = model(**inputs)["logits"]
    torch.testing.assert_close(logits, layout.logits(llm, BEFORE, expected[0], AFTER), **TOLERANCE)
    model.save_pretrained(folder, tokenizer)
    again, words = DenseConnectorModel.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(again.encode_images(seen), embeds)
        assert torch.equal(again(**inputs)["logits"], logits)
    assert words.get_vocab() == tokenizer.get_vocab() and again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def write_full(
    folder: Path,
    tower: Any,
    *,
    connector: str | None = "dci",
    llm: Any = None,
    inside: layout.Tensors | None = None,
    form: str = "model.safetensors",
    words: str = "vicuna",
    **keys: Any,
) -> tuple[Any, layout.Tensors]:
    """A full checkpoint; its language model and projector."""
    llm = llm or layout.make_llm()
    projector = layout.make_projector(layout.WIDTH * (3 if connector in ("sci", "dci") else 1))
    tensors = {**layout.llm_tensors(llm), **projector, **(inside or {})}
    layout.write_config(folder, llm, mm_dense_connector_type=connector, **keys)
    layout.write_weights(folder, tensors, form)
    layout.write_tokenizer(folder, words)
    return llm, projector


def write_base(folder: Path, llm: Any) -> None:
    llm.save_pretrained(folder)
    layout.write_tokenizer(folder)


def write_lora(folder: Path, llm: Any, projector: layout.Tensors, form: str, base: str) -> None:
    layout.write_config(folder, llm)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, "bias": "none"}
    config |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": base, "lora_dropout": 0.05}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "inference_mode": True}))
    adapter = {}
    for layer in range(2):
        for part in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            adapter[f"{name}.lora_A.weight"] = torch.randn(4, layout.N_EMBD)
            adapter[f"{name}.lora_B.weight"] = torch.randn(layout.N_EMBD, 4)
    save_file(adapter, folder / form) if form.endswith("safetensors") else torch.save(adapter, folder / form)
    trained = {**projector, "lm_head.weight": layout.make_llm(seed=8).lm_head.weight.data}
    torch.save(
        {f"base_model.model.{name}": value for name, value in trained.items()}, folder / "non_lora_trainables.bin"
    )
