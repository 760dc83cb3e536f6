"""Published checkpoints in parts: a projector or LoRA alone, on the language model of another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dclocal_models.checkpoint import CheckpointError
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.llava_checkpoint import is_llava_checkpoint, open_llava_checkpoint
from dclocal_models.open import open_checkpoint
from tests import llava_layout as layout
from tests.llava_folders import compare, pixels, write_base, write_lora


@pytest.mark.parametrize("config", [True, False])
def test_a_projector_alone(config: bool, tmp_path: Path) -> None:
    """Stage 1's output on the language model of `base`, its config beside it or told by an argument."""
    tower, llm, projector = layout.make_tower("clip"), layout.make_llm(), layout.make_projector(3 * layout.WIDTH)
    write_base(tmp_path / "base", llm)
    tower.save_pretrained(tmp_path / "tower")
    folder = tmp_path / "stage1"
    folder.mkdir()
    torch.save({name: value.bfloat16() for name, value in projector.items()}, folder / "mm_projector.bin")
    projector = {name: value.bfloat16().float() for name, value in projector.items()}
    places: dict[str, Any] = {"base": tmp_path / "base", "vision_tower": tmp_path / "tower"}
    if config:
        layout.write_config(folder, llm, image_aspect_ratio=None)
        with pytest.raises(CheckpointError, match="centre of pictures.*fit='pad'"):
            open_llava_checkpoint(folder, **places)
        places["fit"] = "pad"
    else:
        with pytest.raises(CheckpointError, match="connector=ConnectorConfig"):
            open_llava_checkpoint(folder, **places)
        places["connector"] = ConnectorConfig.reference("dci")
    assert is_llava_checkpoint(folder)
    model, tokenizer = open_checkpoint(folder, **places)
    expected = layout.project(layout.dense("dci", "clip", tower, pixels()), projector)
    compare(model, tokenizer, llm, expected, pixels(), tmp_path / "ours")
    assert model.config.provenance["kind"] == "projector" and model.config.fit == "pad"
    with pytest.raises(CheckpointError, match="holds a projector without its language model.*base"):
        open_llava_checkpoint(folder, **{**places, "base": None})


@pytest.mark.parametrize("form", ["adapter_model.safetensors", "adapter_model.bin"])
def test_lora_is_applied_and_not_merged(form: str, tmp_path: Path) -> None:
    """Against W + alpha/r · B A worked out by hand."""
    tower, llm, projector = layout.make_tower("clip"), layout.make_llm(), layout.make_projector(3 * layout.WIDTH)
    write_base(tmp_path / "base", llm)
    tower.save_pretrained(tmp_path / "tower")
    folder = tmp_path / "lora"
    write_lora(folder, llm, projector, form, str(tmp_path / "base"))
    assert is_llava_checkpoint(folder)
    model, tokenizer = open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    merged = layout.make_llm()
    merged.lm_head.weight.data = torch.load(folder / "non_lora_trainables.bin")["base_model.model.lm_head.weight"]
    adapter = load_file(folder / form) if form.endswith("safetensors") else torch.load(folder / form)
    for name in adapter:
        if name.endswith("lora_A.weight"):
            linear = merged.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            linear.weight.data += 16 / 4 * adapter[name.replace("lora_A", "lora_B")] @ adapter[name]
    expected = layout.project(layout.dense("dci", "clip", tower, pixels()), projector)
    compare(model, tokenizer, merged, expected, pixels(), tmp_path / "ours")
    assert hasattr(model.llm, "peft_config") and (tmp_path / "ours" / "adapter").is_dir()
    assert model.config.provenance["kind"] == "lora"
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])

    lost = {name: value for name, value in adapter.items() if "layers.1.self_attn.v_proj.lora_B" not in name}
    (folder / form).unlink()
    save_file(lost, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="missing base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"):
        open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    config = json.loads((folder / "adapter_config.json").read_text())
    save_file(adapter, folder / "adapter_model.safetensors")
    for change, message in (
        ({"r": 8}, r"lora_A.weight is \[4, 16\], expected \[8, 16\]"),
        ({"r": 10**9}, "its rank is 1000000000, no side of .* is longer than 16"),
        ({"rank_pattern": {"q_proj": 10**9}}, "no side of"),
        ({"peft_type": "LOKR"}, "peft_type: 'LOKR'"),
        ({"modules_to_save": ["lm_head"]}, "only LoRA with no other modules"),
        ({"target_modules": ["c_proj"]}, "adapter_config.json does not fit the model"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=message):
            open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "lmsys/vicuna"}))
    with pytest.raises(CheckpointError, match="holds a lora without its language model"):
        open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
