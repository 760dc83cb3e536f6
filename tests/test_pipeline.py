"""Export end to end: what a user runs must be what was trained, for every kind of checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.bundle import MANIFEST, Bundle, read_bundle, sha256_file, verify
from dclocal.errors import UserError
from dclocal.progress import silent
from dclocal.session import open_session
from dclocal_export import vision_onnx
from dclocal_export.llm_gguf import convert_to_gguf
from dclocal_export.options import ExportOptions
from dclocal_export.pipeline import export_bundle, read_pictures
from dclocal_export.vision_onnx import export_vision
from dclocal_models.answer import embed_pictures, prompt_embeds
from dclocal_models.open import open_checkpoint
from dclocal_models.vlm import DenseConnectorModel
from tests import llava_layout as layout
from tests.tiny import tiny_config
from tests.tiny_hf import add_lora, byte_tokenizer, make_llm

ANYRES = {"fit": "anyres", "pinpoints": ((56, 112), (112, 56))}


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models come to near ties soon, which float16 decides otherwise."""
    monkeypatch.setattr("dclocal_export.proof.ANSWER_TOKENS", 6)


@pytest.fixture(autouse=True)
def conversions(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's converter takes seconds to start, and most of these checkpoints have one language model: files that
    it converted before give a copy of what it made then."""
    kept = tmp_path_factory.getbasetemp() / "converted"

    def convert(folder: Path, out: Path, **options: Any) -> Path:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        digest = hashlib.sha256(repr([(file.name, sha256_file(file)) for file in files]).encode()).hexdigest()
        if not (kept / digest).exists():
            kept.mkdir(exist_ok=True)
            convert_to_gguf(folder, kept / digest, **options)
        return shutil.copyfile(kept / digest, out)

    monkeypatch.setattr("dclocal_export.pipeline.convert_to_gguf", convert)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of unlike shape and content."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("one", (60, 90, 3)), ("two", (80, 50, 3))):
        Image.fromarray(random.integers(0, 255, size, np.uint8)).save(folder / f"{name}.png")
    return folder


def save(
    folder: Path, backbone: str = "clip", llm: str = "llama", lora: bool = False, model: Any = None, **connector: Any
) -> Path:
    """A random checkpoint of ours with a real tokenizer."""
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config(backbone, **connector), **(model or {}))
    language = make_llm(llm)
    made = DenseConnectorModel(config, language)
    for parameter in made.connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if lora:
        made.llm = add_lora(language, folder.with_name("adapter-of-" + folder.name))
    made.eval().save_pretrained(folder, byte_tokenizer("llama"))
    return folder


def published(folder: Path) -> Path:
    """A checkpoint in LLaVA's layout with its tower's weights inside."""
    tower, llm = layout.make_tower("clip"), layout.make_llm(vocab_size=352)
    projector = layout.make_projector(3 * layout.WIDTH)
    folder.mkdir()
    layout.write_config(folder, llm, mm_vision_tower="openai/clip-tiny")
    byte_tokenizer("llama").save_pretrained(folder)
    layout.write_weights(folder, {**layout.llm_tensors(llm), **projector, **layout.tower_tensors(tower)})
    tower.save_pretrained(folder.with_name("tower"))
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "clip+llama": lambda folder: save(folder),
    "siglip+llama": lambda folder: save(folder, "siglip"),
    "dinov2+llama": lambda folder: save(folder, "dinov2"),
    "clip+phi": lambda folder: save(folder, llm="phi"),
    "clip+qwen2": lambda folder: save(folder, llm="qwen2"),
    "anyres": lambda folder: save(folder, model=ANYRES),
    "mini-gemini": lambda folder: save(folder, "clip+convnext", fusion="mining"),
    "lora": lambda folder: save(folder, lora=True),
}


def assert_greedy(bundle: Bundle, checkpoint: Path, pictures: Path, **places: Any) -> None:
    """Each token of the bundle's answers is PyTorch's likeliest after the same tokens, or within float16's error of
    it: a random model's likeliest tokens are often that close."""
    model, tokenizer = open_checkpoint(checkpoint, **places)
    session = open_session(bundle, threads=1)
    for file in sorted(pictures.iterdir()):
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        for question in ("what?", "Is there a circle?"):
            session.reset()
            list(session.ask(question, [session.attach(picture)], max_tokens=10))
            tokens = torch.tensor(session.llm.last_tokens)
            embeds = prompt_embeds(model, tokenizer, question, {"k": embed_pictures(model, [picture])[0]})
            answered = model.base_llm.get_input_embeddings()(tokens)[None]
            with torch.no_grad():
                logits = model.llm(inputs_embeds=torch.cat([embeds, answered], dim=1)).logits[0]
            logits = logits[embeds.shape[1] - 1 : -1]
            lost = logits.max(-1).values - logits.gather(1, tokens[:, None])[:, 0]
            assert len(tokens) > 0 and lost.max() < 0.1, (question, lost)


def options(pictures: Path, **changes: Any) -> ExportOptions:
    asked: dict[str, Any] = {
        "name": "made",
        "images": pictures,
        "vision": "fp32",
        "llm": "f16",
        "quick": True,
        "force": True,
    }
    return ExportOptions(**{**asked, **changes})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_bundle_is_the_model_that_was_trained(kind: str, tmp_path: Path, pictures: Path) -> None:
    """At full precision: the same embeddings to 1e-3, the same greedy tokens as PyTorch."""
    checkpoint = KINDS[kind](tmp_path / "checkpoint")
    bundle = export_bundle(checkpoint, tmp_path / "out", options(pictures), silent)
    assert verify(bundle) == []
    parity = json.loads((bundle.path / "parity.json").read_text())
    assert parity["vision"]["fp32"]["cosine_min"] > 0.99999 and parity["vision"]["fp32"]["max_error"] < 1e-3
    assert parity["answers"]["same"] >= 6 and parity["answers"]["questions"] == 8, parity["answers"]
    assert_greedy(bundle, checkpoint, pictures)


def test_a_published_checkpoint_becomes_a_bundle(tmp_path: Path, pictures: Path) -> None:
    checkpoint = published(tmp_path / "published")
    asked = options(pictures, vision_tower=tmp_path / "tower")
    bundle = export_bundle(checkpoint, tmp_path / "out", asked, silent)
    assert bundle.manifest.prompt.name == "chatml_direct"
    assert_greedy(bundle, checkpoint, pictures, vision_tower=tmp_path / "tower")


def test_lora_kept_apart_answers_as_merged(tmp_path: Path, pictures: Path) -> None:
    """The adapter travels beside the language model, and can be left out."""
    checkpoint = KINDS["lora"](tmp_path / "checkpoint")
    apart = export_bundle(checkpoint, tmp_path / "apart", options(pictures, lora="separate"), silent)
    assert [adapter.name for adapter in apart.manifest.adapters] == ["lora"]
    assert_greedy(apart, checkpoint, pictures)


def test_the_same_checkpoint_gives_the_same_bytes(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but what was measured: how long it took, and the hash of that."""
    monkeypatch.setattr("dclocal_export.pipeline.convert_to_gguf", convert_to_gguf)  # twice, not once and a copy
    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")
    asked = options(pictures, vision="int8", llm="q8_0")
    one, other = (export_bundle(checkpoint, tmp_path / name, asked, silent) for name in ("one", "other"))
    for name in one.manifest.files:
        if name != "parity.json":
            assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


def test_every_precision_is_told_beside_the_chosen_one(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a user sees what another choice would cost; tracing, which takes longest, is done once for all."""
    checkpoint = KINDS["siglip+llama"](tmp_path / "checkpoint")
    traced = []
    monkeypatch.setattr(vision_onnx, "export_vision", lambda *each: (traced.append(each), export_vision(*each)))
    bundle = export_bundle(checkpoint, tmp_path / "out", options(pictures, vision="int4", quick=False), silent)
    vision = json.loads((bundle.path / "parity.json").read_text())["vision"]
    assert set(vision) == {"int4", "fp32", "fp16", "int8"} and len(traced) == 1
    assert vision["fp32"]["max_error"] < vision["int8"]["max_error"] < vision["int4"]["max_error"]
    assert {file.name for file in bundle.path.glob("*.onnx")} == {"vision.onnx"}


@pytest.mark.parametrize("part", ["vision", "connector"])
def test_weights_that_are_not_finite_are_named(part: str, tmp_path: Path, pictures: Path) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")
    file = checkpoint / f"{part}.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(UserError, match=f"{part} has values that are not finite in {name}"):
        export_bundle(checkpoint, tmp_path / "out", options(pictures), silent)
    assert not (tmp_path / "out").exists()


def test_below_a_floor_nothing_is_written(tmp_path: Path, pictures: Path) -> None:
    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")
    asked = options(pictures, vision="int4", llm="q4_0", force=False)
    with pytest.raises(UserError, match="floor.*--force"):
        export_bundle(checkpoint, tmp_path / "out", asked, silent)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out-*"))


@pytest.mark.parametrize("step", ["write_vision", "convert_to_gguf", "measure", "write_manifest"])
def test_an_interruption_leaves_nothing_that_loads(
    step: str, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"dclocal_export.pipeline.{step}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(checkpoint, tmp_path / "out", options(pictures), silent)
    assert not list(tmp_path.rglob(MANIFEST))


def test_mistakes_are_told_before_any_work(tmp_path: Path, pictures: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"vision": "int3"}, "--vision int3 is not known"),
        ({"llm": "q2"}, "--llm q2 is not known"),
        ({"images": tmp_path / "none"}, "is not a folder"),
        ({"name": "a/b"}, "cannot be named"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message):
            export_bundle(tmp_path / "checkpoint", tmp_path / "out", options(pictures, **changes), silent)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        export_bundle(tmp_path / "checkpoint", tmp_path / "full", options(pictures), silent)
    with pytest.raises(UserError, match="is not a folder"):
        export_bundle(tmp_path / "checkpoint", tmp_path / "out", options(pictures), silent)


def test_too_few_pictures_are_told(pictures: Path) -> None:
    """What is measured on one picture may be less than an export needs, and still enough for another caller."""
    (pictures / "two.png").unlink()
    assert len(read_pictures(pictures, least=1)) == 1
    with pytest.raises(UserError, match="holds 1 pictures — .*at least 2"):
        read_pictures(pictures)


def test_bundles_are_read_as_they_were_written(tmp_path: Path, pictures: Path) -> None:
    """What the manifest says of the model."""
    bundle = read_bundle(
        export_bundle(
            KINDS["anyres"](tmp_path / "checkpoint"),
            tmp_path / "out",
            options(pictures, licences={"llm": "none"}),
            silent,
        ).path
    )
    assert bundle.manifest.vision.image.pinpoints == ANYRES["pinpoints"] and bundle.read_newline() is not None
    assert bundle.manifest.licences == {"llm": "none"} and bundle.manifest.llm_quantization == "f16"


def test_llama_cpps_projector_travels_along(tmp_path: Path, pictures: Path) -> None:
    """Where llama.cpp can express the model; where it cannot, nothing is written and the reason said."""
    siglip = save(tmp_path / "siglip", "siglip", token_grid=(0, 0))
    bundle = export_bundle(siglip, tmp_path / "out", options(pictures, mmproj=True), silent)
    assert "mmproj.gguf" in bundle.manifest.files and verify(bundle) == []
    with pytest.raises(UserError, match="class token"):
        export_bundle(
            save(tmp_path / "clip", token_grid=(0, 0)), tmp_path / "no", options(pictures, mmproj=True), silent
        )
    assert not (tmp_path / "no").exists()


def test_an_importance_matrix_changes_what_is_kept(tmp_path: Path, pictures: Path) -> None:
    """The user's own text and pictures decide which weights are rounded least."""
    text = tmp_path / "text.txt"
    text.write_text("What is this? It is a red circle.\n\nHow many are there? There are three.")
    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")
    plain = export_bundle(checkpoint, tmp_path / "plain", options(pictures, llm="iq4_nl"), silent)
    weighed = export_bundle(
        checkpoint, tmp_path / "weighed", options(pictures, llm="iq4_nl", imatrix_text=text), silent
    )
    assert plain.llm_path.read_bytes() != weighed.llm_path.read_bytes()
    found = [json.loads((bundle.path / "parity.json").read_text())["llm"]["iq4_nl"] for bundle in (plain, weighed)]
    assert found[1]["kl_divergence_mean"] < 1.1 * found[0]["kl_divergence_mean"]
