"""Published checkpoints: one opened with a wrong layer, name or order answers fluently and wrongly."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dclocal.anyres import token_order
from dclocal.errors import BundleError
from dclocal_models import llava_tower
from dclocal_models.checkpoint import CheckpointError, save_checkpoint
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.llava_checkpoint import is_llava_checkpoint, open_llava_checkpoint
from dclocal_models.open import open_checkpoint
from dclocal_models.vlm import DenseConnectorModel
from tests import llava_layout as layout
from tests import paper
from tests.tiny import tiny_model

BEFORE, AFTER = [1, 5, 7], [9, 4]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def pixels(size: int = layout.SIZE, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(5))


def compare(
    model: DenseConnectorModel, tokenizer: Any, llm: Any, expected: torch.Tensor, seen: torch.Tensor, folder: Path
) -> None:
    """Embeddings and logits are the expected ones, and stay exactly so over our own layout."""
    with torch.no_grad():
        embeds = model.encode_images(seen)
    torch.testing.assert_close(embeds, expected, **TOLERANCE)
    assert expected.std() > 0.1, "the test's numbers must not vanish"
    ids = torch.tensor([BEFORE + [0] * embeds.shape[1] + AFTER])
    length = ids.shape[1]
    inputs = {
        "input_ids": ids,
        "position_ids": torch.arange(length)[None],
        "attention_mask": torch.tril(torch.ones(1, 1, length, length, dtype=torch.bool)),
        "image_mask": torch.tensor([[False] * len(BEFORE) + [True] * embeds.shape[1] + [False] * len(AFTER)]),
        "pixels": seen[:1],
    }
    with torch.no_grad():
        logits = model(**inputs)["logits"]
    torch.testing.assert_close(logits, layout.logits(llm, BEFORE, expected[0], AFTER), **TOLERANCE)
    model.save_pretrained(folder, tokenizer)
    again, words = DenseConnectorModel.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(again.encode_images(seen), embeds)
        assert torch.equal(again(**inputs)["logits"], logits)
    assert words.get_vocab() == tokenizer.get_vocab() and again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def write_full(
    folder: Path,
    tower: Any,
    *,
    connector: str | None = "dci",
    llm: Any = None,
    inside: layout.Tensors | None = None,
    form: str = "model.safetensors",
    words: str = "vicuna",
    **keys: Any,
) -> tuple[Any, layout.Tensors]:
    """A full checkpoint; its language model and projector."""
    llm = llm or layout.make_llm()
    projector = layout.make_projector(layout.WIDTH * (3 if connector in ("sci", "dci") else 1))
    tensors = {**layout.llm_tensors(llm), **projector, **(inside or {})}
    layout.write_config(folder, llm, mm_dense_connector_type=connector, **keys)
    layout.write_weights(folder, tensors, form)
    layout.write_tokenizer(folder, words)
    return llm, projector


FORMS = ["model.safetensors", "model.safetensors sharded", "pytorch_model.bin", "pytorch_model.bin sharded"]


@pytest.mark.parametrize(
    ("connector", "form"),
    [("dci", FORMS[0]), ("sci", FORMS[1]), ("sti", FORMS[2]), (None, FORMS[3]), ("none", FORMS[0])],
)
def test_clip_with_every_connector_and_every_form(connector: str | None, form: str, tmp_path: Path) -> None:
    """Tower weights inside; those of the folder that only describes the tower are not taken."""
    tower = layout.make_tower("clip")
    layout.make_tower("clip", seed=99).save_pretrained(tmp_path / "tower")
    folder = tmp_path / "published"
    inside = layout.tower_tensors(tower)
    inside[f"{layout.INSIDE}vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # as older files have it
    inside["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    llm, projector = write_full(folder, tower, connector=connector, inside=inside, form=form)
    model, tokenizer = open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    kind = connector if connector in ("sti", "sci", "dci") else "baseline"
    expected = layout.project(layout.dense(kind, "clip", tower, pixels()), projector)
    compare(model, tokenizer, llm, expected, pixels(), tmp_path / "ours")
    assert model.config.prompt == "vicuna_v1" and model.config.fit == "pad"
    assert model.config.provenance["kind"] == "full" and model.config.provenance["source"] == "published"
    assert model.config.provenance["connector"] == kind


@pytest.mark.parametrize(("layers", "connector"), [(26, "dci"), (27, "dci"), (26, "sti"), (None, "sci")])
def test_siglips_last_layer_is_never_run(layers: int | None, connector: str, tmp_path: Path) -> None:
    """Stored with 26 layers, with 27, or outside in a whole SigLIP folder: hidden_states[26] in each case."""
    tower = layout.make_tower("siglip")
    inside = layout.tower_tensors(tower, layers) if layers else None
    folder = tmp_path / "published"
    llm, projector = write_full(folder, tower, connector=connector, inside=inside, image_aspect_ratio="square")
    write_whole_siglip(tmp_path / "tower", tower if layers is None else layout.make_tower("siglip", seed=99))
    model, tokenizer = open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    expected = layout.project(layout.dense(connector, "siglip", tower, pixels()), projector)
    compare(model, tokenizer, llm, expected, pixels(), tmp_path / "ours")
    assert model.vision.depth == (layers or 27) and model.config.fit == "stretch"
    if connector == "dci":
        assert model.connector.groups == (tuple(range(13)), tuple(range(13, 26)))


def write_whole_siglip(folder: Path, tower: Any) -> None:
    """Both towers of a SigLIP model, as the hub has them."""
    import transformers

    config = transformers.SiglipConfig(
        vision_config=tower.config.to_dict(),
        text_config={"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 8},
    )
    whole = transformers.SiglipModel(config)
    whole.vision_model.load_state_dict(tower.vision_model.state_dict())
    whole.save_pretrained(folder)


LANGUAGE: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("llama", "llava_llama", "llama3", "llama3_released", {}),
    ("llama", "llava", "yi", "chatml_direct", {}),
    ("phi", "llava_phi", "phi", "phi", {}),
    ("qwen2", "llava_qwen", "qwen2", "qwen2", {"tie_word_embeddings": True}),
    ("mistral", "llava_mistral", "vicuna", "plain", {}),
]


@pytest.mark.parametrize(("kind", "model_type", "words", "prompt", "changes"), LANGUAGE)
def test_every_language_model(
    kind: str, model_type: str, words: str, prompt: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Its own keys reach its config, tied embeddings stay tied, and the prompt is the one it was trained with."""
    keys = {"rope_theta": 500.0, **changes}
    llm, tower = layout.make_llm(kind, **keys), layout.make_tower("clip")
    folder = tmp_path / "published"
    inside = layout.tower_tensors(tower)
    _, projector = write_full(folder, tower, llm=llm, inside=inside, model_type=model_type, words=words)
    tower.save_pretrained(tmp_path / "tower")
    asked = {"prompt": prompt} if kind == "mistral" else {}
    model, tokenizer = open_llava_checkpoint(folder, vision_tower=tmp_path / "tower", **asked)
    expected = layout.project(layout.dense("dci", "clip", tower, pixels()), projector)
    compare(model, tokenizer, llm, expected, pixels(), tmp_path / "ours")
    assert model.config.prompt == prompt and prompt in model.config.provenance["prompt"]
    assert type(model.llm).__name__ == type(llm).__name__
    tied = model.llm.get_input_embeddings().weight is model.llm.get_output_embeddings().weight
    assert tied == bool(changes.get("tie_word_embeddings"))
    if kind == "mistral":
        with pytest.raises(CheckpointError, match="no prompt format is known for mistral — say prompt="):
            open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")


