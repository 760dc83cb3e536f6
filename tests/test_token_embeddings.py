"""Text is evaluated in one batch with pictures, from the rows that llama.cpp itself would look up."""

from __future__ import annotations

from pathlib import Path

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest

from dclocal import token_embeddings
from dclocal.gguf_merge import run_quantizer
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens
from tests.tiny_files import read_embeddings

IDS = (0, 5, 259, 77, 5)
PICTURE = np.ones((12, 32), np.float32)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q8_0", "IQ4_NL"])
def test_rows_are_those_of_the_gguf_package(tiny_gguf: Path, tmp_path: Path, kind: str) -> None:
    params, file = llama.llama_model_quantize_default_params(), tmp_path / "quantized.gguf"
    params.token_embedding_type = getattr(llama, f"GGML_TYPE_{kind}")
    assert not run_quantizer(tiny_gguf, file, params, lambda done, total: None)
    with LLM(file, n_ctx=64) as model:
        rows = model.token_rows(IDS)
        assert model._tokens._table is not None and model._tokens._table[0] == kind.lower()
    assert rows is not None and rows.dtype == np.float32
    np.testing.assert_array_equal(rows, read_embeddings(file)[list(IDS)])


def batches_of(model: LLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries the batches have that a picture between two texts takes."""
    sizes: list[int] = []
    real = llama.llama_decode

    def counted(context: object, batch: llama.llama_batch) -> int:
        sizes.append(batch.n_tokens)
        return int(real(context, batch))

    with monkeypatch.context() as patch:
        patch.setattr(llama, "llama_decode", counted)
        model.prefill(
            [Tokens((9, 8, 7, 6)), Embeds("picture", np.ones((12, 32), np.float32)), Tokens((50, 51, 52, 53))]
        )
    return sizes


def test_a_picture_between_two_texts_is_one_batch(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches_of(tiny, monkeypatch) == [20]
    together = tiny.logits()
    assert tiny.cells == [9, 8, 7, 6, *(("picture", row) for row in range(12)), 50, 51, 52, 53]
    tiny.forget()
    monkeypatch.setattr(tiny._tokens, "rows", lambda ids: None)
    assert batches_of(tiny, monkeypatch) == [4, 12, 4]
    np.testing.assert_allclose(together, tiny.logits(), atol=1e-2)


def test_models_that_scale_tokens_are_given_tokens(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma multiplies what it looks up, and only that."""
    monkeypatch.setattr(token_embeddings, "architecture", lambda model: "gemma")
    with LLM(tiny_gguf, n_ctx=64) as model:
        assert model.token_rows(IDS) is None
        assert batches_of(model, monkeypatch) == [4, 12, 4]


def test_an_adapter_may_change_what_is_looked_up(tiny: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny._adapters, "scales", {"style": 0.5})
    assert tiny.token_rows(IDS) is None


def test_an_architecture_is_what_the_file_says(tiny: LLM) -> None:
    assert token_embeddings.architecture(tiny.model.pointer) == "llama"
