"""Quantizing on the user's machine, by llama.cpp: done once, and each tensor as its mixture says."""

from __future__ import annotations

import logging
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest
from gguf import GGUFReader

from dclocal.errors import BundleError
from dclocal.gguf_merge import quantize_gguf


def test_quantizing_is_done_once_and_told_tensor_by_tensor(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp gives 0 where it went well; taken for a failure it would be done again."""
    calls, told = [], []
    quantize = llama.llama_model_quantize
    monkeypatch.setattr(llama, "llama_model_quantize", lambda *given: calls.append(given) or quantize(*given))
    quantize_gguf(tiny_gguf, tmp_path / "q8.gguf", "q8_0", lambda done, total: told.append((done, total)))
    tensors = len(GGUFReader(tiny_gguf).tensors)
    assert len(calls) == 1 and told == [(done, tensors) for done in range(1, tensors + 1)]


def test_a_mixture_quantizes_what_its_patterns_name_otherwise(
    tiny_gguf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quantize_gguf(tiny_gguf, tmp_path / "mix.gguf", "iq4_mix")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "mix.gguf").tensors}
    assert kinds["blk.0.attn_k.weight"] == kinds["blk.0.attn_v.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.ffn_up.weight"] == "IQ4_NL"
    quantize_gguf(tiny_gguf, tmp_path / "plain.gguf", "iq4_nl")
    plain = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "plain.gguf").tensors}
    changed = {name.split(".", 2)[2] for name in kinds if kinds[name] != plain[name]}
    assert changed <= {"attn_k.weight", "attn_v.weight", "ffn_down.weight"} and "attn_k.weight" in changed
    with pytest.raises(BundleError, match="iq4_mix"):
        quantize_gguf(tiny_gguf, tmp_path / "none.gguf", "q3_7")
