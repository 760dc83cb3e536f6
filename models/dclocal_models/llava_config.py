"""`config.json` of the LLaVA layout as typed settings; every value that changes answers is read or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from dclocal.formats import FORMATS
from dclocal_models.checkpoint import CheckpointError
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.layers import layer_groups
from dclocal_models.llava_weights import brief

CONFIG_FILE = "config.json"
LLM_TYPES = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_mixtral": "mixtral",
    "llava_phi": "phi",
    "llava_qwen": "qwen2",
    "llava_qwen2": "qwen2",
    "llava_gemma": "gemma",
    "mgm": "llama",
    "mgm_mistral": "mistral",
    "mgm_mixtral": "mixtral",
    "mgm_gemma": "gemma",
    "mini_gemini": "llama",
    "mini_gemini_mistral": "mistral",
    "mini_gemini_mixtral": "mixtral",
    "mini_gemini_gemma": "gemma",
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "phi": "phi",
    "qwen2": "qwen2",
    "gemma": "gemma",
}
"""`model_type` of a checkpoint, or of a plain language model, to transformers' own."""
CONNECTORS = {"sti": "sti", "sci": "sci", "dci": "dci", "none": "baseline", "": "baseline", None: "baseline"}
PROMPT_RULES: tuple[tuple[str, str | None, str], ...] = (
    ("llama", "<|start_header_id|>", "llama3_released"),  # Llama 3's vocabulary
    ("llama", "<|im_start|>", "chatml_direct"),  # Hermes-2-Yi-34B
    ("llama", None, "vicuna_v1"),
    ("phi", None, "phi"),
    ("qwen2", None, "qwen2"),
)
"""Language model, a token its tokenizer must know or None, and the prompt format; the first that fits."""
REFUSED = {
    "quantization_config": "quantized weights cannot be opened: give those in 16 bits",
    "mm_use_im_start_end": "marks around pictures are not supported",
    "mm_resampler_type": "a resampler is not supported",
    "mm_vision_resampler": "a resampler is not supported",
    "mm_newline_position": "video newlines are not supported",
    "s2": "multi-scale features (S2) are not supported",
    "image_global": "Mini-Gemini's HD grid is not supported",
}
"""Keys that change what a model answers, in ways that cannot be expressed here, unless they are unset."""
SHARED_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Keys of every language model; the others are the parameters of its own config class."""


@dataclass(frozen=True)
class LlavaSettings:
    """What the layout's own keys say.  `aspect` is `image_aspect_ratio`, None where pictures are left to the tower's
    processor; `select_layer` indexes hidden states; `aux_size` is Mini-Gemini's side in pixels, None elsewhere."""

    connector: str
    select_layer: int | None
    aspect: str | None
    merge: str
    pinpoints: Any
    tower: str | None
    aux_tower: str | None
    aux_size: int | None


def read_settings(config: Mapping[str, Any]) -> LlavaSettings:
    """The settings of a `config.json`; raises CheckpointError for a value that is not known."""
    for key, reason in REFUSED.items():
        if config.get(key) not in (None, False, "", 0, "None"):
            raise CheckpointError(f"{CONFIG_FILE} says {key}: {config[key]!r:.60}", reason)
    _one_of(config, "mm_projector_type", ("mlp2x_gelu",))
    _one_of(config, "mm_vision_select_feature", ("patch", None))
    _one_of(config, "image_grid", (1, None))
    kind = _one_of(config, "mm_dense_connector_type", tuple(CONNECTORS))
    aspect = _one_of(config, "image_aspect_ratio", ("pad", "anyres", "square", None))
    merge = _one_of(config, "mm_patch_merge_type", ("flat", "spatial_unpad", None)) or "flat"
    if aspect == "anyres" and merge == "flat":
        raise CheckpointError(
            f"{CONFIG_FILE} says image_aspect_ratio: anyres with mm_patch_merge_type: flat",
            "tiles without unpadding and newlines cannot be expressed; only spatial_unpad can",
        )
    if aspect == "anyres" and kind == "sti":
        raise CheckpointError(
            f"{CONFIG_FILE} says anyres with sti", "its pooled tokens have no place in the tiles' map"
        )
    aux_tower = _text(config, "mm_vision_tower_aux")
    if aux_tower and kind is None:
        kind = "dci"  # the one that was released on Mini-Gemini, whose config does not name it
    return LlavaSettings(
        connector=CONNECTORS[kind],
        select_layer=_whole(config, "mm_vision_select_layer"),
        aspect=None if aspect == "square" else aspect,
        merge=merge,
        pinpoints=config.get("image_grid_pinpoints"),
        tower=_text(config, "mm_vision_tower"),
        aux_tower=aux_tower,
        aux_size=_whole(config, "image_size_aux", default=768) if aux_tower else None,
    )


