"""Opens published checkpoints, which lie in LLaVA's layout, as the models of this package.

Three kinds: a full model, a projector alone (`mm_projector.bin`) and LoRA beside `non_lora_trainables.bin`; the
last two on the language model of a `base` folder.  What is computed follows the released code of Dense Connector,
LLaVA-NeXT (AnyRes) and Mini-Gemini.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dclocal.anyres import parse_pinpoints
from dclocal_models.checkpoint import CheckpointError
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.llava_config import (
    CONFIG_FILE,
    LlavaSettings,
    connector_config,
    fit_of,
    llm_config,
    prompt_of,
    read_settings,
)
from dclocal_models.llava_llm import add_lora, load_llm, load_tokenizer
from dclocal_models.llava_tower import NORMALISATION, AuxTower, Tower, find_aux_tower, find_tower, openclip_name
from dclocal_models.llava_weights import (
    Stored,
    brief,
    connector_name,
    full_name,
    has_weights,
    load_part,
    open_file,
    open_weights,
    read_json,
    read_tensor,
    split_parts,
)
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig

PROJECTOR_FILE, ADAPTER_CONFIG, TRAINABLES_FILE = "mm_projector.bin", "adapter_config.json", "non_lora_trainables.bin"
NEWLINE_NAME, QUERY_NAME = "model.image_newline", "model.vlm_uni_query_projector.0.weight"


@dataclass(frozen=True)
class Opened:
    """A folder's kind ("full", "projector", "lora"), its config or None, and its tensors by part."""

    kind: str
    config: dict[str, Any] | None
    parts: dict[str, dict[str, Stored]]
    llm_folder: Path


def is_llava_checkpoint(folder: Path) -> bool:
    """Whether `folder` is laid out as LLaVA's, by what it holds."""
    if (folder / PROJECTOR_FILE).is_file() or is_lora(folder):
        return True
    file = folder / CONFIG_FILE
    return file.is_file() and "mm_vision_tower" in read_json(file)


def open_llava_checkpoint(
    folder: Path,
    *,
    base: Path | None = None,
    vision_tower: Path | None = None,
    vision_tower_aux: Path | None = None,
    connector: ConnectorConfig | None = None,
    prompt: str | None = None,
    fit: str | None = None,
    dtype: torch.dtype = torch.float32,
    llm_weights: bool = True,
) -> tuple[DenseConnectorModel, Any]:
    """The model (LoRA applied but not merged) and its tokenizer.

    `base`: the language model's folder, for a projector or LoRA.  `vision_tower`: a CLIP or SigLIP folder in
    transformers' layout, and `vision_tower_aux` Mini-Gemini's OpenCLIP folder, where the checkpoint holds no
    weights of them.  `connector`: for a projector without `config.json`, or in place of what that says.  `prompt`: a
    name in `dclocal.formats.FORMATS`, `fit`: "pad" or "stretch"; both else follow from the checkpoint.  `dtype` is
    the language model's; vision and connector are float32.  Without `llm_weights` the language model stays on
    the meta device.  Raises CheckpointError, BundleError for pinpoints.
    """
    folder = Path(folder)
    opened = _open(folder, base, connector)
    parts = opened.parts
    settings = read_settings(opened.config or {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"})
    language = llm_config(_llm_source(opened))
    tower = find_tower(parts["tower"], vision_tower, settings.tower)
    aux = find_aux_tower(parts["aux"], vision_tower_aux, settings.aux_tower) if settings.aux_tower else None
    if connector is None:
        connector = connector_config(settings, tower.backbone, tower.settings["num_hidden_layers"], tower.configured)
    tokenizer = load_tokenizer([folder, opened.llm_folder], language)
    chosen = prompt_of(language.model_type, tokenizer, prompt)
    config = _model_config(settings, tower, aux, connector, fit or fit_of(settings.aspect, tower.backbone), chosen)
    provenance = {
        "source": folder.resolve().name,
        "layout": "llava",
        "kind": opened.kind,
        "connector": config.connector.kind,
        "vision_tower": settings.tower or (vision_tower.name if vision_tower else None),
        "prompt": f"{chosen}, {'asked for' if prompt else 'by the language model and its tokenizer'}",
    }
    config = replace(config, provenance=provenance)
    _require_tower_wide_query(parts["connector"], tower)
    llm = load_llm(language, parts["llm"] if llm_weights else None, "the language model", dtype)
    if llm_weights and opened.kind == "lora":
        llm = add_lora(llm, folder)
    return _assemble(config, llm, parts, tower, aux), tokenizer


def _open(folder: Path, base: Path | None, connector: ConnectorConfig | None) -> Opened:
    """Find out the kind and collect all tensors, unread."""
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else None
    lora = is_lora(folder)
    if not lora and has_weights(folder):
        if config is None:
            raise CheckpointError(f"{folder} has weights but no {CONFIG_FILE}", "copy the whole folder")
        return Opened("full", config, split_parts(open_weights(folder)), folder)
    file = folder / (TRAINABLES_FILE if lora else PROJECTOR_FILE)
    if not file.is_file():
        raise CheckpointError(f"{folder} holds neither a model's weights nor {PROJECTOR_FILE}", "copy the whole folder")
    if config is None and connector is None:
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}", "say connector=ConnectorConfig.reference('dci') or another"
        )
    kind = "lora" if lora else "projector"
    llm_folder = base or (named_base(folder) if lora else None)
    if llm_folder is None:
        raise CheckpointError(
            f"{folder} holds a {kind} without its language model", "name that model's folder with base"
        )
    parts = split_parts({full_name(name): stored for name, stored in open_file(file).items()})
    parts["llm"] = {**split_parts(open_weights(llm_folder))["llm"], **parts["llm"]}
    return Opened(kind, config, parts, llm_folder)


