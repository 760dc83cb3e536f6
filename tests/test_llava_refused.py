"""What is opened as a published checkpoint: damaged, hostile or unknown ones are refused in one line."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dclocal_models.checkpoint import CheckpointError, save_checkpoint
from dclocal_models.llava_checkpoint import is_llava_checkpoint, open_llava_checkpoint
from dclocal_models.open import open_checkpoint
from tests import llava_layout as layout
from tests.llava_folders import write_base, write_full, write_lora
from tests.tiny import tiny_model


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A good checkpoint, to be spoiled."""
    tower = layout.make_tower("clip")
    tower.save_pretrained(tmp_path / "tower")
    write_full(tmp_path / "published", tower, inside=layout.tower_tensors(tower))
    return tmp_path / "published"


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_llava_checkpoint(folder, vision_tower=folder.parent / "tower", **options)
    assert "\n" not in str(caught.value) and caught.value.remedy


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"mm_projector_type": "linear"}, "mm_projector_type: 'linear' — known: 'mlp2x_gelu'"),
    ({"mm_dense_connector_type": "dcx"}, "mm_dense_connector_type: 'dcx'"),
    ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
    ({"mm_vision_select_layer": -3}, "mm_vision_select_layer: -3 with dci"),
    ({"mm_vision_select_layer": 40, "mm_dense_connector_type": "sci"}, "layer 40"),
    ({"mm_vision_select_layer": "-2"}, "mm_vision_select_layer: '-2' — expected a whole number"),
    ({"mm_vision_select_layer": None}, "no mm_vision_select_layer"),
    ({"image_aspect_ratio": "anyres"}, "anyres with mm_patch_merge_type: flat"),
    ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio: 'anyres_max_9'"),
    ({"image_aspect_ratio": None}, "cut out the centre"),
    ({"mm_use_im_start_end": True}, "mm_use_im_start_end: True"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"s2": True}, "S2"),
    ({"image_grid": 2}, "image_grid: 2"),
    ({"model_type": "llava_mpt"}, "model_type: 'llava_mpt' — known: .*llava_llama"),
    ({"model_type": ["llama"]}, "model_type"),
    ({"hidden_size": 10**9}, r"layers, tokens and width \(2, 40, 1000000000\)"),
    ({"num_hidden_layers": 10**9}, "layers, tokens and width"),
    ({"vocab_size": 41}, r"\(2, 41, 16\), the language model has \(2, 40, 16\)"),
    ({"intermediate_size": 32}, "model.layers.0.mlp.*expected"),
    ({"num_attention_heads": "many"}, "config.json"),
    ({"mm_dense_connector_type": "sti"}, r"model.mm_projector.0.weight is \[16, 24\], expected \[16, 8\]"),
]