def test_half_precision_is_widened_or_kept_as_asked(tmp_path: Path) -> None:
    """Published files are 16 bit: the language model comes in the type asked for, vision and connector in float32."""
    tower = layout.make_tower("clip").bfloat16()
    llm = layout.make_llm().bfloat16()
    folder = tmp_path / "published"
    write_full(folder, tower, llm=llm, inside=layout.tower_tensors(tower))
    tower.save_pretrained(tmp_path / "tower")
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = open_llava_checkpoint(folder, vision_tower=tmp_path / "tower", dtype=dtype)
        assert {parameter.dtype for parameter in model.llm.parameters()} == {dtype}
        rest = [*model.vision.parameters(), *model.connector.parameters()]
        assert {parameter.dtype for parameter in rest} == {torch.float32}
        assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
        assert torch.equal(model.llm.lm_head.weight, llm.lm_head.weight.to(dtype))


def test_anyres_has_the_newline_and_its_tiles(tmp_path: Path) -> None:
    """A picture of 100 by 40 in two tiles: the whole, then the map without the border, a newline after each row."""
    tower, folder = layout.make_tower("siglip"), tmp_path / "published"
    newline = torch.randn(layout.N_EMBD)
    inside = {**layout.tower_tensors(tower, 26), "model.image_newline": newline}
    keys = {"mm_patch_merge_type": "spatial_unpad", "image_aspect_ratio": "anyres"}
    pinpoints = [[56, 112], [112, 56]]
    llm, projector = write_full(folder, tower, inside=inside, image_grid_pinpoints=pinpoints, **keys)
    tower.save_pretrained(tmp_path / "tower")
    model, tokenizer = open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    seen = pixels(images=3)
    expected = layout.project(layout.dense("dci", "siglip", tower, seen), projector)
    compare(model, tokenizer, llm, expected, seen, tmp_path / "ours")
    order = token_order((100, 40), model.config.pinpoints, 56, (4, 4))
    tiles = torch.cat([expected[1].reshape(4, 4, -1), expected[2].reshape(4, 4, -1)], dim=1)
    rows = torch.cat([tiles, newline.expand(4, 1, -1)], dim=1).flatten(0, 1)
    arranged = model.arrange(model.encode_images(seen), torch.from_numpy(order))
    torch.testing.assert_close(arranged, torch.cat([expected[0], rows]), **TOLERANCE)
    assert model.config.pinpoints == ((56, 112), (112, 56)) and model.config.fit == "anyres"

    tensors = load_file(folder / "model.safetensors")
    layout.write_weights(folder, {name: value for name, value in tensors.items() if "newline" not in name})
    with pytest.raises(CheckpointError, match="model.image_newline is missing"):
        open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")
    layout.write_config(folder, llm, **keys, image_grid_pinpoints="[(57, 112)]")
    with pytest.raises(BundleError, match="multiples of the tile's 56 pixels"):
        open_llava_checkpoint(folder, vision_tower=tmp_path / "tower")


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