def is_lora(folder: Path) -> bool:
    """Whether `folder` holds LoRA as LLaVA's training leaves it."""
    return (folder / ADAPTER_CONFIG).is_file() and (folder / TRAINABLES_FILE).is_file()


def named_base(folder: Path) -> Path | None:
    """The base that LoRA's config names, where that is a folder here."""
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    return Path(name) if isinstance(name, str) and name and Path(name).is_dir() else None


def _llm_source(opened: Opened) -> dict[str, Any]:
    """The config that describes the language model: the checkpoint's own, else its base's."""
    return opened.config if opened.config is not None else read_json(opened.llm_folder / CONFIG_FILE)


def _model_config(
    settings: LlavaSettings, tower: Tower, aux: AuxTower | None, connector: ConnectorConfig, fit: str, prompt: str
) -> ModelConfig:
    mean, std = NORMALISATION[tower.backbone]
    vision = VisionConfig(tower.backbone, tower.image_size, mean, std, tower.settings)
    if aux is not None:
        if tower.backbone != "clip" or settings.aux_size is None:
            raise CheckpointError(f"Mini-Gemini's first tower is {tower.backbone}", "only CLIP is known there")
        vision = replace(
            vision,
            backbone="clip+convnext",
            image_size=settings.aux_size,
            low_size=tower.image_size,
            conv=aux.settings,
        )
        connector = replace(connector, fusion="mining")
    pinpoints = parse_pinpoints(settings.pinpoints, vision.image_size) if fit == "anyres" else ()
    try:
        return ModelConfig(vision, connector, prompt, fit, pinpoints)
    except ValueError as error:
        raise CheckpointError(f"the configuration makes no model ({brief(error)})", "see the arguments") from error


def _require_tower_wide_query(tensors: dict[str, Stored], tower: Tower) -> None:
    """Mining is for the final feature, as wide as the tower (the released config's `mm_hidden_size_uni`, 1024)."""
    query = tensors.get(QUERY_NAME)
    width = tower.settings["hidden_size"]
    if query is not None and query.shape != (width,):
        raise CheckpointError(
            f"{QUERY_NAME} is {list(query.shape)}, so patch info is mined for another feature than the final one",
            f"only a width of {width} can be expressed",
        )


def _assemble(
    config: ModelConfig, llm: Any, parts: dict[str, dict[str, Stored]], tower: Tower, aux: AuxTower | None
) -> DenseConnectorModel:
    """The model, built without memory of its own and then filled part by part."""
    from accelerate import init_empty_weights

    try:
        with init_empty_weights(include_buffers=False):
            model = DenseConnectorModel(config, llm)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(
            f"the configuration makes no model ({brief(error)})", "are its parts of one model?"
        ) from error
    vit = model.vision.vit if aux is not None else model.vision
    load_part(vit.tower, tower.tensors, "the vision tower", name_of=lambda name: tower.prefix + name)
    if aux is not None:
        width = aux.settings["hidden_sizes"][-1]
        load_part(
            model.vision.conv,
            aux.tensors,
            "the second vision tower",
            name_of=lambda name: aux.prefix + openclip_name(name),
            without={"layernorm.weight": torch.ones(width), "layernorm.bias": torch.zeros(width)},  # for pooling alone
        )
    load_part(
        model.connector,
        parts["connector"],
        f"the projector ({config.connector.kind} on {config.vision.backbone})",
        name_of=connector_name,
        finite=True,
    )
    if model.image_newline is not None:
        newline = parts["newline"].get(NEWLINE_NAME)
        if newline is None or newline.shape != tuple(model.image_newline.shape):
            found = "missing" if newline is None else str(list(newline.shape))
            raise CheckpointError(
                f"{NEWLINE_NAME} is {found}, expected {list(model.image_newline.shape)}",
                "AnyRes needs it: copy it again",
            )
        value = read_tensor(newline, NEWLINE_NAME, torch.float32, finite=True)
        model.image_newline = torch.nn.Parameter(value)
    return model.eval()
