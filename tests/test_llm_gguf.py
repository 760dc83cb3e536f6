"""Hugging Face → GGUF → quantized, against transformers itself: a wrong row, rotation, token or scale would give
answers that are fluent and wrong."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from dclocal.bundle import Sampling
from dclocal.errors import UserError
from dclocal.llm import LLM
from dclocal.progress import silent
from dclocal.prompt import Embeds, Segment, Tokens
from dclocal_export.llm_folder import write_llm_folder
from dclocal_export.llm_gguf import convert_to_gguf, lora_to_gguf, quantize
from dclocal_export.llm_parity import tokenizer_differences
from dclocal_models.answer import tokenize_with
from tests.gguf_reference import TEXT, picture, reference_logits, wheels
from tests.llava_layout import make_projector, make_tower, tower_tensors, write_config, write_weights
from tests.tiny_hf import SAMPLE, add_lora, byte_tokenizer, make_llm, write_folder

__all__ = ["wheels"]
KINDS = ("llama", "phi", "qwen2")
Models = dict[str, tuple[Path, Path, Any]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, wheels: Path | None) -> Models:
    """Each family's GGUF, its Hugging Face folder and the model itself."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for kind in KINDS:
        llm = write_folder(root / kind, kind)
        made[kind] = (convert_to_gguf(root / kind, root / f"{kind}.gguf", sources=wheels), root / kind, llm)
    return made


def reference_greedy(llm: Any, ids: list[int], image: np.ndarray | None, count: int) -> list[int]:
    out: list[int] = []
    while len(out) < count:
        out.append(int(reference_logits(llm, ids + out, image)[-1].argmax()))
        if out[-1] == llm.config.eos_token_id:
            return out[:-1]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_computes_what_transformers_does(models: Models, kind: str) -> None:
    gguf, _, model = models[kind]
    with LLM(gguf, n_ctx=256) as llm:
        ids = llm.tokenize(TEXT, False)
        for image in (None, picture(llm.n_embd)):
            before: list[Segment] = [] if image is None else [Embeds("picture", image)]
            llm.forget()
            if before:
                llm.prefill(before)
            np.testing.assert_allclose(llm.score(ids), reference_logits(model, ids, image), atol=0.03)
            llm.prefill([*before, Tokens(tuple(ids))])
            list(llm.generate(Sampling(), seed=0, max_tokens=30))
            assert llm.last_tokens == reference_greedy(model, ids, image, 30), (kind, image is None)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_cut_into_the_same_tokens(models: Models, kind: str) -> None:
    gguf, _, _ = models[kind]
    tokenizer = byte_tokenizer(kind)
    assert tokenizer_differences(gguf, tokenize_with(tokenizer)) == []
    found = tokenizer_differences(gguf, lambda text, _: [5], ["a"])
    assert found[0]["transformers"] == [5] and found[0]["llama_cpp"] != [5]  # and a difference is told


def test_a_sentencepiece_tokenizer(tmp_path: Path, wheels: Path | None) -> None:
    """Vicuna's kind: tokenizer.model alone."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import LlamaTokenizer

    (tmp_path / "hf").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(SAMPLE), model_prefix=str(tmp_path / "hf" / "tokenizer"), vocab_size=352, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=9,
    )  # fmt: skip
    (tmp_path / "hf" / "tokenizer.vocab").unlink()
    make_llm("llama").save_pretrained(tmp_path / "hf")
    gguf = convert_to_gguf(tmp_path / "hf", tmp_path / "out.gguf", sources=wheels)
    slow = LlamaTokenizer(str(tmp_path / "hf" / "tokenizer.model"), legacy=True)
    assert tokenizer_differences(gguf, tokenize_with(slow)) == []


def with_adapter(gguf: Path, adapter: Path, scale: float, ids: list[int]) -> np.ndarray:
    """llama.cpp's logits under a GGUF adapter at a scale."""
    with LLM(gguf, n_ctx=256) as llm:
        loaded = llama.llama_adapter_lora_init(llm.model.pointer, os.fsencode(adapter))
        assert loaded
        adapters = (llama.llama_adapter_lora_p_ctypes * 1)(ctypes.cast(loaded, llama.llama_adapter_lora_p_ctypes))
        scales = (ctypes.c_float * 1)(scale)
        array = ctypes.cast(adapters, ctypes.POINTER(llama.llama_adapter_lora_p_ctypes))
        assert llama.llama_set_adapters_lora(llm._pointer, array, 1, scales) == 0
        found = llm.score(ids)
    return found


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_lora_kept_apart_equals_lora_merged(models: Models, kind: str, tmp_path: Path, wheels: Path | None) -> None:
    gguf, folder, model = models[kind]
    options: dict[str, Any] = {"rank_pattern": {"q_proj": 2}} if kind == "phi" else {}
    tuned = add_lora(model, tmp_path / "adapter", **options)
    adapter = lora_to_gguf(tmp_path / "adapter", folder, tmp_path / "lora.gguf", sources=wheels)
    ids = [5, 80, 120, 300, 33, 6]
    plain, whole = reference_logits(model, ids, None), reference_logits(tuned, ids, None)
    assert np.abs(whole - plain).max() > 1
    np.testing.assert_allclose(with_adapter(gguf, adapter, 1.0, ids), whole, atol=0.06)
    np.testing.assert_allclose(with_adapter(gguf, adapter, 0.0, ids), plain, atol=0.03)
    if kind == "phi":
        return
    shutil.copytree(folder, tmp_path / "c" / "llm")
    shutil.copytree(tmp_path / "adapter", tmp_path / "c" / "adapter")
    made = write_llm_folder(tmp_path / "c", tmp_path / "merged", progress=silent)
    merged = convert_to_gguf(made.path, tmp_path / "merged.gguf", sources=wheels)
    with LLM(merged, n_ctx=256) as llm:
        found = llm.score(ids)
    np.testing.assert_allclose(found, whole, atol=0.06)


