"""The language model taken out of a checkpoint: a tensor lost, mixed up or merged wrongly would speak nonsense, and
a whole model in memory would not fit the machines that this is for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dclocal.errors import UserError
from dclocal.progress import silent
from dclocal_export.adapter import read_adapter
from dclocal_export.llm_folder import WORKING_BYTES, separate_adapter, write_llm_folder
from tests.llava_layout import make_projector, make_tower, tower_tensors, write_config, write_weights
from tests.tiny_hf import add_lora, byte_tokenizer, make_llm, write_folder


def write_llava(folder: Path, kind: str, llm: Any, form: str = "model.safetensors") -> None:
    """A full model in LLaVA's layout, with a tower and a projector among its tensors."""
    from dclocal_models.llava_config import LLM_TYPES

    model_type = next(name for name, plain in LLM_TYPES.items() if plain == kind and "llava" in name)
    write_config(folder, llm, model_type)
    tensors = {**llm.state_dict(), **tower_tensors(make_tower("clip")), **make_projector(16)}
    write_weights(folder, tensors, form)
    byte_tokenizer(kind).save_pretrained(folder)


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).float()


def stored_names(folder: Path) -> set[str]:
    return {name for file in folder.glob("*.safetensors") for name in load_file(file)}


def require_equal(folder: Path, expected: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    found = loaded(folder).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.float(), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("form", ["model.safetensors", "model.safetensors sharded", "pytorch_model.bin sharded"])
def test_a_full_llava_checkpoint_gives_its_language_model_alone(tmp_path: Path, form: str) -> None:
    llm = make_llm("llama")
    write_llava(tmp_path / "llava", "llama", llm, form)
    made = write_llm_folder(tmp_path / "llava", tmp_path / "llm", progress=silent)
    assert (made.kind, made.model_type, made.in_place, made.merged) == ("full", "llama", False, 0)
    require_equal(made.path, llm.state_dict())
    assert stored_names(made.path) == llm.state_dict().keys()  # neither tower nor projector
    config = json.loads((made.path / "config.json").read_text())
    assert config["model_type"] == "llama" and config["architectures"] == ["LlamaForCausalLM"]
    assert not any("mm_" in key for key in config)


@pytest.mark.parametrize("kind", ["phi", "qwen2"])
def test_other_families_and_tied_embeddings(tmp_path: Path, kind: str) -> None:
    llm = make_llm(kind, tie_word_embeddings=kind == "qwen2")
    write_llava(tmp_path / "llava", kind, llm)
    made = write_llm_folder(tmp_path / "llava", tmp_path / "llm", progress=silent)
    require_equal(made.path, llm.state_dict())
    assert ("lm_head.weight" in stored_names(made.path)) == (kind == "phi")


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.*": 3}}]
)
def test_merged_lora_is_pefts_own(tmp_path: Path, options: dict[str, Any]) -> None:
    llm = write_folder(tmp_path / "c" / "llm", "llama")
    tuned = add_lora(llm, tmp_path / "c" / "adapter", **options)
    made = write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)
    assert made.merged == 14 and made.kind == "ours" and made.adapter is None
    expected = tuned.merge_and_unload().state_dict()
    require_equal(made.path, expected, atol=2e-6)


def test_half_precision_stays_and_rounds_once(tmp_path: Path) -> None:
    """The sum is taken in float32 and rounded to what the checkpoint stores."""
    write_folder(tmp_path / "c" / "llm", "llama", make_llm("llama").to(torch.bfloat16))
    add_lora(make_llm("llama"), tmp_path / "c" / "adapter")
    made = write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)
    name = "model.layers.1.mlp.down_proj.weight"
    before = load_file(tmp_path / "c" / "llm" / "model.safetensors")[name]
    after = load_file(next(made.path.glob("*.safetensors")))[name]
    change = read_adapter(tmp_path / "c" / "adapter")[name]
    expected = before.double() + change.scale * (change.b.double() @ change.a.double())
    assert after.dtype == torch.bfloat16
    torch.testing.assert_close(after, expected.to(torch.bfloat16), rtol=2**-8, atol=1e-6)
    assert (after != expected.to(torch.bfloat16)).float().mean() < 1e-3


def test_what_does_not_change_is_used_in_place(tmp_path: Path) -> None:
    llm = write_folder(tmp_path / "c" / "llm", "llama")
    made = write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)
    assert made.in_place and made.path == tmp_path / "c" / "llm" and not (tmp_path / "out").exists()
    add_lora(llm, tmp_path / "c" / "adapter")
    apart = write_llm_folder(tmp_path / "c", tmp_path / "out", merge_lora=False, progress=silent)
    assert apart.in_place and apart.adapter == tmp_path / "c" / "adapter" == separate_adapter(tmp_path / "c")


