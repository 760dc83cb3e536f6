"""The llama.cpp projector: llama.cpp itself must see in a picture what the PyTorch model sees."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.bundle import Sampling
from dclocal.errors import UserError
from dclocal.images import to_pixels
from dclocal.llm import LLM
from dclocal.prompt import Embeds, Tokens
from dclocal_export import mmproj
from dclocal_export.mmproj import cannot_express, layer_blocks, llama_cpp_embeds, write_mmproj
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.registry import BACKBONES, CONNECTORS
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig, image_spec
from tests.tiny import CONVNEXT, tiny_llm
from tests.tiny_files import encoded

WIDTH, BOS = 32, 1  # of the tiny GGUF
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CASES: dict[str, dict[str, Any]] = {
    "baseline": {"kind": "baseline"},
    "baseline last": {"kind": "baseline", "final_layer": -1},
    "sci": {"kind": "sci", "layers": (1, 3)},
    "sci with the stem": {"kind": "sci", "layers": (0, 2, 4), "final_layer": -1},
    "dci 2": {"kind": "dci"},
    "dci 3": {"kind": "dci", "groups": 3},
    "dci 2 sum": {"kind": "dci", "reduce": "sum"},
    "dci 3 sum last": {"kind": "dci", "groups": 3, "reduce": "sum", "final_layer": -1},
    "dci 2 last": {"kind": "dci", "final_layer": -1, "first_layer": 1},
    "efficient": {"kind": "dci", "token_grid": (12, 12), "image_size": 96, "patch_size": 4},
}
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
void * ggml_concat(void * context, void * first, void * second, int axis) {
    void * library = dlopen("libggml-base.so.0", RTLD_NOLOAD | RTLD_LAZY);
    void * (*concat)(void *, void *, void *, int) = dlsym(library, "ggml_concat");
    const char * (*name)(void *) = dlsym(library, "ggml_get_name");
    int swap = axis == 1 && !strcmp(name(second), "v.class_embd");
    return swap ? concat(context, second, first, axis) : concat(context, first, second, axis);
}
"""
"""llama.cpp's issue 25814 mended from outside: the class token is put first."""
READ = """
import sys, numpy as np
from pathlib import Path
from PIL import Image
from dclocal_export.mmproj import llama_cpp_embeds
folder = Path(sys.argv[1])
for file in sorted(folder.glob("*.gguf")):
    embeds = llama_cpp_embeds(file, Path(sys.argv[2]), [Image.open(file.with_suffix(".png"))], 1)
    np.save(file.with_suffix(".npy"), embeds[0])
"""


def small_model(
    backbone: str, *, image_size: int = 56, patch_size: int = 14, vision: Any = None, fit: str = "pad", **connector: Any
) -> DenseConnectorModel:
    """Six layers of width 64 that differ enough for a wrong one to show; every token kept unless said otherwise."""
    torch.manual_seed(0)
    tower: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
    tower |= {"patch_size": patch_size, "mlp_ratio": 2} if "dinov2" in backbone else {"patch_size": patch_size}
    tower |= {} if "dinov2" in backbone else {"intermediate_size": 128}
    base = VisionConfig(backbone, image_size, CLIP_MEAN, (0.27, 0.26, 0.28), tower | (vision or {}))
    if backbone == "clip+convnext":
        base = replace(base, image_size=128, low_size=56, conv=CONVNEXT)
    config = ModelConfig(
        base,
        ConnectorConfig(**{"token_grid": (0, 0), **connector}),
        fit=fit,
        pinpoints=((2 * image_size, image_size),) if fit == "anyres" else (),
    )
    model = DenseConnectorModel(config, tiny_llm(hidden_size=WIDTH, num_hidden_layers=1)).eval()
    with torch.no_grad():
        for parameter in model.vision.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def seen(model: DenseConnectorModel, image: Image.Image) -> np.ndarray:
    """The PyTorch model's embeddings of a picture, `[tokens, n_embd]`."""
    with torch.no_grad():
        return model.encode_images(torch.from_numpy(to_pixels([image], image_spec(model))))[0].numpy()


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, as a share of the largest value."""
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


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


@pytest.fixture(scope="module")
def class_token_first(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By case, how far a CLIP file is off in a llama.cpp whose class token stands first."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and the Linux loader")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "shim.c").write_text(SHIM)
    shim = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", folder / "shim.c", "-o", shim, "-ldl"], check=True)
    wanted = {}
    for case, settings in CASES.items():
        model = small_model("clip", **settings)
        side = model.config.vision.image_size
        write_mmproj(model, folder / f"{case}.gguf", dtype="f32", class_token_first=True)
        picture(side, side).save(folder / f"{case}.png")
        wanted[case] = seen(model, picture(side, side))
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", READ, folder, tiny_gguf], check=True, env=environment, timeout=300)
    return {case: error(np.load(folder / f"{case}.npy"), values) for case, values in wanted.items()}


@pytest.mark.parametrize("case", CASES)
def test_clip_embeddings_are_the_models_where_the_class_token_stands_first(
    case: str, class_token_first: dict[str, float]
) -> None:
    assert class_token_first[case] < 2e-3


def test_clip_is_refused_for_llama_cpps_class_token(tiny_gguf: Path, tmp_path: Path) -> None:
    """Once this fails, llama.cpp is mended: let CLIP models be written without being asked."""
    model = small_model("clip", kind="dci")
    with pytest.raises(UserError, match="class token.*25814"):
        write_mmproj(model, tmp_path / "mmproj.gguf")
    assert not list(tmp_path.iterdir())
    report = write_mmproj(model, tmp_path / "mmproj.gguf", dtype="f32", class_token_first=True)
    assert any("25814" in line for line in report.differences)
    image = picture(56, 56)
    (found,) = llama_cpp_embeds(report.path, tiny_gguf, [image], 1)
    assert error(found, seen(model, image)) > 0.5
    assert error(found, _class_token_last(model, image)) < 2e-3


def _class_token_last(model: DenseConnectorModel, image: Image.Image) -> np.ndarray:
    """What becomes of a picture where the class token follows the patches and positions stay as they are."""
    tower = model.vision.tower.vision_model
    with torch.no_grad():
        pixels = torch.from_numpy(to_pixels([image], image_spec(model)))
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        rows = torch.cat([patches, tower.embeddings.class_embedding[None, None]], dim=1)
        stem = tower.pre_layrnorm(rows + tower.embeddings.position_embedding.weight)
        states = tower.encoder(stem, output_hidden_states=True).hidden_states
        return model.connector([state[:, 1:] for state in states])[0].numpy()


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
