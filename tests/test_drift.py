"""What a slid cache holds, against one evaluated whole: the same where nothing leaks, close with a real model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from PIL import Image

from dclocal.bundle import Bundle
from dclocal.chat import ChatSession
from dclocal.drift import slide_drift
from dclocal.fake import fake_bundle
from dclocal.llm import LLM
from dclocal.session import open_session
from dclocal.video import Frame
from dclocal.window import Window, window_segments
from tests.test_live import frame, fresh
from tests.tiny_files import write_tiny_gguf


@pytest.fixture(scope="module")
def plain_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose keys and values depend on their own cell alone: its first layer attends to nothing."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    reader = GGUFReader(path, "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "blk.0.attn_output.weight").data[:] = 0
    reader.data.flush()
    return path


def test_a_slid_cache_is_the_fresh_one_moved(tmp_path: Path, plain_gguf: Path) -> None:
    """Where nothing leaks between cells, sliding must be exact: the right cells went, the right positions stayed."""
    bundle = fake_bundle(tmp_path)
    vision = dataclasses.replace(bundle.manifest.vision, n_embd=32)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, vision=vision))

    class Encoder:
        def encode(self, pixels: np.ndarray) -> np.ndarray:
            seed = int(pixels.astype(np.float64).sum() * 1000) % 2**32
            return np.random.default_rng(seed).standard_normal((1, 4, 32), np.float32)

    with LLM(plain_gguf, n_ctx=1000, threads=1) as llm:
        window = Window(ChatSession(bundle, Encoder(), llm), 4, 4, max_tokens=8)
        for number in range(1, 14):
            window.look(frame(number))
            window.prefill()
            if number == 8:
                list(window.ask("And a question in between?", max_tokens=5))
        assert window.slides == 9
        assert llm.cells == fresh(window)
        segments = window_segments(window.session, window.frames, "What?")
        assert llm.prefill(segments).evaluated == len(segments[-1])
        slid = llm.logits()
        llm.forget()
        llm.prefill(segments)
        np.testing.assert_allclose(slid, llm.logits(), atol=2e-2)  # keys are kept in 16 bits
        llm.drop_cells(2, 7)  # and the test would see a wrong cell
        llm.score(llm.tokenize("?", False))
        assert np.abs(slid - llm.logits()).max() > 0.1


@pytest.mark.bundle
def test_drift_of_the_real_model(bundle: Bundle, photographs: list[Image.Image]) -> None:
    frames = []
    for number, start in enumerate(range(0, 160, 20)):
        picture = photographs[number % 4]
        frames.append(Frame(picture.crop((start, start, start + 200, start + 200)), float(number), number))
    chat = open_session(bundle, threads=1)
    questions = ["What is this?", "What do you see?", "What colour is it?", "What changed?"]
    found = slide_drift(chat, frames, questions, size=3, tokens_per_frame=16, slides=(1, 4))
    assert [drift.slides for drift in found] == [1, 4]
    for drift in found:
        assert 0 <= drift.mean_kl <= drift.greatest_kl < 0.1 and drift.agreement >= 0.75, found
    assert found[-1].greatest_kl > 1e-9  # it is not equal: else something was evaluated anew
    assert chat.vision.encoded_images == 4 + 7  # type: ignore[attr-defined]
    chat.llm.close()  # type: ignore[attr-defined]