@pytest.mark.parametrize(("keys", "message"), CONFIGS)
def test_a_config_that_would_answer_wrongly_is_refused(keys: dict[str, Any], message: str, published: Path) -> None:
    config = json.loads((published / "config.json").read_text()) | keys
    (published / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    refused(published, message)


def without(*names: str) -> Callable[[layout.Tensors], layout.Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


SPOILS: list[tuple[Callable[[layout.Tensors], layout.Tensors], str]] = [
    (without("model.norm.weight"), "the language model does not fit its config: missing model.norm.weight"),
    (
        without(*(f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkv")),
        "missing .*self_attn.k_proj.weight, .*self_attn.q_proj.weight, .*self_attn.v_proj.weight and 3 more",
    ),
    (without("model.mm_projector.2.bias"), "the projector .*missing model.mm_projector.2.bias"),
    (lambda t: {**t, "model.mm_projector.4.weight": torch.ones(2)}, "surplus model.mm_projector.4.weight"),
    (lambda t: {**t, "model.strange": torch.ones(2)}, "surplus model.strange"),
    (lambda t: {**t, "model.norm.weight": torch.ones(5)}, r"model.norm.weight is \[5\], expected \[16\]"),
    (lambda t: {**t, "model.norm.weight": torch.ones(16, dtype=torch.int8)}, "model.norm.weight is torch.int8"),
    (lambda t: {**t, "model.mm_projector.2.bias": torch.full((16,), torch.nan)}, "mm_projector.2.bias holds NaN"),
    (lambda t: {**t, "model.mm_projector.2.bias": torch.full((16,), torch.inf)}, "NaN or infinity"),
    (without(f"{layout.INSIDE}vision_model.pre_layrnorm.bias"), "the vision tower .*missing .*pre_layrnorm.bias"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS)
def test_tensors_that_do_not_fit_are_named(
    spoil: Callable[[layout.Tensors], layout.Tensors], message: str, published: Path
) -> None:
    layout.write_weights(published, spoil(load_file(published / "model.safetensors")))
    refused(published, message)


def test_a_tower_with_a_layer_too_few(published: Path) -> None:
    tensors = load_file(published / "model.safetensors")
    layout.write_weights(
        published, {name: value for name, value in tensors.items() if "encoder.layers.23." not in name}
    )
    refused(published, "the vision tower has 23 layers, its config 24")
    tower = layout.make_tower("siglip")
    whole = {name: value for name, value in tensors.items() if not name.startswith(layout.INSIDE)}
    layout.write_weights(published, {**whole, **layout.tower_tensors(tower, 25)})
    tower.save_pretrained(published.parent / "tower")
    refused(published, "has 25 layers; expected 27, or 26 without the last")


class Malice:
    """What a hostile pickle does as it is opened."""

    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.bin"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_run(name: str, zipped: bool, tmp_path: Path) -> None:
    """Any of the files that published checkpoints keep as pickles could run code as it is opened."""
    llm, projector = layout.make_llm(), layout.make_projector(3 * layout.WIDTH)
    folder, mark = tmp_path / "published", tmp_path / "run"
    if name in ("non_lora_trainables.bin", "adapter_model.bin"):
        write_lora(folder, llm, projector, "adapter_model.bin", "")
    else:
        layout.write_config(folder, llm)
    layout.write_tokenizer(folder)
    write_base(tmp_path / "base", llm)
    layout.make_tower("clip").save_pretrained(tmp_path / "tower")
    data = {"model.mm_projector.0.weight": Malice(str(mark))}
    if zipped:
        torch.save(data, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(data))
    refused(folder, f"{name} was refused", base=tmp_path / "base")
    assert not mark.exists()
    pickle.loads(pickle.dumps(data))
    assert mark.exists(), "the pickle must be one that does run"


def header(size: int, text: bytes = b"") -> bytes:
    return size.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(1 << 40),
        header(1 << 63, b"{}"),
        header(40 << 20, b"{" + b" " * ((40 << 20) - 2) + b"}"),
        header(60, b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}'),
        header(4, b"[[[["),
    ],
)
def test_damaged_and_hostile_safetensors(content: bytes, published: Path) -> None:
    (published / "model.safetensors").write_bytes(content)
    refused(published, r"model.safetensors cannot be read .* — it is truncated or damaged")


def test_truncated_shards(tmp_path: Path) -> None:
    tower = layout.make_tower("clip")
    tower.save_pretrained(tmp_path / "tower")
    for form in ("model.safetensors", "pytorch_model.bin"):
        folder = tmp_path / form
        write_full(folder, tower, inside=layout.tower_tensors(tower), form=f"{form} sharded")
        shard = next(iter(sorted(folder.glob("*-00002-of-00003.*"))))
        shard.write_bytes(shard.read_bytes()[:-100])
        refused(folder, "00002-of-00003.* (cannot be read|was refused)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": "model-00009-of-00003.safetensors"}, "lacks model-00009-of-00003.safetensors, which"),
        ({"model.norm.weight": "../tower/model.safetensors"}, "names files outside of its folder: ../tower"),
        ({"model.norm.weight": "/etc/passwd"}, "outside of its folder: /etc/passwd"),
        ({"model.norm.weight": "..\\x.safetensors"}, "outside of its folder"),
        ({"model.more.weight": "model-00001-of-00003.safetensors"}, "lacks model.more.weight, which"),
        ({"model.norm.weight": 3}, "has no weight_map"),
        (None, "has no weight_map"),
    ],
)
def test_an_index_that_lies(change: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    tower, folder = layout.make_tower("clip"), tmp_path / "published"
    tower.save_pretrained(tmp_path / "tower")
    write_full(folder, tower, inside=layout.tower_tensors(tower), form="model.safetensors sharded")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] = index["weight_map"] | change if change else []
    file.write_text(json.dumps(index))
    refused(folder, message)


def test_what_else_is_missing_is_said(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(published, "the tokenizer lacks .*<|im_start|>", prompt="chatml")
    refused(published, "unknown prompt format 'v1' — say prompt=…, one of chatml", prompt="v1")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection\nat all")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="unheard-of-tower.* cannot be had .*all"):
        patch.setattr("transformers.AutoConfig.from_pretrained", offline)
        open_llava_checkpoint(published)
    (published / "tokenizer.json").unlink()
    refused(published, "no tokenizer in")
    (published / "tokenizer.model").write_bytes(b"x")
    (published / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    refused(published, "cannot be opened .*pip install sentencepiece")
    (published / "model.safetensors").unlink()
    refused(published, "holds neither a model's weights nor mm_projector.bin")
    for text in ("[1]", "{", '{"a":' * 100_000):
        (published / "config.json").write_text(text)
        refused(published, "config.json (cannot be read|holds)")


def test_either_layout_is_opened_by_what_it_holds(published: Path, tmp_path: Path) -> None:
    ours = tiny_model("clip")
    layout.write_tokenizer(tmp_path / "words")
    from transformers import AutoTokenizer

    save_checkpoint(ours, AutoTokenizer.from_pretrained(tmp_path / "words"), tmp_path / "ours")
    assert is_llava_checkpoint(published) and not is_llava_checkpoint(tmp_path / "ours")
    assert not is_llava_checkpoint(tmp_path / "tower")
    model, _ = open_checkpoint(tmp_path / "ours")
    assert all(np.array_equal(a.detach(), b.detach()) for a, b in zip(model.parameters(), ours.parameters()))
    model, _ = open_checkpoint(published, vision_tower=tmp_path / "tower")
    assert model.config.provenance["layout"] == "llava"
    with pytest.raises(CheckpointError, match="takes no base"):
        open_checkpoint(tmp_path / "ours", base=tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a config of ours"):
        open_checkpoint(tmp_path / "tower")
