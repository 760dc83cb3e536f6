"""A page of sample pictures with their questions and answers, for a person to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from dclocal_train.synthetic.rows import Sample

SIDE, GAP, LINE, COLUMNS, LETTERS = 336, 12, 14, 4, 52


def sample_page(samples: Sequence[Sample], file: Path) -> None:
    """Write the samples' pictures, COLUMNS a row, each over its turns, as a PNG."""
    texts = [_lines(sample) for sample in samples]
    rows = [range(start, min(start + COLUMNS, len(samples))) for start in range(0, len(samples), COLUMNS)]
    heights = [SIDE + GAP + LINE * max(len(texts[index]) for index in row) for row in rows]
    page = Image.new("RGB", (COLUMNS * (SIDE + GAP), sum(heights) or 1), "white")
    draw = ImageDraw.Draw(page)
    top = 0
    for row, height in zip(rows, heights):
        for column, index in enumerate(row):
            image = samples[index].image
            if image is not None:
                page.paste(image, (column * (SIDE + GAP), top))
            draw.text((column * (SIDE + GAP), top + SIDE + 2), "\n".join(texts[index]), "black", spacing=2)
        top += height
    page.save(file)


def _lines(sample: Sample) -> list[str]:
    said = [f"{question} — {answer}" for question, answer in sample.turns]
    ascii_only = [text.encode("ascii", "replace").decode() for text in (sample.caption or "", *said)]
    return [line for text in ascii_only for line in textwrap.wrap(text, LETTERS)]
