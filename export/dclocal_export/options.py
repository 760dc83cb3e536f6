"""What an export is asked for, and the floors below which a bundle is not written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEASURED = ("fp32", "fp16", "int8")
"""Vision precisions that every parity tells of, so that what was chosen can be judged."""
VISION_FLOORS = {"fp32": 0.9999, "fp16": 0.999, "int8_block": 0.999, "int8": 0.99, "int8_static": 0.98, "int4": 0.97}
"""Least cosine of any picture's embeddings with PyTorch's."""
TOP1_FLOORS = {"f16": 0.999, "q8_0": 0.95, "q6_k": 0.93, "q5_k_m": 0.9, "q4_k_m": 0.85, "q4_0": 0.8, "iq4_nl": 0.8}
"""Least share of positions at which the quantized model's likeliest token is the f16 model's."""


@dataclass(frozen=True)
class ExportOptions:
    """`vision` is a name in `quantize.PRECISIONS`, `llm` one in `llm_gguf.FTYPES`; `lora`: merge, or separate.

    `images`: a folder of pictures to calibrate and measure on.  `base`, `vision_tower`: see `open_checkpoint`.
    `imatrix_text`: a text file for an importance matrix.  `licences` name the parts' licences.  `sources`: a folder
    with the pinned converter's wheel.  `quick` measures the vision precision asked for alone, else those of
    `MEASURED` too.  `force` writes a bundle below the floors too.
    """

    name: str
    images: Path
    vision: str = "int8"
    llm: str = "q8_0"
    lora: str = "merge"
    mmproj: bool = False
    base: Path | None = None
    vision_tower: Path | None = None
    imatrix_text: Path | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    card: str = ""
    sources: Path | None = None
    quick: bool = False
    force: bool = False


def below_floors(parity: Mapping[str, Any], vision: str) -> list[str]:
    """What of a measured parity is below its floor, in words; of the vision graphs, the bundle's own, `vision`."""
    problems = []
    cosine = parity["vision"][vision]["cosine_min"]
    if cosine < VISION_FLOORS[vision]:
        problems.append(f"vision {vision}: cosine {cosine:.5f}, floor {VISION_FLOORS[vision]}")
    for kind, measured in parity.get("llm", {}).items():
        floor = TOP1_FLOORS.get(kind)
        agreement = measured.get("top1_agreement")
        if floor is not None and agreement is not None and agreement < floor:
            problems.append(f"language model {kind}: same likeliest token at {agreement:.3f}, floor {floor}")
    return problems
