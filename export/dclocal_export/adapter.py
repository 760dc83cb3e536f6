"""LoRA as peft stores it, known by the weight that each pair of matrices changes: W + scale·B·A."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dclocal_models.checkpoint import CheckpointError
from dclocal_models.llava_weights import open_either, read_json, read_tensor

NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")


@dataclass(frozen=True)
class LowRank:
    """One weight's change: `a` `[rank, inputs]`, `b` `[outputs, rank]`, both float32, and their product's scale."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return int(self.a.shape[0])


def read_adapter(folder: Path) -> dict[str, LowRank]:
    """Weight name → its change.  Raises CheckpointError for kinds of adapter other than plain LoRA on linear layers."""
    config = read_json(folder / "adapter_config.json")
    _require_plain(config, folder)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, stored in open_either(folder, "adapter_model").items():
        found = NAME.fullmatch(name)
        if found is None:
            raise CheckpointError(f"{folder} adapts {name}", "only LoRA on linear layers can be exported")
        pairs.setdefault(found[1], {})[found[2]] = read_tensor(stored, name, torch.float32, finite=True)
    changes = {}
    for module, pair in pairs.items():
        if pair.keys() != {"A", "B"} or pair["A"].ndim != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            shapes = {key: list(value.shape) for key, value in pair.items()}
            raise CheckpointError(f"{folder}: {module} has LoRA matrices {shapes}", "it is damaged: copy it again")
        rank = pair["A"].shape[0]
        alpha = _by_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
        divisor = math.sqrt(rank) if config.get("use_rslora") else rank
        changes[f"{module}.weight"] = LowRank(pair["A"], pair["B"], float(alpha) / divisor)
    if not changes:
        raise CheckpointError(f"{folder} holds no LoRA matrices", "copy it again")
    return changes


def require_targets(changes: Mapping[str, LowRank], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse changes whose weight is missing or of another shape; raises CheckpointError."""
    for name, change in changes.items():
        expected = (change.b.shape[0], change.a.shape[1])
        if shapes.get(name) != expected:
            found = list(shapes[name]) if name in shapes else "not there"
            raise CheckpointError(f"{where}: {name} is {found}, LoRA changes {list(expected)}", "is base another?")


def _require_plain(config: Mapping[str, Any], folder: Path) -> None:
    odd = {key: config.get(key) for key in ("use_dora", "fan_in_fan_out", "lora_bias", "modules_to_save")}
    odd = {key: value for key, value in odd.items() if value}
    if config.get("peft_type") != "LORA":
        odd["peft_type"] = config.get("peft_type")
    if config.get("bias", "none") != "none":
        odd["bias"] = config["bias"]
    if odd:
        said = ", ".join(f"{key}: {value!r:.40}" for key, value in odd.items())
        raise CheckpointError(f"{folder / 'adapter_config.json'} says {said}", "only plain LoRA can be exported")


def _by_pattern(patterns: Any, module: str, otherwise: float) -> float:
    """peft's rule: the first key that, as a regular expression, ends the module's name."""
    for key, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return float(value)
    return otherwise
