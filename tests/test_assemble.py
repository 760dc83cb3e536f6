"""Assembling: vision graph and language model are made at the same time, and nothing goes on after an error."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dclocal import assemble as module
from dclocal.assemble import PARTS_FILE, WEIGHTS_FILE, assemble
from dclocal.errors import BundleError
from dclocal.progress import silent


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of parts of which nothing but the description and some weight is there."""
    (tmp_path / PARTS_FILE).write_text(json.dumps({"files": {}, "lora_scale": 1.0, "llm_quantization": "q8_0"}))
    save_file({"a": np.zeros(1, np.float16)}, tmp_path / WEIGHTS_FILE)
    monkeypatch.setattr("dclocal.gguf_merge.open_gguf", lambda source: source)
    monkeypatch.setattr(module, "vision_weights", lambda *_: {})
    return tmp_path


def test_both_are_made_at_the_same_time(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    met = threading.Barrier(2, timeout=20)

    def vision(*_: Any) -> None:
        met.wait()
        raise BundleError("the vision graph is bad", "none")

    monkeypatch.setattr(module, "build_vision", vision)
    monkeypatch.setattr(module, "build_llm", lambda *_: met.wait())
    with pytest.raises(BundleError, match="the vision graph is bad"):
        assemble(parts, {"vision": parts, "llm": parts}, parts, silent)


def test_the_vision_graph_has_ended_when_the_language_models_error_comes(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, ended = threading.Event(), threading.Event()

    def vision(*_: Any) -> None:
        assert failed.wait(20)
        ended.set()

    def llm(*_: Any) -> None:
        failed.set()
        raise BundleError("the language model is bad", "none")

    monkeypatch.setattr(module, "build_vision", vision)
    monkeypatch.setattr(module, "build_llm", llm)
    with pytest.raises(BundleError, match="the language model is bad"):
        assemble(parts, {"vision": parts, "llm": parts}, parts, silent)
    assert ended.is_set()


def test_the_language_model_as_it_was_answers_text_alone(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (parts / PARTS_FILE).write_text(
        json.dumps({"files": {}, "lora_scale": 1.0, "llm_quantization": "q8_0", "manifest": {"text_llm": "text.gguf"}})
    )
    (parts / "base.gguf").write_bytes(b"as it was")
    monkeypatch.setattr(module, "build_vision", lambda *_: None)
    monkeypatch.setattr(module, "build_llm", lambda *_: None)
    with pytest.raises(OSError, match=r"parity.json"):  # there is nothing else in this folder
        assemble(parts, {"vision": parts, "llm": parts / "base.gguf"}, parts, silent)
    assert (parts / "text.gguf").read_bytes() == b"as it was"
