"""Checkpoints: what was trained must come back bit for bit, and a partial folder must not load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dclocal_models.checkpoint import VISION_FILE, CheckpointError, load_checkpoint, save_checkpoint
from dclocal_train.config import LoraSettings
from dclocal_train.stages import add_lora
from tests.tiny import tiny_model


class Tokenizer:
    """Stands in for a tokenizer where only its files matter."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def test_round_trip_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda path: Tokenizer())
    for backbone in ("dinov2", "dinov2+efficientnet_lite2"):
        model = tiny_model(backbone)
        add_lora(model, LoraSettings(rank=2, alpha=4, learning_rate=1e-3))
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)  # an adapter that changes something
        save_checkpoint(model, Tokenizer(), tmp_path / "model")
        again, _ = load_checkpoint(tmp_path / "model")
        pixels = torch.randn(1, 3, 56, 56)
        assert torch.equal(model.encode_images(pixels), again.encode_images(pixels))
        ids = torch.arange(5)[None]
        with torch.no_grad():
            assert torch.equal(model.llm(ids).logits, again.llm(ids).logits)
        assert again.config == model.config


def test_partial_folder_is_named(tmp_path: Path) -> None:
    save_checkpoint(tiny_model(), Tokenizer(), tmp_path / "model")
    (tmp_path / "model" / VISION_FILE).unlink()
    with pytest.raises(CheckpointError, match=VISION_FILE):
        load_checkpoint(tmp_path / "model")
