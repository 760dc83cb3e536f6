"""The PyTorch side of the benchmark: it must do the model's whole work, or bundles would look slow, or fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.errors import UserError
from dclocal_models.answer import embed_pictures, prompt_embeds
from dclocal_models.benchmark_torch import open_pipelines
from dclocal_models.checkpoint import load_checkpoint
from tests.tiny_checkpoint import save


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints") / "tiny")


def test_both_grids_of_one_model(checkpoint: Path) -> None:
    """Used in turn, each keeps its own count of tokens; without interpolation there is one for each patch."""
    pipelines = open_pipelines(checkpoint=checkpoint, threads=1)
    own, full = pipelines["own"], pipelines["full"]
    assert (own.tokens, full.tokens) == (4, 16)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    model, _ = load_checkpoint(checkpoint)
    for _ in range(2):
        with torch.inference_mode():
            expected = model.encode_images(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(own.encode(pixels), expected, atol=1e-5)
        assert full.encode(pixels).shape == (2, 16, expected.shape[2])


def test_the_first_token_is_the_models(checkpoint: Path, picture: Image.Image) -> None:
    model, tokenizer = load_checkpoint(checkpoint)
    embeds = prompt_embeds(model, tokenizer, "what is it?", {"a": embed_pictures(model, [picture])[0]})
    expected = model.llm.generate(inputs_embeds=embeds, max_new_tokens=1, do_sample=False)[0, -1]
    own = open_pipelines(checkpoint=checkpoint, threads=1)["own"]
    assert own.first_token(picture, "what is it?") == int(expected)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a whole checkpoint"):
        open_pipelines(checkpoint=tmp_path, threads=1)