def test_a_projector_uses_its_base_in_place_and_lora_is_merged_into_it(tmp_path: Path) -> None:
    llm = write_folder(tmp_path / "base", "llama")
    write_config(tmp_path / "projector", llm)
    torch.save(make_projector(16), tmp_path / "projector" / "mm_projector.bin")
    made = write_llm_folder(tmp_path / "projector", tmp_path / "out", base=tmp_path / "base", progress=silent)
    assert made.in_place and made.path == tmp_path / "base" and made.kind == "projector"
    write_config(tmp_path / "lora", llm)
    changed = torch.randn_like(llm.get_input_embeddings().weight)
    extra = {**make_projector(16), "model.embed_tokens.weight": changed}
    tuned = add_lora(llm, tmp_path / "lora")
    trained = {f"base_model.model.{name}": value for name, value in extra.items()}
    torch.save(trained, tmp_path / "lora" / "non_lora_trainables.bin")
    made = write_llm_folder(tmp_path / "lora", tmp_path / "out", base=tmp_path / "base", progress=silent)
    expected = tuned.merge_and_unload().state_dict() | {"model.embed_tokens.weight": changed}
    require_equal(made.path, expected, atol=2e-6)
    with pytest.raises(UserError, match="holds a projector without its language model"):
        write_llm_folder(tmp_path / "projector", tmp_path / "no", progress=silent)


def test_values_that_no_gguf_can_hold_are_named(tmp_path: Path) -> None:
    for value, said in ((float("nan"), "NaN"), (float("inf"), "infinity"), (1e6, "beyond float16")):
        llm = make_llm("llama")
        llm.model.layers[1].mlp.up_proj.weight.data[3, 5] = value
        write_folder(tmp_path / said / "llm", "llama", llm)
        with pytest.raises(UserError, match=f"model.layers.1.mlp.up_proj.weight holds .*{said}"):
            write_llm_folder(tmp_path / said, tmp_path / "out", progress=silent)
        assert not (tmp_path / "out").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "c" / "llm", "llama", max_shard_size="200KB")
    shards = sorted((tmp_path / "c" / "llm").glob("*.safetensors"))
    assert len(shards) > 2
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{shards[1].name} cannot be read"):
        write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)
    shards[1].unlink()
    with pytest.raises(UserError, match=f"lacks {shards[1].name}"):
        write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)
    shutil.rmtree(tmp_path / "c")
    write_folder(tmp_path / "c" / "llm", "llama")
    (tmp_path / "c" / "llm" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer in"):
        write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)


def test_an_adapter_of_another_model_or_kind_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "c" / "llm", "llama")
    adapter = tmp_path / "c" / "adapter"
    add_lora(make_llm("llama", width=128), adapter)
    with pytest.raises(UserError, match=r"down_proj.weight is \[96, 384\], LoRA changes \[128, 512\]"):
        write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(UserError, match="use_dora: True"):
        write_llm_folder(tmp_path / "c", tmp_path / "out", progress=silent)


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_llava(tmp_path / "llava", "llama", make_llm("llama"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_llm_folder(tmp_path / "llava", tmp_path / "file" / "out", progress=silent)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(UserError, match="has 0 MiB free"):
        write_llm_folder(tmp_path / "llava", tmp_path / "out", progress=silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "llava"]


def write_big(folder: Path, width: int, layers: int, per_shard: int) -> int:
    """A checkpoint with LoRA, written shard by shard; the largest shard's bytes."""
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    config = LlamaConfig(vocab_size=4096, num_attention_heads=8, **sizes)
    with init_empty_weights():
        shapes = {name: tuple(value.shape) for name, value in LlamaForCausalLM(config).state_dict().items()}
    byte_tokenizer("llama").save_pretrained(folder / "llm")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder / "llm")
    names, index, largest = list(shapes), {}, 0
    for number, start in enumerate(range(0, len(names), per_shard), 1):
        part = {name: torch.full(shapes[name], 0.01, dtype=torch.float16) for name in names[start : start + per_shard]}
        file = folder / "llm" / f"model-{number:05}-of-00099.safetensors"
        save_file(part, file)
        index.update(dict.fromkeys(part, file.name))
        largest = max(largest, file.stat().st_size)
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    adapted = [name for name in names if "proj" in name]
    (folder / "adapter").mkdir()
    matrices = {}
    for name in adapted:
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        matrices[f"{stem}.lora_A.weight"] = torch.full((4, shapes[name][1]), 0.01)
        matrices[f"{stem}.lora_B.weight"] = torch.full((shapes[name][0], 4), 0.01)
    save_file(matrices, folder / "adapter" / "adapter_model.safetensors")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    return largest


def test_memory_is_bound_by_a_shard_not_by_the_model(tmp_path: Path) -> None:
    """400 MB with LoRA on every projection, in shards of under 100 MB."""
    write_big(tmp_path / "small", 64, 1, 100)
    largest = write_big(tmp_path / "big", 1024, 12, 24)
    total = sum(file.stat().st_size for file in (tmp_path / "big" / "llm").glob("*.safetensors"))
    assert total > 4 * largest > 300e6
    program = """if True:
        import sys
        from pathlib import Path
        from dclocal_export.llm_folder import write_llm_folder
        from dclocal.progress import silent

        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024

        root = Path(sys.argv[1])
        write_llm_folder(root / "small", root / "small.out", progress=silent)
        before = peak()
        assert write_llm_folder(root / "big", root / "big.out", progress=silent).merged == 84
        print(peak() - before)
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("measures through /proc")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env={**os.environ}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    used = int(done.stdout)
    assert used < 1.5 * largest + WORKING_BYTES, f"{used >> 20} MiB for a largest shard of {largest >> 20} MiB"
    written = load_file(tmp_path / "big.out" / "model-00002-of-00005.safetensors")
    name = next(name for name in written if "proj" in name)
    torch.testing.assert_close(written[name].float(), torch.full_like(written[name], 0.0104).float(), rtol=1e-3, atol=0)