def write_base(folder: Path, llm: Any) -> None:
    llm.save_pretrained(folder)
    layout.write_tokenizer(folder)


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


def write_lora(folder: Path, llm: Any, projector: layout.Tensors, form: str, base: str) -> None:
    layout.write_config(folder, llm)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, "bias": "none"}
    config |= {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": base, "lora_dropout": 0.05}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "inference_mode": True}))
    adapter = {}
    for layer in range(2):
        for part in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{part}"
            adapter[f"{name}.lora_A.weight"] = torch.randn(4, layout.N_EMBD)
            adapter[f"{name}.lora_B.weight"] = torch.randn(layout.N_EMBD, 4)
    save_file(adapter, folder / form) if form.endswith("safetensors") else torch.save(adapter, folder / form)
    trained = {**projector, "lm_head.weight": layout.make_llm(seed=8).lm_head.weight.data}
    torch.save(
        {f"base_model.model.{name}": value for name, value in trained.items()}, folder / "non_lora_trainables.bin"
    )


@pytest.mark.parametrize("aux_inside", [True, False])
def test_mini_gemini_with_dci(aux_inside: bool, tmp_path: Path) -> None:
    """The final CLIP feature is the query, ConvNeXt, from OpenCLIP's names, key and value; DCI's groups then join."""
    tower, folder = layout.make_tower("clip"), tmp_path / "published"
    prefix = "model.vision_tower_aux.vision_" if aux_inside else "visual.trunk."
    aux = layout.make_convnext(prefix)
    mining = mining_tensors(layout.WIDTH, 4 + 4 + 6 + 6)
    inside = {**layout.tower_tensors(tower), **mining, **(aux if aux_inside else {})}
    keys = {"model_type": "mgm", "mm_vision_tower_aux": "zoo/openclip-convnext", "image_size_aux": 64, "image_grid": 1}
    llm, projector = write_full(folder, tower, inside=inside, **keys)
    tower.save_pretrained(tmp_path / "tower")
    places: dict[str, Any] = {"vision_tower": tmp_path / "tower"}
    if aux_inside:  # the published config does not name the connector
        config = json.loads((folder / "config.json").read_text())
        del config["mm_dense_connector_type"]
        (folder / "config.json").write_text(json.dumps(config))
    else:
        with pytest.raises(CheckpointError, match="second tower.*vision_tower_aux"):
            open_llava_checkpoint(folder, **places)
        (tmp_path / "aux").mkdir()
        others = {"visual.head.proj.weight": torch.ones(2), "visual.trunk.head.norm.weight": torch.ones(6)}
        torch.save({**aux, **others, "logit_scale": torch.ones(())}, tmp_path / "aux" / "open_clip_pytorch_model.bin")
        places["vision_tower_aux"] = tmp_path / "aux"
    model, tokenizer = open_llava_checkpoint(folder, **places)
    seen = pixels(64)
    low = torch.nn.functional.interpolate(seen, size=(56, 56), mode="bilinear", align_corners=False)
    fine = layout.convnext(aux, seen, prefix)
    names = {"query": "vlm_uni_query", "key": "vlm_uni_aux", "value": "vlm_uni_val"}
    weights = {
        f"mining.{ours}.{part}": mining[f"model.{theirs}_projector.{part}"].double().numpy()
        for ours, theirs in names.items()
        for part in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    tokens = layout.dense("dci", "clip", tower, low)
    mined = []
    for picture, array in enumerate(tokens):
        final, groups = array[:, : layout.WIDTH], array[:, layout.WIDTH :]
        final = paper.mining(final, fine[picture], layout.GRID, weights)
        mined.append(np.concatenate([final, groups], axis=1))
    compare(model, tokenizer, llm, layout.project(mined, projector), seen, tmp_path / "ours")
    assert model.config.vision.backbone == "clip+convnext" and model.config.vision.conv["depths"] == [1, 2, 1, 1]

    wide = {**inside, **mining_tensors(3 * layout.WIDTH, 20)}
    layout.write_weights(folder, {**layout.llm_tensors(llm), **projector, **wide})
    with pytest.raises(CheckpointError, match=r"query_projector.0.weight is \[24\].*only a width of 8"):
        open_llava_checkpoint(folder, **places)


def mining_tensors(width: int, channels: int) -> layout.Tensors:
    out = {}
    for name, size in {"query": width, "aux": channels, "val": channels}.items():
        prefix = f"model.vlm_uni_{name}_projector"
        out[f"{prefix}.0.weight"], out[f"{prefix}.0.bias"] = torch.randn(size), torch.randn(size)
        out[f"{prefix}.1.weight"], out[f"{prefix}.1.bias"] = torch.randn(width, size) * 0.3, torch.randn(width)
    return out


def test_a_towers_architecture_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights inside and a name from the authors' disk: no folder and no network is needed."""
    import transformers

    known = llava_tower.KNOWN_TOWERS.values()
    sizes = [(tower["hidden_size"], tower["num_hidden_layers"], tower["image_size"] // 14) for tower in known]
    assert sizes == [(1024, 24, 16), (1024, 24, 24), (1152, 27, 27)]
    tower = layout.make_tower("clip")
    tiny = {**layout.TOWER, "model_type": "clip_vision_model", "num_hidden_layers": 24}
    monkeypatch.setitem(llava_tower.KNOWN_TOWERS, "tiny-clip", tiny)
    folder = tmp_path / "published"
    inside = layout.tower_tensors(tower)
    llm, projector = write_full(folder, tower, inside=inside, mm_vision_tower="/mnt/authors/models/tiny-clip/")
    model, tokenizer = open_checkpoint(folder)
    expected = layout.project(layout.dense("dci", "clip", tower, pixels()), projector)
    compare(model, tokenizer, llm, expected, pixels(), tmp_path / "ours")

    # Without weights inside, the hub's name is asked for, through transformers' own classes.
    def fetched(name: str, **_: Any) -> Any:
        assert name == "openai/clip-of-the-hub"
        return tower

    write_full(tmp_path / "other", tower, mm_vision_tower="openai/clip-of-the-hub")
    with monkeypatch.context() as patch:
        patch.setattr(transformers.AutoConfig, "from_pretrained", lambda name, **_: tower.config)
        patch.setattr(transformers.CLIPVisionModel, "from_pretrained", fetched)
        model, tokenizer = open_checkpoint(tmp_path / "other")
    compare(model, tokenizer, llm, expected, pixels(), tmp_path / "ours")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A good checkpoint, to be spoiled."""
    tower = layout.make_tower("clip")
    tower.save_pretrained(tmp_path / "tower")
    write_full(tmp_path / "published", tower, inside=layout.tower_tensors(tower))
    return tmp_path / "published"


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_llava_checkpoint(folder, vision_tower=folder.parent / "tower", **options)
    assert "\n" not in str(caught.value) and caught.value.remedy


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"mm_projector_type": "linear"}, "mm_projector_type: 'linear' — known: 'mlp2x_gelu'"),
    ({"mm_dense_connector_type": "dcx"}, "mm_dense_connector_type: 'dcx'"),
    ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature"),
    ({"mm_vision_select_layer": -3}, "mm_vision_select_layer: -3 with dci"),
    ({"mm_vision_select_layer": 40, "mm_dense_connector_type": "sci"}, "layer 40"),
    ({"mm_vision_select_layer": "-2"}, "mm_vision_select_layer: '-2' — expected a whole number"),
    ({"mm_vision_select_layer": None}, "no mm_vision_select_layer"),
    ({"image_aspect_ratio": "anyres"}, "anyres with mm_patch_merge_type: flat"),
    ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio: 'anyres_max_9'"),
    ({"image_aspect_ratio": None}, "cut out the centre"),
    ({"mm_use_im_start_end": True}, "mm_use_im_start_end: True"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"s2": True}, "S2"),
    ({"image_grid": 2}, "image_grid: 2"),
    ({"model_type": "llava_mpt"}, "model_type: 'llava_mpt' — known: .*llava_llama"),
    ({"model_type": ["llama"]}, "model_type"),
    ({"hidden_size": 10**9}, r"layers, tokens and width \(2, 40, 1000000000\)"),
    ({"num_hidden_layers": 10**9}, "layers, tokens and width"),
    ({"vocab_size": 41}, r"\(2, 41, 16\), the language model has \(2, 40, 16\)"),
    ({"intermediate_size": 32}, "model.layers.0.mlp.*expected"),
    ({"num_attention_heads": "many"}, "config.json"),
    ({"mm_dense_connector_type": "sti"}, r"model.mm_projector.0.weight is \[16, 24\], expected \[16, 8\]"),
]


@pytest.mark.parametrize(("keys", "message"), CONFIGS)
def test_a_config_that_would_answer_wrongly_is_refused(keys: dict[str, Any], message: str, published: Path) -> None:
    config = json.loads((published / "config.json").read_text()) | keys
    (published / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    refused(published, message)


def without(*names: str) -> Callable[[layout.Tensors], layout.Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


Q = "model.layers.{}.self_attn.q_proj.weight"
SPOILS: list[tuple[Callable[[layout.Tensors], layout.Tensors], str]] = [
    (without("model.norm.weight"), "the language model does not fit its config: missing model.norm.weight"),
    (
        without(*(f"model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkv")),
        "missing .*self_attn.k_proj.weight, .*self_attn.q_proj.weight, .*self_attn.v_proj.weight and 3 more",
    ),
    (without("model.mm_projector.2.bias"), "the projector .*missing model.mm_projector.2.bias"),
    (lambda t: {**t, "model.mm_projector.4.weight": torch.ones(2)}, "surplus model.mm_projector.4.weight"),
    (lambda t: {**t, "model.strange": torch.ones(2)}, "surplus model.strange"),
    (lambda t: {**t, "model.norm.weight": torch.ones(5)}, r"model.norm.weight is \[5\], expected \[16\]"),
    (lambda t: {**t, "model.norm.weight": torch.ones(16, dtype=torch.int8)}, "model.norm.weight is torch.int8"),
    (lambda t: {**t, "model.mm_projector.2.bias": torch.full((16,), torch.nan)}, "mm_projector.2.bias holds NaN"),
    (lambda t: {**t, "model.mm_projector.2.bias": torch.full((16,), torch.inf)}, "NaN or infinity"),
    (without(f"{layout.INSIDE}vision_model.pre_layrnorm.bias"), "the vision tower .*missing .*pre_layrnorm.bias"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS)
def test_tensors_that_do_not_fit_are_named(
    spoil: Callable[[layout.Tensors], layout.Tensors], message: str, published: Path
) -> None:
    layout.write_weights(published, spoil(load_file(published / "model.safetensors")))
    refused(published, message)


def test_a_tower_with_a_layer_too_few(published: Path) -> None:
    tensors = load_file(published / "model.safetensors")
    layout.write_weights(
        published, {name: value for name, value in tensors.items() if "encoder.layers.23." not in name}
    )
    refused(published, "the vision tower has 23 layers, its config 24")
    tower = layout.make_tower("siglip")
    whole = {name: value for name, value in tensors.items() if not name.startswith(layout.INSIDE)}
    layout.write_weights(published, {**whole, **layout.tower_tensors(tower, 25)})
    tower.save_pretrained(published.parent / "tower")
    refused(published, "has 25 layers; expected 27, or 26 without the last")


class Malice:
    """What a hostile pickle does as it is opened."""

    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "mm_projector.bin", "non_lora_trainables.bin", "adapter_model.bin"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_not_run(name: str, zipped: bool, tmp_path: Path) -> None:
    """Any of the files that published checkpoints keep as pickles could run code as it is opened."""
    llm, projector = layout.make_llm(), layout.make_projector(3 * layout.WIDTH)
    folder, mark = tmp_path / "published", tmp_path / "run"
    if name in ("non_lora_trainables.bin", "adapter_model.bin"):
        write_lora(folder, llm, projector, "adapter_model.bin", "")
    else:
        layout.write_config(folder, llm)
    layout.write_tokenizer(folder)
    write_base(tmp_path / "base", llm)
    layout.make_tower("clip").save_pretrained(tmp_path / "tower")
    data = {"model.mm_projector.0.weight": Malice(str(mark))}
    if zipped:
        torch.save(data, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(data))
    refused(folder, f"{name} was refused", base=tmp_path / "base")
    assert not mark.exists()
    pickle.loads(pickle.dumps(data))
    assert mark.exists(), "the pickle must be one that does run"


def header(size: int, text: bytes = b"") -> bytes:
    return size.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(1 << 40),
        header(1 << 63, b"{}"),
        header(40 << 20, b"{" + b" " * ((40 << 20) - 2) + b"}"),
        header(60, b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}'),
        header(4, b"[[[["),
    ],
)
def test_damaged_and_hostile_safetensors(content: bytes, published: Path) -> None:
    (published / "model.safetensors").write_bytes(content)
    refused(published, r"model.safetensors cannot be read .* — it is truncated or damaged")


def test_truncated_shards(tmp_path: Path) -> None:
    tower = layout.make_tower("clip")
    tower.save_pretrained(tmp_path / "tower")
    for form in ("model.safetensors", "pytorch_model.bin"):
        folder = tmp_path / form
        write_full(folder, tower, inside=layout.tower_tensors(tower), form=f"{form} sharded")
        shard = next(iter(sorted(folder.glob("*-00002-of-00003.*"))))
        shard.write_bytes(shard.read_bytes()[:-100])
        refused(folder, "00002-of-00003.* (cannot be read|was refused)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": "model-00009-of-00003.safetensors"}, "lacks model-00009-of-00003.safetensors, which"),
        ({"model.norm.weight": "../tower/model.safetensors"}, "names files outside of its folder: ../tower"),
        ({"model.norm.weight": "/etc/passwd"}, "outside of its folder: /etc/passwd"),
        ({"model.norm.weight": "..\\x.safetensors"}, "outside of its folder"),
        ({"model.more.weight": "model-00001-of-00003.safetensors"}, "lacks model.more.weight, which"),
        ({"model.norm.weight": 3}, "has no weight_map"),
        (None, "has no weight_map"),
    ],
)
def test_an_index_that_lies(change: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    tower, folder = layout.make_tower("clip"), tmp_path / "published"
    tower.save_pretrained(tmp_path / "tower")
    write_full(folder, tower, inside=layout.tower_tensors(tower), form="model.safetensors sharded")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"] = index["weight_map"] | change if change else []
    file.write_text(json.dumps(index))
    refused(folder, message)


def test_what_else_is_missing_is_said(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(published, "the tokenizer lacks .*<|im_start|>", prompt="chatml")
    refused(published, "unknown prompt format 'v1' — say prompt=…, one of chatml", prompt="v1")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection\nat all")

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="unheard-of-tower.* cannot be had .*all"):
        patch.setattr("transformers.AutoConfig.from_pretrained", offline)
        open_llava_checkpoint(published)
    (published / "tokenizer.json").unlink()
    refused(published, "no tokenizer in")
    (published / "tokenizer.model").write_bytes(b"x")
    (published / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    refused(published, "cannot be opened .*pip install sentencepiece")
    (published / "model.safetensors").unlink()
    refused(published, "holds neither a model's weights nor mm_projector.bin")
    for text in ("[1]", "{", '{"a":' * 100_000):
        (published / "config.json").write_text(text)
        refused(published, "config.json (cannot be read|holds)")


def test_either_layout_is_opened_by_what_it_holds(published: Path, tmp_path: Path) -> None:
    ours = tiny_model("clip")
    layout.write_tokenizer(tmp_path / "words")
    from transformers import AutoTokenizer

    save_checkpoint(ours, AutoTokenizer.from_pretrained(tmp_path / "words"), tmp_path / "ours")
    assert is_llava_checkpoint(published) and not is_llava_checkpoint(tmp_path / "ours")
    assert not is_llava_checkpoint(tmp_path / "tower")
    model, _ = open_checkpoint(tmp_path / "ours")
    assert all(np.array_equal(a.detach(), b.detach()) for a, b in zip(model.parameters(), ours.parameters()))
    model, _ = open_checkpoint(published, vision_tower=tmp_path / "tower")
    assert model.config.provenance["layout"] == "llava"
    with pytest.raises(CheckpointError, match="takes no base"):
        open_checkpoint(tmp_path / "ours", base=tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is not a config of ours"):
        open_checkpoint(tmp_path / "tower")
