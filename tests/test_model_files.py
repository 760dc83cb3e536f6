"""Checkpoints: what was trained must come back bit for bit, and a partial folder must not load."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dclocal_models.checkpoint import CONFIG_FILE, CONNECTOR_FILE, NEWLINE_NAME, VISION_FILE, CheckpointError
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import LoraSettings
from dclocal_train.stages import add_lora
from tests.tiny import tiny_config, tiny_llm, tiny_model, tiny_tokenizer

CASES: list[tuple[str, dict[str, Any]]] = [
    ("dinov2", {}),
    ("clip", {"kind": "sti_conv", "layers": (1, 2)}),
    ("siglip", {"kind": "dci_linear", "token_grid": None}),
    ("dinov2+efficientnet_lite2", {}),
    ("clip+convnext", {"fusion": "mining"}),
]


def anyres_model() -> DenseConnectorModel:
    config = dataclasses.replace(tiny_config(), fit="anyres", pinpoints=((56, 112), (112, 56)))
    return DenseConnectorModel(config, tiny_llm())


@pytest.mark.parametrize(("backbone", "connector"), CASES)
@pytest.mark.parametrize("lora", [False, True])
def test_round_trip_is_exact(backbone: str, connector: dict[str, Any], lora: bool, tmp_path: Path) -> None:
    """Config, embeddings, logits and tokenizer, of every kind of backbone and connector, with LoRA or without."""
    model = tiny_model(backbone, **connector).eval()
    if lora:
        add_lora(model, LoraSettings(rank=2, alpha=4, learning_rate=1e-3))
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)  # an adapter that changes something
    model.save_pretrained(tmp_path / "model", tiny_tokenizer())
    again, tokenizer = DenseConnectorModel.from_pretrained(tmp_path / "model")
    size = model.config.vision.image_size
    pixels, ids = torch.randn(1, 3, size, size), torch.arange(5)[None]
    with torch.no_grad():
        assert torch.equal(model.encode_images(pixels), again.encode_images(pixels))
        assert torch.equal(model.llm(ids).logits, again.llm(ids).logits)
    assert again.config == model.config
    assert tokenizer.encode("a red circle") == tiny_tokenizer().encode("a red circle")
    files = {path.name for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert not {name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))}


def test_anyres_brings_its_newline_back(tmp_path: Path) -> None:
    model = anyres_model()
    model.save_pretrained(tmp_path / "model", tiny_tokenizer())
    again, _ = DenseConnectorModel.from_pretrained(tmp_path / "model")
    assert again.config == model.config and torch.equal(again.image_newline, model.image_newline)
    tensors = load_file(tmp_path / "model" / CONNECTOR_FILE)
    del tensors[NEWLINE_NAME]
    save_file(tensors, tmp_path / "model" / CONNECTOR_FILE)
    with pytest.raises(CheckpointError, match=f"lacks {NEWLINE_NAME}"):
        DenseConnectorModel.from_pretrained(tmp_path / "model")


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while saving must leave the older checkpoint as it was."""
    tiny_model().save_pretrained(tmp_path / "model", tiny_tokenizer())
    before = (tmp_path / "model" / CONNECTOR_FILE).read_bytes()
    model = tiny_model()
    torch.nn.init.zeros_(model.connector.projector[0].weight)
    monkeypatch.setattr(model.llm, "save_pretrained", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path / "model", tiny_tokenizer())
    assert (tmp_path / "model" / CONNECTOR_FILE).read_bytes() == before
    DenseConnectorModel.from_pretrained(tmp_path / "model")


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """Exactly which tensor is missing, surplus or of another shape; a damaged file; a config of another program."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder, tiny_tokenizer())
    config = json.loads((folder / CONFIG_FILE).read_text())
    older = {**config, "connector": {key: config["connector"][key] for key in ("kind", "groups", "reduce")}}

    def failing(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            DenseConnectorModel.from_pretrained(folder)

    tensors = load_file(folder / CONNECTOR_FILE)
    weight = tensors.pop("projector.2.weight")
    save_file({**tensors, "extra": weight}, folder / CONNECTOR_FILE)
    failing(r"missing projector\.2\.weight; surplus extra")
    save_file({**tensors, "projector.2.weight": weight[:5].clone()}, folder / CONNECTOR_FILE)
    failing(r"projector\.2\.weight is \[5, 24\], expected \[24, 24\]")
    whole = (folder / VISION_FILE).read_bytes()
    (folder / VISION_FILE).write_bytes(whole[: len(whole) // 2])
    failing(f"{VISION_FILE} cannot be read")
    (folder / VISION_FILE).unlink()
    failing(f"{VISION_FILE} is missing")
    for damaged in (
        "{",
        "[]",
        '{"architectures": ["LlavaLlamaForCausalLM"]}',
        json.dumps({**config, "fit": "crop"}),
        json.dumps(older),
    ):
        (folder / CONFIG_FILE).write_text(damaged)
        failing("is not a config of ours")
    (folder / CONFIG_FILE).unlink()
    failing(f"{CONFIG_FILE} is missing")