def llm_config(config: Mapping[str, Any]) -> Any:
    """transformers' config of the language model, from its keys among the others; raises CheckpointError."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in LLM_TYPES:
        raise CheckpointError(f"{CONFIG_FILE} says model_type: {kind!r:.60}", f"known: {', '.join(sorted(LLM_TYPES))}")
    config_class = CONFIG_MAPPING[LLM_TYPES[kind]]
    known = {*signature(config_class.__init__).parameters, *SHARED_KEYS} - {"self", "kwargs"}
    try:
        return config_class(**{key: value for key, value in config.items() if key in known})
    except Exception as error:  # whatever a class makes of values it does not expect
        raise CheckpointError(
            f"{CONFIG_FILE} is no config of {LLM_TYPES[kind]} ({brief(error)})", "copy it again"
        ) from error


def connector_config(settings: LlavaSettings, backbone: str, stored: int, configured: int) -> ConnectorConfig:
    """The connector as the released code runs it, on a tower of which `stored` of `configured` layers exist.

    SigLIP: the last layer is never run, whatever `mm_vision_select_layer` says, so the final feature is
    `hidden_states[configured - 1]`.  Raises CheckpointError.
    """
    if backbone == "siglip":
        if stored not in (configured, configured - 1):
            raise CheckpointError(
                f"the vision tower has {stored} layers; expected {configured}, or {configured - 1} without the last",
                "copy it again, or name the right one with vision_tower",
            )
        final = -1 if stored < configured else -2
    else:
        if stored != configured:
            raise CheckpointError(f"the vision tower has {stored} layers, its config {configured}", "copy it again")
        if settings.select_layer is None:
            raise CheckpointError(f"{CONFIG_FILE} has no mm_vision_select_layer", "it is -2 in the released models")
        final = settings.select_layer
    index = final if final >= 0 else stored + 1 + final
    result = replace(ConnectorConfig.reference(settings.connector), final_layer=final)
    if not 0 <= index <= stored or any(layer > stored for layer in result.layers):
        raise CheckpointError(
            f"layer {final} or layers {list(result.layers)} are not among {stored + 1} hidden states",
            "name the vision tower that the model was trained with",
        )
    if settings.connector == "dci" and layer_groups(0, index, 2) != layer_groups(0, configured - 1, 2):
        raise CheckpointError(
            f"{CONFIG_FILE} says mm_vision_select_layer: {final} with dci, whose groups end at the last layer but one",
            "only -2 and -1 can be expressed",
        )
    return result


def fit_of(aspect: str | None, backbone: str) -> str:
    """How pictures are squared; raises CheckpointError where CLIP's centre crop is meant."""
    if aspect is not None:
        return aspect
    if backbone == "siglip":
        return "stretch"  # its processor resizes both sides to the square
    raise CheckpointError(
        f"{CONFIG_FILE} has no image_aspect_ratio, so CLIP's processor would cut out the centre of pictures",
        "that cannot be expressed: say fit='pad' to square them as the released models do",
    )


def prompt_of(llm_type: str, tokenizer: Any, asked: str | None) -> str:
    """The prompt format's name, asked for or by `PROMPT_RULES`; raises CheckpointError."""
    vocabulary = tokenizer.get_vocab()
    named = [name for llm, token, name in PROMPT_RULES if llm == llm_type and (token is None or token in vocabulary)]
    name = asked if asked is not None else named[0] if named else None
    if name not in FORMATS:
        problem = f"no prompt format is known for {llm_type}" if name is None else f"unknown prompt format {name!r}"
        raise CheckpointError(problem, f"say prompt=…, one of {', '.join(FORMATS)}")
    lacking = [token for token in FORMATS[name].specials if token not in vocabulary]
    if lacking:
        raise CheckpointError(
            f"the tokenizer lacks {lacking}, which prompt format {name} needs", "say another prompt=…"
        )
    return name


def _one_of(config: Mapping[str, Any], key: str, known: tuple[Any, ...]) -> Any:
    value = config.get(key)
    if isinstance(value, (bool, dict, list, float)) or value not in known:
        raise CheckpointError(
            f"{CONFIG_FILE} says {key}: {value!r:.60}",
            f"known: {', '.join('unset' if k is None else repr(k) for k in known)}",
        )
    return value


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int | None:
    value = config.get(key)
    if value is not None and type(value) is not int:
        raise CheckpointError(f"{CONFIG_FILE} says {key}: {value!r:.60}", "expected a whole number")
    return default if value is None else value


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{CONFIG_FILE} says {key}: {value!r:.60}", "expected a name")
    return value or None
