"""A scripted model with the real one's shape, for tests of what sits above: it counts the work that is asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dclocal.bundle import Bundle, FileEntry, ImageSpec, Manifest, Sampling, VisionSpec
from dclocal.formats import FORMATS
from dclocal.prompt import Embeds, Segment

if TYPE_CHECKING:
    import numpy as np

    from dclocal.cells import Cell, Prefill

SPECIAL = ("<|im_start|>", "<|im_end|>")


def fake_bundle(path: Path) -> Bundle:
    """A manifest without files behind it: 4 image tokens of width 8, a context of 200."""
    image = ImageSpec(16, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    manifest = Manifest(
        name="fake",
        description="scripted",
        vision=VisionSpec(image, 4, (2, 2), 8, "fake", "fake"),
        prompt=FORMATS["chatml"],
        n_ctx=200,
        files={"llm.gguf": FileEntry(0, "")},
        licences={},
        provenance={},
    )
    return Bundle(path, manifest)


class FakeVision:
    """Embeddings that depend on the picture; `encoded_images` counts."""

    def __init__(self) -> None:
        self.encoded_images = 0

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        import numpy as np

        self.encoded_images += len(pixels)
        return np.tile(pixels.mean(axis=(1, 2, 3), dtype=np.float32)[:, None, None], (1, 4, 8))


class FakeLLM:
    """Answers the scripted texts in turn, one character a token; the cache keeps a true common prefix."""

    can_slide = True

    def __init__(self, answers: Sequence[str], n_ctx: int = 200):
        self.answers = list(answers)
        self.n_ctx = n_ctx
        self.cells: list[Cell] = []
        self.evaluated_tokens = 0
        self.last_tokens: list[int] = []

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        """Code points; a special token is one id."""
        ids: list[int] = []
        while text:
            special = next((mark for mark in SPECIAL if parse_special and text.startswith(mark)), None)
            ids.append(-1 - SPECIAL.index(special) if special else ord(text[0]))
            text = text[len(special or text[0]) :]
        return ids

    def settle(self) -> None:
        """Nothing gets quicker here."""

    def prefill(self, segments: Sequence[Segment]) -> Prefill:
        from dclocal.cells import plan_prefill

        self.cells, plan = plan_prefill(self.cells, segments, self.n_ctx)
        self.evaluated_tokens += plan.evaluated
        assert all(segment.rows().shape[1] == 8 for segment in segments if isinstance(segment, Embeds))
        return plan

    def drop_cells(self, start: int, end: int) -> None:
        del self.cells[start:end]

    def generate(self, sampling: Sampling, *, seed: int, max_tokens: int, stop: Sequence[str] = ()) -> Iterator[str]:
        self.last_tokens = []
        for character in self.answers.pop(0)[:max_tokens]:
            self.last_tokens.append(ord(character))
            self.cells.append(ord(character))
            yield character
