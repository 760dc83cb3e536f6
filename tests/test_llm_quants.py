"""Quantizations of a GGUF: their sizes, the importance matrix, and how far each is from the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dclocal.errors import UserError
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Segment, Tokens
from dclocal_export.imatrix import read_imatrix, write_imatrix
from dclocal_export.llm_gguf import FTYPES, convert_to_gguf, quantize
from dclocal_export.llm_parity import measure_llm
from tests.gguf_reference import TEXT, picture, reference_logits, wheels
from tests.tiny_hf import make_llm, write_folder

__all__ = ["wheels"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, wheels: Path | None) -> tuple[Path, Any]:
    """A Llama of width 256, into whose rows a K-quant's blocks fit."""
    root = tmp_path_factory.mktemp("wide")
    llm = write_folder(root / "hf", "llama", make_llm("llama", width=256))
    return convert_to_gguf(root / "hf", root / "wide.gguf", sources=wheels), llm


def test_k_quants_fit_rows_of_256(wide: tuple[Path, Any], tmp_path: Path) -> None:
    sizes = {}
    for kind in FTYPES:
        made = quantize(wide[0], tmp_path / f"{kind}.gguf", kind)
        assert made.note == "" and made.fallbacks == {}, kind
        sizes[kind] = made.bits_per_weight
        with LLM(made.path, n_ctx=64) as llm:
            assert np.isfinite(llm.score([5, 6, 7])).all()
    assert sizes["f16"] == 16 and sizes["q8_0"] == 8.5 and sizes["q6_k"] == pytest.approx(6.5625, abs=1e-3)
    assert sizes["f16"] > sizes["q8_0"] > sizes["q6_k"] > sizes["q5_k_m"] > sizes["q4_k_m"] > sizes["q4_0"] > 4.5


def test_the_importance_matrix_is_the_inputs_mean_square(wide: tuple[Path, Any], tmp_path: Path) -> None:
    gguf, model = wide
    image = picture(256) * 2
    file = write_imatrix(gguf, [TEXT], [image], tmp_path / "imatrix.gguf")
    values = read_imatrix(file)
    assert len(values) == 15  # seven in each of two blocks, and the output
    seen: dict[str, torch.Tensor] = {}
    block = model.model.layers[1]
    for name, module in (("attn_q", block.self_attn.q_proj), ("ffn_down", block.mlp.down_proj)):
        module.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0][0]}))
    with LLM(gguf, n_ctx=128) as llm:
        reference_logits(model, llm.tokenize(TEXT, False), image)
    for name, inputs in seen.items():
        expected = inputs.square().mean(0).numpy()
        np.testing.assert_allclose(values[f"blk.1.{name}.weight"], expected, rtol=0.05, atol=1e-3)
    assert write_imatrix(gguf, [TEXT], [image], tmp_path / "again.gguf").read_bytes() == file.read_bytes()
    weighed = quantize(gguf, tmp_path / "weighed.gguf", "q4_k_m", imatrix=file).path
    assert weighed.read_bytes() != quantize(gguf, tmp_path / "plain.gguf", "q4_k_m").path.read_bytes()
    with pytest.raises(UserError, match="holds no importance matrix"):
        quantize(gguf, tmp_path / "no.gguf", "q4_k_m", imatrix=gguf)


def test_parity_is_transformers_perplexity_and_orders_quantizations(wide: tuple[Path, Any], tmp_path: Path) -> None:
    gguf, model = wide
    files = {kind: quantize(gguf, tmp_path / f"{kind}.gguf", kind).path for kind in ("q8_0", "q4_0")}
    image = picture(256)
    other: list[Segment] = [Tokens((1, 9)), Embeds("b", picture(256, 8)), Tokens((10,))]
    prefixes: list[list[Segment]] = [[Embeds("a", image)], other]
    report = measure_llm(gguf, {"copy": gguf, **files}, prefixes)
    found = report["quantizations"]
    assert found["copy"]["top1_agreement"] == 1 and found["copy"]["kl_divergence_mean"] == pytest.approx(0, abs=1e-6)
    assert 0 < found["q8_0"]["kl_divergence_mean"] < found["q4_0"]["kl_divergence_mean"]
    assert 1 > found["q8_0"]["top1_agreement"] > found["q4_0"]["top1_agreement"] > 0.3
    assert found["f16"]["size_bytes"] == gguf.stat().st_size and found["q4_0"]["decode_tps"] > 1
    alone = measure_llm(gguf, {}, prefixes[:1], text=TEXT)
    with LLM(gguf, n_ctx=256) as llm:
        ids = llm.tokenize(TEXT, False)
    embeds = torch.cat([torch.from_numpy(image), model.get_input_embeddings()(torch.tensor(ids))])
    with torch.no_grad():
        logits = model(inputs_embeds=embeds[None]).logits[0, len(image) - 1 : -1]
    expected = float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids)).exp())
    assert alone["text_tokens"] == len(ids)
    assert alone["quantizations"]["f16"]["perplexity"] == pytest.approx(expected, rel=5e-3)
    json.dumps(report)
