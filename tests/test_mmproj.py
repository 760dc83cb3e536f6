"""The llama.cpp projector: llama.cpp itself must see in a picture what the PyTorch model sees."""

from __future__ import annotations

import base64
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dclocal.bundle import Sampling
from dclocal.errors import UserError
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens
from dclocal_export import mmproj
from dclocal_export.mmproj import cannot_express, layer_blocks, llama_cpp_embeds, write_mmproj
from dclocal_models.registry import BACKBONES, CONNECTORS
from tests.mmproj_models import BOS, CASES, CLIP_MEAN, WIDTH, error, picture, seen, small_model
from tests.tiny_files import encoded


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_siglip_embeddings_are_the_models(
    case: str, dtype: str, tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = small_model("siglip", **CASES[case])
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype=dtype)
    side = model.config.vision.image_size
    images = [picture(side, side), picture(150, 150, 1), picture(33, 33, 2)]
    for image, found in zip(images, llama_cpp_embeds(report.path, tiny_gguf, images, 1)):
        assert error(found, seen(model, image)) < (2e-3 if dtype == "f32" else 4e-3)
        assert found.shape == (report.tokens, WIDTH)
    assert report.size_bytes == report.path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["mmproj.gguf"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("case", [case for case in CASES if case != "efficient"])
def test_the_widened_matrix_is_the_connectors_own(case: str) -> None:
    connector = small_model("siglip", **CASES[case]).connector
    states = [torch.randn(1, 16, 64) for _ in range(7)]
    blocks = layer_blocks(connector)
    wide = sum(states[layer] @ block.T for layer, block in blocks.items())
    own = connector.projector[0](connector.integrate(states)) - connector.projector[0].bias
    assert list(blocks) == sorted(blocks)
    assert torch.allclose(wide, own, atol=1e-5)


MUTATIONS: dict[str, tuple[str, Any]] = {
    "layers one too deep": ("dci 2", lambda blocks: {layer + 1: block for layer, block in blocks.items()}),
    "final layer one too deep": ("baseline", lambda blocks: {6: blocks[5]}),
    "final layer one too early": ("baseline", lambda blocks: {4: blocks[5]}),
    "sparse layer one off": ("sci", lambda blocks: {1: blocks[1], 2: blocks[3], 5: blocks[5]}),
    "neighbours of two groups exchanged": ("dci 2", lambda blocks: {**blocks, 2: blocks[3], 3: blocks[2]}),
    "the sum for the mean": ("dci 3", lambda blocks: {layer: 2 * block for layer, block in blocks.items()}),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_wrong_layer_shows(mutation: str, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, change = MUTATIONS[mutation]
    model, image = small_model("siglip", **CASES[case]), picture(56, 56)
    monkeypatch.setattr(mmproj, "layer_blocks", lambda connector: change(layer_blocks(connector)))
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype="f32")
    assert error(llama_cpp_embeds(report.path, tiny_gguf, [image], 1)[0], seen(model, image)) > 0.03


def test_pixels_that_fill_no_patch_are_left_out_alike(tiny_gguf: Path, tmp_path: Path) -> None:
    """SigLIP-SO400M: 384 pixels are 27 patches of 14 and six pixels over."""
    model, image = small_model("siglip", image_size=62, kind="dci"), picture(62, 62)
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype="f32")
    assert report.tokens == 16
    assert error(llama_cpp_embeds(report.path, tiny_gguf, [image], 1)[0], seen(model, image)) < 2e-3


@pytest.mark.parametrize("mean", [CLIP_MEAN, (0.5, 0.5, 0.5)])
def test_pictures_that_are_not_square(mean: tuple[float, float, float], tiny_gguf: Path, tmp_path: Path) -> None:
    """llama.cpp pads after resizing and with a colour of its own, as the report says; squared first, all agree."""
    model = small_model("siglip", kind="dci")
    model.config = replace(model.config, vision=replace(model.config.vision, image_mean=mean))
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype="f32")
    assert any("(122, 116, 104)" in line for line in report.differences) == (mean != CLIP_MEAN)
    wide = picture(640, 480)
    square = Image.new("RGB", (640, 640), tuple(int(channel * 255) for channel in mean))
    square.paste(wide, (0, 80))
    as_it_is, squared = llama_cpp_embeds(report.path, tiny_gguf, [wide, square], 1)
    assert error(squared, seen(model, wide)) < 2e-3
    assert 2e-3 < error(as_it_is, seen(model, wide)) < (0.1 if mean == CLIP_MEAN else 1)


REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "sti": ("siglip", {"kind": "sti", "layers": (1, 3)}, "STI adds tokens"),
    "sti_conv": ("siglip", {"kind": "sti_conv", "layers": (1, 3)}, "STI adds tokens"),
    "sci_conv": ("siglip", {"kind": "sci_conv", "layers": (1, 3)}, "no convolution"),
    "dci_linear": ("siglip", {"kind": "dci_linear"}, "no LayerNorm"),
    "efficient": ("siglip", {"kind": "dci", "token_grid": (2, 2)}, "no interpolation of 4×4 tokens to 2×2"),
    "thirds": ("siglip", CASES["efficient"] | {"token_grid": (8, 8)}, "no interpolation of 24×24 tokens to 8×8"),
    "stretch": ("siglip", {"kind": "dci", "fit": "stretch"}, "stretched"),
    "anyres": ("siglip", {"kind": "dci", "fit": "anyres"}, "AnyRes"),
    "dinov2": ("dinov2", {"kind": "dci"}, "DINOv2"),
    "fused": ("dinov2+efficientnet_lite2", {"kind": "dci"}, "no second, convolutional tower"),
    "mining": ("clip+convnext", {"kind": "dci", "fusion": "mining"}, "no patch info mining"),
    "activation": ("siglip", {"kind": "dci", "vision": {"hidden_act": "gelu"}}, "no exact gelu"),
    "square layer": ("siglip", {"kind": "dci", "vision": {"intermediate_size": 64}}, "swapped names"),
    "stem": ("siglip", {"kind": "baseline", "final_layer": 0}, "its stem alone"),
    "clip": ("clip", {"kind": "baseline"}, "class token"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_llama_cpp_cannot_run_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    backbone, settings, reason = REFUSALS[name]
    model = small_model(backbone, **settings)
    assert reason in str(cannot_express(model))
    with pytest.raises(UserError, match=f"no mmproj: .*{reason}"):
        write_mmproj(model, tmp_path / "mmproj.gguf")
    assert not list(tmp_path.iterdir())


def test_every_backbone_and_connector_is_decided_on() -> None:
    assert set(mmproj.BACKBONES) == set(BACKBONES)
    assert set(mmproj.CONNECTORS) == set(CONNECTORS)


def test_files_that_do_not_fit_are_named(tiny_gguf: Path, tmp_path: Path) -> None:
    report = write_mmproj(small_model("siglip", kind="dci"), tmp_path / "mmproj.gguf", dtype="f32")
    with pytest.raises(UserError, match="cannot load"):
        llama_cpp_embeds(tiny_gguf, tiny_gguf, [], 1)
    with pytest.raises(UserError, match="cannot load"):
        llama_cpp_embeds(report.path, tmp_path / "missing.gguf", [])
    with pytest.raises(ValueError, match="q4_0"):
        write_mmproj(small_model("siglip", kind="dci"), tmp_path / "other.gguf", dtype="q4_0")


def test_answers_of_llama_cpp_pythons_chat_handler(tiny_gguf: Path, tmp_path: Path) -> None:
    """The pair of files in a program that knows nothing of this project answers as the PyTorch model's embeddings."""
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import Llava15ChatHandler

    model = small_model("siglip", kind="dci")
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype="f32")
    handler = Llava15ChatHandler(clip_model_path=str(report.path), verbose=False)
    answers = set()  # the handler's template loses its line breaks
    with (
        closing(Llama(str(tiny_gguf), chat_handler=handler, n_ctx=512, n_threads=1, verbose=False)) as theirs,
        LLM(tiny_gguf, n_ctx=512, threads=1) as ours,
    ):
        for image in (picture(56, 56), picture(300, 300, 1)):
            reply: Any = theirs.create_chat_completion(
                _question(image), temperature=0, repeat_penalty=1.0, max_tokens=16
            )
            before, after = ours.tokenize("Look.USER: ", True), ours.tokenize("what?ASSISTANT: ", True)
            prompt = [Tokens((BOS, *before)), Embeds("picture", seen(model, image)), Tokens(tuple(after))]
            ours.cells.clear()
            ours.prefill(prompt)
            for _ in ours.generate(Sampling(), seed=0, max_tokens=16):
                pass
            length = sum(map(len, prompt))
            assert reply["usage"]["prompt_tokens"] == length
            evaluated = len(ours.last_tokens) - 1  # the last token is sampled and never looked at
            assert theirs.input_ids[length : length + evaluated].tolist() == ours.last_tokens[:-1]
            answers.add(tuple(ours.last_tokens))
    assert len(answers) == 2, "the picture does not matter to the answer"


def _question(image: Image.Image) -> Any:
    url = "data:image/png;base64," + base64.b64encode(encoded(image, "PNG")).decode()
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what?"}]
    return [{"role": "system", "content": "Look."}, {"role": "user", "content": content}]
