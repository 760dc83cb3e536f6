"""The bundle against the PyTorch model that it was made from: what a user runs is what was trained."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dclocal.assemble import WEIGHTS_FILE, float32_graph, load_weights, lora_matrices, read_parts
from dclocal.bundle import Bundle
from dclocal.evaluate import easy_vqa_items
from dclocal.gguf_merge import merge_lora, open_gguf
from dclocal.images import to_pixels
from dclocal.llm import LLM
from dclocal.prompt import Tokens
from dclocal.store import parts_folder
from dclocal_export.parity import answer_parity, vision_parity
from dclocal_models.answer import embed_images
from dclocal_models.embedded import trained_dc_tiny
from dclocal_models.vlm import DenseConnectorModel

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def reference(sources: dict[str, Path]) -> tuple[DenseConnectorModel, Any]:
    """dc-tiny in PyTorch, float32."""
    return trained_dc_tiny(parts_folder("dc-tiny"), sources["vision"], sources["llm"])


def test_embeddings_on_photographs(
    reference: tuple[DenseConnectorModel, Any],
    bundle: Bundle,
    sources: dict[str, Path],
    photographs: list[Image.Image],
    tmp_path: Path,
) -> None:
    """fp32 within 0.9999 of PyTorch, int8 within 0.995, on every photograph."""
    full = tmp_path / "fp32.onnx"
    float32_graph(parts_folder("dc-tiny"), sources, full)
    found = vision_parity(reference[0], photographs, {"fp32": full, "int8": bundle.vision_path})
    assert found["fp32"]["cosine_min"] >= 0.9999 and found["int8"]["cosine_min"] >= 0.995, found


def test_a_batch_equals_its_pictures(bundle: Bundle, photographs: list[Image.Image]) -> None:
    """The batch axis is free; int8 scales are per batch, so the bound is that of quantization."""
    from dclocal.vision import VisionEncoder

    encoder = VisionEncoder(bundle)
    pixels = to_pixels(photographs[:3], bundle.manifest.vision.image)
    together = encoder.encode(pixels)
    for index in range(3):
        alone = encoder.encode(pixels[index : index + 1])[0]
        assert (alone * together[index]).sum() / np.linalg.norm(alone) / np.linalg.norm(together[index]) > 0.999
    assert encoder.encoded_images == 6


def test_language_models_agree(
    reference: tuple[DenseConnectorModel, Any], bundle: Bundle, sources: dict[str, Path], tmp_path: Path
) -> None:
    """LoRA merged into the right rows: the reordering of queries and keys is where this goes wrong.  Exact before the
    four bits of the bundle, and still recognisable after them."""
    import torch

    model, tokenizer = reference
    ids = tokenizer.encode("The quick brown fox jumps over the lazy dog, and then it", add_special_tokens=False)
    with torch.no_grad():
        expected = model.base_llm(torch.tensor([ids])).logits[0, -1].numpy()
    parts = parts_folder("dc-tiny")
    lora, scale = lora_matrices(load_weights(parts / WEIGHTS_FILE)), read_parts(parts)["lora_scale"]
    merge_lora(open_gguf(sources["llm"]), lora, scale, tmp_path / "f16.gguf", lambda done, total: None)
    for file, least in ((tmp_path / "f16.gguf", 0.9999), (bundle.llm_path, 0.9)):
        with LLM(file, n_ctx=256) as llm:
            llm.prefill([Tokens(tuple(ids))])
            assert np.corrcoef(expected, llm.logits())[0, 1] > least, file


@pytest.mark.timeout(1800)  # 100 questions to PyTorch in float32: a slow core takes ten minutes
def test_greedy_answers(reference: tuple[DenseConnectorModel, Any], bundle: Bundle, sources: dict[str, Path]) -> None:
    """At least 95 of 100 questions are answered by the same words, each side seeing with its own encoder."""
    items = easy_vqa_items(sources["easy_vqa"], None)[::40]
    questions = [(item.image, question) for item in items for question, _ in item.questions[:5]][:100]
    assert len(questions) == 100
    found = answer_parity(*reference, bundle, questions, max_tokens=12)
    assert found["same"] >= 95, found


def test_quantization_moves_less_than_another_picture_would(
    reference: tuple[DenseConnectorModel, Any], bundle: Bundle, photographs: list[Image.Image]
) -> None:
    """Embeddings of unlike pictures have a cosine near 0.94, so a high cosine alone would prove little."""
    from dclocal.vision import VisionEncoder

    expected = embed_images(reference[0], photographs).numpy().reshape(len(photographs), -1)
    pixels = to_pixels(photographs, bundle.manifest.vision.image)
    found = VisionEncoder(bundle).encode(pixels).reshape(len(photographs), -1)
    errors = np.linalg.norm(found - expected, axis=1)
    apart = min(np.linalg.norm(one - other) for index, one in enumerate(expected) for other in expected[index + 1 :])
    print("errors against distance", errors / apart)
    assert errors.max() < 0.25 * apart


def test_the_whole_chain_scores(bundle: Bundle, sources: dict[str, Path]) -> None:
    """A guard on quality: 200 of easy-VQA's test questions through the quantized bundle."""
    from dclocal.evaluate import run_task
    from dclocal.progress import silent
    from dclocal.session import open_session

    score = run_task("easy-vqa", easy_vqa_items(sources["easy_vqa"], 200), open_session(bundle), silent)
    assert score.asked == 200 and score.accuracy >= 0.90, score


def test_the_test_split_is_whole(sources: dict[str, Path]) -> None:
    items = easy_vqa_items(sources["easy_vqa"], None)
    assert (len(items), sum(len(item.questions) for item in items)) == (1000, 9673)
    with zipfile.ZipFile(sources["easy_vqa"]) as archive:
        first = json.loads(archive.read("easy_vqa/data/test/questions.json"))[0]
    assert items[0].questions[0] == (first[0], first[1])
