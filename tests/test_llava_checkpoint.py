"""Published checkpoints: one opened with a wrong layer, name or order answers fluently and wrongly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dclocal.anyres import token_order
from dclocal.errors import BundleError
from dclocal_models import llava_tower
from dclocal_models.checkpoint import CheckpointError
from dclocal_models.llava_checkpoint import open_llava_checkpoint
from dclocal_models.open import open_checkpoint
from tests import llava_layout as layout
from tests import paper
from tests.llava_folders import TOLERANCE, compare, pixels, write_full

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
