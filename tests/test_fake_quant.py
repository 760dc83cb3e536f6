"""Training against llama.cpp's quantization: the same values as its own, and gradients that reach the adapter."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from torch.nn import functional

from dclocal_train.config import LoraSettings, RecipeError
from dclocal_train.fake_quant import FRESH, ROUNDINGS, RoundedLora, iq4_nl, q4_0, rounding_of
from dclocal_train.stages import add_lora, prepare_stage
from tests.test_training import stage
from tests.tiny import tiny_model

LORA = {"rank": 4, "alpha": 8, "learning_rate": 1e-3, "target_modules": ("gate_proj", "o_proj")}


def test_rounding_is_that_of_the_export() -> None:
    """Bit for bit what the gguf package, whose Q4_0 equals llama.cpp's, makes of a matrix."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    torch.manual_seed(0)
    weight = torch.randn(48, 96) * torch.logspace(-4, 1, 48)[:, None]
    weight[3, 32:64] = 0
    weight[4, :32] = weight[4, 0]
    packed = quantize(weight.numpy(), GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(q4_0(weight).numpy(), dequantize(packed, GGMLQuantizationType.Q4_0))


@pytest.mark.parametrize("name", ["iq4_nl", "q4_k", "q8_0"])
def test_rounding_is_that_of_llama_cpp(name: str) -> None:
    """Its own function, called by its name in the library; sums in another order may choose another scale."""
    import llama_cpp.llama_cpp as llama
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    torch.manual_seed(0)
    weight = torch.randn(48, 512) * torch.logspace(-4, 1, 48)[:, None]
    weight[3, 32:64] = 0
    weight[4, :32] = weight[4, 0].abs()
    weight[5, :32] = -weight[4, 0].abs()
    weight[6] = 0
    quantize = llama._lib.ggml_quantize_chunk
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    quantize.restype = ctypes.c_size_t
    kind = GGMLQuantizationType[name.upper()]
    block, size = GGML_QUANT_SIZES[kind]
    packed = np.zeros((48, 512 // block * size), np.uint8)
    source = np.ascontiguousarray(weight.numpy())
    assert quantize(int(kind), source.ctypes.data, packed.ctypes.data, 0, 48, 512, None) == packed.nbytes
    theirs, ours = dequantize(packed, kind), ROUNDINGS[name]()(weight).numpy()
    same = (theirs == ours).reshape(48, 16, 32).all(2)
    assert same.mean() > 0.98
    errors = [np.square(values - source).sum(1) for values in (ours, theirs)]
    np.testing.assert_allclose(*errors, rtol=0.02, atol=1e-12)


def test_scales_that_are_kept_serve_weights_that_hardly_moved() -> None:
    torch.manual_seed(0)
    weight, kept = torch.randn(8, 64), ROUNDINGS["iq4_nl"]()
    assert torch.equal(kept(weight), iq4_nl(weight))
    moved = weight + 1e-3 * torch.randn(8, 64)
    assert (kept(moved) - iq4_nl(moved)).square().mean() < 0.1 * (iq4_nl(moved) - moved).square().mean()
    for _ in range(FRESH - 2):
        kept(moved)
    assert torch.equal(kept(3 * weight), iq4_nl(3 * weight)), "searched anew"


def rounded_model() -> torch.nn.Module:
    """Its language model is wide enough for blocks of 32."""
    from dclocal_models.vlm import DenseConnectorModel
    from tests.tiny import tiny_config, tiny_llm

    torch.manual_seed(0)
    return DenseConnectorModel(tiny_config(), tiny_llm(hidden_size=64, intermediate_size=96))


def hidden_of(model: torch.nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    hidden: torch.Tensor = model.base_llm.get_decoder()(inputs_embeds=torch.randn(1, 5, 64)).last_hidden_state
    return hidden


def test_a_rounded_model_runs_on_the_merged_and_rounded_weights() -> None:
    model = rounded_model()
    lora = LoraSettings(**LORA, rounded="q4_0")  # type: ignore[arg-type]
    prepare_stage(model, stage(lora=lora))
    torch.manual_seed(2)
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    seen = hidden_of(model)
    seen.square().sum().backward()
    for name, parameter in model.llm.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == ("lora_" in name), name
    merged = model.llm.merge_and_unload()
    changed = 0
    for name, parameter in merged.named_parameters():
        if "gate_proj" in name or "o_proj" in name:
            parameter.data = q4_0(parameter.data)
            changed += 1
    assert changed == 4
    torch.testing.assert_close(merged.get_decoder()(inputs_embeds=_same_input()).last_hidden_state, seen)


def _same_input() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 5, 64)


def test_gradients_are_those_of_the_merged_matrix() -> None:
    """Of a layer whose weights Q4_0 keeps as they are, gradients with rounding equal those without."""
    model, plain = rounded_model(), rounded_model()
    gradients = []
    for each, rounded in ((model, "q4_0"), (plain, None)):
        for parameter in each.base_llm.parameters():
            if parameter.ndim == 2 and parameter.shape[1] % 32 == 0:
                parameter.data = q4_0(q4_0(parameter.data))
        prepare_stage(each, stage(lora=LoraSettings(**LORA, rounded=rounded)))  # type: ignore[arg-type]
        hidden_of(each).square().sum().backward()
        gradients.append({name: p.grad for name, p in each.llm.named_parameters() if "lora_B" in name})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-3, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_by_way_of_the_rank_are_those_through_the_whole_matrix(dtype: torch.dtype) -> None:
    """Of the input, A and B, beside what autograd makes of a rounding that it takes for the identity."""
    torch.manual_seed(3)
    x, a, b = (torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in ((2, 5, 64), (4, 64), (48, 4)))
    weight, scale = torch.randn(48, 64, dtype=dtype), 0.5
    whole = weight + scale * b @ a
    whole = whole + (q4_0(whole.detach()).to(dtype) - whole).detach()
    ours = RoundedLora.apply(x, whole.detach(), a, b, scale)
    theirs = functional.linear(x, whole)
    assert torch.equal(ours, theirs)
    steep = torch.randn_like(ours)
    for mine, autograd in zip(
        torch.autograd.grad(ours, (x, a, b), steep), torch.autograd.grad(theirs, (x, a, b), steep), strict=True
    ):
        assert mine.dtype == dtype and mine.abs().sum() > 0
        assert functional.cosine_similarity(mine.flatten().float(), autograd.flatten().float(), dim=0) > 0.9999
        torch.testing.assert_close(mine.norm(), autograd.norm(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)


def test_what_is_rounded_has_no_dropout() -> None:
    with pytest.raises(RecipeError, match="dropout"):
        LoraSettings(**LORA, rounded="q4_0", dropout=0.1)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="rounded"):
        LoraSettings(**LORA, rounded="q9")  # type: ignore[arg-type]


def test_a_model_without_rounding_is_left_alone() -> None:
    model = tiny_model()
    add_lora(model, LoraSettings(**LORA))  # type: ignore[arg-type]
    assert not any("forward" in vars(module) for module in model.llm.modules())


def test_a_mixture_rounds_each_matrix_as_the_export_does() -> None:
    layer = "base_model.model.model.layers.3"
    asked = ("mlp.down_proj", "mlp.up_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    found = [rounding_of(f"{layer}.{name}", "iq4_mix") for name in asked]
    assert found == ["q4_k", "iq4_nl", "iq4_nl", "q8_0", "q8_0"] and set(found) <= set(ROUNDINGS)
    assert rounding_of(f"{layer}.mlp.down_proj", "iq4_nl") == "iq4_nl"
    with pytest.raises(ValueError, match="multiple of 256; these have 96"):
        ROUNDINGS["q4_k"]()(torch.zeros(2, 96))
