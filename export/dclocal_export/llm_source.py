"""Where a checkpoint's language model lies: its files, its plain config, its tokenizer and its adapter.

For a checkpoint of ours and for the three kinds in LLaVA's layout (full, projector alone, LoRA); nothing is read
but names, shapes and configurations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dclocal_models.checkpoint import ADAPTER_FOLDER, LLM_FOLDER, CheckpointError, require_fit
from dclocal_models.llava_checkpoint import PROJECTOR_FILE, TRAINABLES_FILE, is_llava_checkpoint, is_lora, named_base
from dclocal_models.llava_config import CONFIG_FILE, llm_config
from dclocal_models.llava_llm import TOKENIZER_FILES, empty_llm, find_tokenizer
from dclocal_models.llava_weights import (
    INDEX_SUFFIX,
    WEIGHT_FILES,
    Stored,
    brief,
    full_name,
    has_weights,
    open_file,
    open_weights,
    read_json,
    split_parts,
)

SIDE_FILES = (
    *TOKENIZER_FILES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class LlmSource:
    """`weights` is the folder of the language model's weight files; `changed` holds tensors that stand in their
    place; `plain` says that this folder is a Hugging Face folder as it stands.  `tied` are names that share another
    tensor's memory, so that no file needs them."""

    kind: str
    config: Any
    weights: Path
    tokenizer: Path
    adapter: Path | None
    plain: bool
    changed: Mapping[str, Stored] = field(default_factory=dict)
    architecture: str = ""
    tied: frozenset[str] = frozenset()

    def files(self) -> list[Path]:
        """The weight files, in the order of their names."""
        return weight_files(self.weights)

    def changed_in(self, file: Path) -> dict[str, Stored]:
        """The changed tensors that stand in this file; those that no file has go into the last."""
        if not self.changed:
            return {}
        files = self.files()
        places = {name: each for each in files for name in open_file(each)}
        return {name: stored for name, stored in self.changed.items() if places.get(name, files[-1]) == file}


def find_llm(checkpoint: Path, base: Path | None) -> LlmSource:
    """The language model of a checkpoint, its tensors' names and shapes compared with its config.

    Raises CheckpointError.
    """
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is not a folder", "name a checkpoint's folder")
    source = _find_llava(checkpoint, base) if is_llava_checkpoint(checkpoint) else _find_ours(checkpoint, base)
    stored = {**split_parts(open_weights(source.weights))["llm"], **source.changed}
    where = f"the language model in {source.weights}"
    model = empty_llm(source.config, where)
    tied = frozenset(model._tied_weights_keys or ()) if source.config.tie_word_embeddings else frozenset()
    wanted = {name: value for name, value in model.state_dict().items() if name not in tied}
    found = {name: value for name, value in stored.items() if name not in tied}
    require_fit(wanted, found, where)
    return replace(source, architecture=type(model).__name__, tied=tied)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder; raises CheckpointError where there are none."""
    for name in WEIGHT_FILES:
        if (folder / (name + INDEX_SUFFIX)).is_file():
            index = read_json(folder / (name + INDEX_SUFFIX)).get("weight_map", {})
            return [folder / shard for shard in sorted(set(index.values()))]
        if (folder / name).is_file():
            return [folder / name]
    raise CheckpointError(f"{folder} holds no weights", "copy the whole folder")


def is_stray(file: Path) -> bool:
    """Whether this is a GGUF that transformers saved as tokenizer.model, as it does where the tokenizer was one's."""
    if file.name != "tokenizer.model":
        return False
    with file.open("rb") as head:
        return head.read(4) == b"GGUF"


def _find_ours(checkpoint: Path, base: Path | None) -> LlmSource:
    from transformers import AutoConfig

    if base is not None:
        raise CheckpointError(f"{checkpoint} is a whole checkpoint of ours, which takes no base", "leave it out")
    folder, adapter = checkpoint / LLM_FOLDER, checkpoint / ADAPTER_FOLDER
    if not has_weights(folder):
        raise CheckpointError(f"{checkpoint} is not a whole checkpoint: {LLM_FOLDER} has no weights", "copy it again")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is no config ({brief(error)})", "copy it again") from error
    return LlmSource(
        "ours", config, folder, find_tokenizer([folder]), adapter if adapter.is_dir() else None, plain=True
    )


def _find_llava(checkpoint: Path, base: Path | None) -> LlmSource:
    lora = is_lora(checkpoint)
    own = read_json(checkpoint / CONFIG_FILE) if (checkpoint / CONFIG_FILE).is_file() else None
    if not lora and has_weights(checkpoint):
        config = llm_config(own or {})
        return LlmSource("full", config, checkpoint, find_tokenizer([checkpoint]), None, plain=False)
    kind = "lora" if lora else "projector"
    folder = base or (named_base(checkpoint) if lora else None)
    if folder is None:
        raise CheckpointError(
            f"{checkpoint} holds a {kind} without its language model", "name that model's folder with base"
        )
    extra = open_file(checkpoint / (TRAINABLES_FILE if lora else PROJECTOR_FILE))
    changed = split_parts({full_name(name): stored for name, stored in extra.items()})["llm"]
    tokenizer = find_tokenizer([checkpoint, folder])
    theirs = read_json(folder / CONFIG_FILE)
    config = llm_config(own if own is not None else theirs)
    plain = not changed and tokenizer == folder and theirs.get("model_type") == config.model_type
    return LlmSource(kind, config, folder, tokenizer, checkpoint if lora else None, plain, changed)


def plain_config(source: LlmSource) -> str:
    """`config.json` of a plain Hugging Face folder."""
    config = source.config
    data = {**json.loads(config.to_json_string(use_diff=False)), "model_type": config.model_type}
    data["architectures"] = [source.architecture]
    for key in ("_name_or_path", "transformers_version", "quantization_config"):
        data.pop(key, None)
    return json.dumps(data, indent=2, sort_keys=True) + "\n"
