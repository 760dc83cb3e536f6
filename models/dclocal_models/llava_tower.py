"""The vision towers of a LLaVA-layout checkpoint: inside of it, from a folder, or from the hub.

A tower is its architecture (`TowerConfig` keys of transformers) and its stored tensors; Mini-Gemini's second one
is OpenCLIP's ConvNeXt, whose sizes are read off its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dclocal_models.checkpoint import CheckpointError
from dclocal_models.llava_weights import Stored, brief, open_either, open_weights, read_json

CLIP_L: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
SIGLIP_SO400M: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
KNOWN_TOWERS = {
    "clip-vit-large-patch14": {**CLIP_L, "image_size": 224},
    "clip-vit-large-patch14-336": {**CLIP_L, "image_size": 336},
    "siglip-so400m-patch14-384": {**SIGLIP_SO400M, "image_size": 384},
}
"""Architectures by the last part of a tower's name, for checkpoints that hold its weights without its config."""
TOWER_TYPES = {"clip": "clip", "clip_vision_model": "clip", "siglip": "siglip", "siglip_vision_model": "siglip"}
NORMALISATION = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation of the pixels that the released processors make."""
CLASSES = {"clip": ("CLIPVisionConfig", "CLIPVisionModel"), "siglip": ("SiglipVisionConfig", "SiglipVisionModel")}
TOWER_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
INSIDE = "model.vision_tower.vision_tower."
TELL = "name its folder (with config.json) with vision_tower"

AUX_PREFIXES = ("model.vision_tower_aux.vision_", "visual.trunk.", "")
"""Before `stem` and `stages`: in a checkpoint, in OpenCLIP's file, alone."""
CONVNEXT_NAMES = (
    (r"embeddings\.patch_embeddings\.", "stem.0."),
    (r"embeddings\.layernorm\.", "stem.1."),
    (r"encoder\.stages\.", "stages."),
    (r"\.downsampling_layer\.", ".downsample."),
    (r"\.layers\.", ".blocks."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.layer_scale_parameter$", ".gamma"),
)
"""transformers' names of ConvNeXt's parameters to OpenCLIP's, one after another."""


@dataclass(frozen=True)
class Tower:
    """`backbone`: "clip" or "siglip"; `settings`: `VisionConfig.tower`, with the layers that are stored; `configured`:
    the layers that its architecture has; `tensors` are named `prefix` + the name in transformers' vision model."""

    backbone: str
    settings: dict[str, Any]
    image_size: int
    configured: int
    prefix: str
    tensors: dict[str, Stored]


@dataclass(frozen=True)
class AuxTower:
    """OpenCLIP's ConvNeXt: transformers' config keys, and tensors under `prefix` + OpenCLIP's names."""

    settings: dict[str, Any]
    prefix: str
    tensors: dict[str, Stored]


def find_tower(inside: Mapping[str, Stored], folder: Path | None, name: str | None) -> Tower:
    """The tower with the weights `inside` the checkpoint or, where there are none, those of `folder`, in transformers'
    layout, or of the hub's `name`.  The architecture is that of `folder`, `KNOWN_TOWERS` or the hub.

    Raises CheckpointError.
    """
    if folder is None and name is not None and Path(name).is_dir():
        folder = Path(name)
    tensors, prefix = dict(inside), INSIDE
    if folder is not None:
        config = read_json(folder / "config.json")
        if not tensors:
            tensors, prefix = open_weights(folder), ""
    elif name is None:
        raise CheckpointError("no vision tower is named", TELL)
    elif tensors:
        config = KNOWN_TOWERS.get(name.rstrip("/").rsplit("/", 1)[-1]) or _from_hub(name)[0]
    else:
        (config, tensors), prefix = _from_hub(name, weights=True), ""
    return _tower(config, tensors, prefix)


def find_aux_tower(inside: Mapping[str, Stored], folder: Path | None, name: str) -> AuxTower:
    """Mini-Gemini's ConvNeXt, out of the checkpoint or OpenCLIP's folder; raises CheckpointError."""
    if folder is None and Path(name).is_dir():
        folder = Path(name)
    if inside:
        tensors = dict(inside)
    elif folder is not None:
        tensors = open_either(folder, "open_clip_pytorch_model")
    else:
        raise CheckpointError(
            f"the checkpoint holds no weights of its second tower, {name}",
            "name OpenCLIP's folder (with open_clip_pytorch_model.bin) with vision_tower_aux",
        )
    prefix = next((prefix for prefix in AUX_PREFIXES if f"{prefix}stem.0.weight" in tensors), None)
    if prefix is None:
        raise CheckpointError(
            f"the second tower has no stem.0.weight among {len(tensors)} tensors", "is it a ConvNeXt?"
        )
    kept = {key: stored for key, stored in tensors.items() if re.match(r"(stem|stages)\.", key.removeprefix(prefix))}
    if prefix == AUX_PREFIXES[0]:
        kept = tensors
    stem = kept[f"{prefix}stem.0.weight"].shape
    blocks: dict[int, set[int]] = {}
    widths: dict[int, int] = {}
    for key, stored in kept.items():
        found = re.fullmatch(r"stages\.(\d{1,4})\.blocks\.(\d{1,4})\.norm\.weight", key.removeprefix(prefix))
        if found:
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
            widths[int(found[1])] = stored.shape[0]
    settings = {
        "num_stages": len(blocks),
        "hidden_sizes": [widths[stage] for stage in sorted(widths)],
        "depths": [len(blocks[stage]) for stage in sorted(blocks)],
        "patch_size": stem[-1],
    }
    if len(stem) != 4 or sorted(blocks) != list(range(len(blocks))) or not blocks:
        raise CheckpointError(f"the second tower's stages are {sorted(blocks)}, its stem {list(stem)}", "copy it again")
    return AuxTower(settings, prefix, kept)


def openclip_name(ours: str) -> str:
    """What OpenCLIP calls a parameter of transformers' ConvNeXt."""
    for pattern, theirs in CONVNEXT_NAMES:
        ours = re.sub(pattern, theirs, ours)
    return ours


def _tower(config: Mapping[str, Any], tensors: Mapping[str, Stored], prefix: str) -> Tower:
    import transformers

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in TOWER_TYPES:
        raise CheckpointError(f"the vision tower is a {kind!r:.60}", f"known: {', '.join(TOWER_TYPES)}")
    backbone = TOWER_TYPES[kind]
    values = config.get("vision_config", {}) if kind == backbone else config
    try:
        resolved = getattr(transformers, CLASSES[backbone][0])(**values)
        settings = {key: getattr(resolved, key) for key in TOWER_KEYS}
        sizes = [settings[key] for key in TOWER_KEYS[:5]] + [resolved.image_size]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes}")
    except Exception as error:  # whatever a class makes of values it does not expect
        raise CheckpointError(f"the vision tower's config is no {backbone}'s ({brief(error)})", TELL) from error
    kept = {
        name: stored
        for name, stored in tensors.items()
        if (prefix or name.startswith("vision_model.")) and not name.startswith(f"{prefix}vision_model.head.")
    }
    pattern = re.compile(re.escape(prefix) + r"vision_model\.encoder\.layers\.(\d{1,4})\..*")
    layers = {int(found[1]) for found in map(pattern.fullmatch, kept) if found}
    if layers != set(range(len(layers))) or not layers:
        raise CheckpointError(f"the vision tower has layers {sorted(layers)}", "copy it again")
    settings["num_hidden_layers"] = len(layers)
    return Tower(backbone, settings, resolved.image_size, sizes[2], prefix, kept)


def _from_hub(name: str, weights: bool = False) -> tuple[dict[str, Any], dict[str, Stored]]:
    """A tower's config and, if asked, tensors, through transformers' own cache and download."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False).to_dict()
        if not weights:
            return config, {}
        kind = TOWER_TYPES.get(config.get("model_type", ""), "")
        if not kind:
            return config, {}
        model = getattr(transformers, CLASSES[kind][1]).from_pretrained(name)
    except Exception as error:  # no network, no such name, a damaged cache
        raise CheckpointError(f"the vision tower {name!r} cannot be had ({brief(error)})", TELL) from error
    tensors = {key: Stored(tuple(value.shape), value.detach) for key, value in model.state_dict().items()}
    return config, tensors