def test_a_llava_checkpoint_gives_the_same_file_again(models: Models, tmp_path: Path, wheels: Path | None) -> None:
    """Same weights, same bytes: through another folder, another layout and another time."""
    gguf, _, model = models["llama"]
    write_config(tmp_path / "llava", model)
    tensors = {**model.state_dict(), **tower_tensors(make_tower("clip")), **make_projector(16)}
    write_weights(tmp_path / "llava", tensors)
    byte_tokenizer("llama").save_pretrained(tmp_path / "llava")
    made = write_llm_folder(tmp_path / "llava", tmp_path / "llm", progress=silent)
    (made.path / "tokenizer.model").write_bytes(b"GGUF of a tokenizer that was read from one")  # as transformers saves
    tokenizer = json.loads((made.path / "tokenizer.json").read_text())
    tokenizer["model"]["byte_fallback"] = True  # and as it marks such a tokenizer, which is byte-level all the same
    (made.path / "tokenizer.json").write_text(json.dumps(tokenizer))
    steps: list[tuple[str, int, int]] = []
    again = convert_to_gguf(made.path, tmp_path / "a.gguf", sources=wheels, progress=lambda *step: steps.append(step))
    assert again.read_bytes() == gguf.read_bytes()
    assert steps[0][1:] == (0, 100) and steps[-1] == ("converting to f16 GGUF", 100, 100)
    first, second = (quantize(gguf, tmp_path / name, "q4_k_m").path for name in ("one.gguf", "two.gguf"))
    assert first.read_bytes() == second.read_bytes()


def test_narrow_rows_fall_back_and_say_so(models: Models, tmp_path: Path) -> None:
    gguf, _, model = models["llama"]
    made = quantize(gguf, tmp_path / "q4_k_m.gguf", "q4_k_m")
    assert made.types == {"q5_0": 13, "q8_0": 3} and len(made.fallbacks) == 16
    assert made.fallbacks["blk.1.ffn_down.weight"] == "q8_0" and made.bits_per_weight > 5.5
    assert "rows of 96, 384 are no multiple" in made.note and "13 q5_0 and 3 q8_0" in made.note
    assert quantize(gguf, tmp_path / "q8.gguf", "q8_0").note == ""
    with LLM(made.path, n_ctx=64) as llm:
        difference = np.abs(llm.score([5, 6, 7]) - reference_logits(model, [5, 6, 7], None)).max()
    assert 0.01 < difference < 1.5


def test_what_the_converter_refuses_is_one_line(models: Models, tmp_path: Path, wheels: Path | None) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(models["phi"][1], folder)
    config = json.loads((folder / "config.json").read_text())

    def refused(said: str, out: Path = tmp_path / "out.gguf") -> None:
        with pytest.raises(UserError, match=said) as caught:
            convert_to_gguf(folder, out, sources=wheels)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
        assert not (tmp_path / "out.gguf").exists() and not list(tmp_path.glob("*.part"))

    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["PoetForCausalLM"]}))
    refused("llama.cpp knows no architecture PoetForCausalLM")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": None}))
    refused("names no architectures")
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = (folder / "tokenizer.json").read_text()
    odd = json.loads(tokenizer)
    odd["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(odd))
    refused("llama.cpp knows no tokenizer that cuts text as this one")
    (folder / "tokenizer.json").unlink()
    refused("no tokenizer in")
    (folder / "tokenizer.json").write_text(tokenizer)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5000])
    refused("cannot be converted")
    (tmp_path / "file").write_text("")
    refused("cannot be written", tmp_path / "file" / "out.gguf")


def test_full_disks_and_unknown_kinds(
    models: Models, tmp_path: Path, wheels: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf, folder, _ = models["llama"]
    with pytest.raises(UserError, match="unknown quantization 'q3_x' — known: f16, q8_0"):
        quantize(gguf, tmp_path / "x.gguf", "q3_x")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"broken.gguf cannot be made q8_0: .+"):
        quantize(broken, tmp_path / "x.gguf", "q8_0")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(UserError, match="has 0 MiB free"):
        quantize(gguf, tmp_path / "x.gguf", "q8_0")
    with pytest.raises(UserError, match="has 0 MiB free"):
        convert_to_gguf(folder, tmp_path / "x.gguf", sources=wheels)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


def test_the_runtimes_gguf_package_is_untouched(models: Models) -> None:
    """The converter brings a gguf module of its own: it must not be the one that dclocal reads files with."""
    import gguf

    assert "converter" not in str(gguf.__file__)
