"""The language model of a LLaVA-layout checkpoint: its tensors read straight into a model without memory, and LoRA."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dclocal_models.checkpoint import CheckpointError, require_fit
from dclocal_models.llava_weights import COPY_AGAIN, Stored, brief, open_either, read_json, read_tensor

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def load_llm(config: Any, tensors: Mapping[str, Stored] | None, where: str, dtype: torch.dtype) -> Any:
    """The causal language model of `config` with `tensors` in it, in memory once, or without them on the meta
    device; raises CheckpointError."""
    if tensors is not None:
        _require_layers(config, tensors, where)
    llm = empty_llm(config, where, dtype)
    if tensors is None:
        return llm.eval()
    wanted = llm.state_dict()
    tied = set(llm._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    wanted = {name: value for name, value in wanted.items() if name not in tied}
    given = {name: stored for name, stored in tensors.items() if name not in tied}
    require_fit(wanted, given, where)
    llm.load_state_dict({name: read_tensor(given[name], name, dtype) for name in wanted}, strict=False, assign=True)
    llm.tie_weights()
    return llm.eval()


def empty_llm(config: Any, where: str, dtype: torch.dtype = torch.float32) -> Any:
    """The causal language model of `config` on the meta device; raises CheckpointError where it describes none."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        with init_empty_weights(include_buffers=False):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except Exception as error:  # whatever a class makes of sizes that do not go together
        raise CheckpointError(f"{where}: config.json describes no model ({brief(error)})", COPY_AGAIN) from error


def add_lora(llm: Any, folder: Path) -> Any:
    """`llm` under the LoRA of a folder as peft writes it, not merged; raises CheckpointError."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    settings = read_json(folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA" or settings.get("modules_to_save"):
        problem = (
            f"peft_type: {settings.get('peft_type')!r:.40}, modules_to_save: {settings.get('modules_to_save')!r:.60}"
        )
        raise CheckpointError(f"adapter_config.json says {problem}", "only LoRA with no other modules can be opened")
    stored = open_either(folder, "adapter_model")
    largest = max((size for tensor in stored.values() for size in tensor.shape), default=0)
    try:
        config = LoraConfig.from_pretrained(str(folder))
        if max(config.r, *(config.rank_pattern or {"": 0}).values()) > largest:
            raise ValueError(f"its rank is {config.r}, no side of adapter_model's tensors is longer than {largest}")
        config.base_model_name_or_path = None
        model = get_peft_model(llm, config, low_cpu_mem_usage=True)
    except Exception as error:  # whatever peft makes of layers that do not exist
        raise CheckpointError(
            f"adapter_config.json does not fit the model ({brief(error)})", "is base another?"
        ) from error
    require_fit(get_peft_model_state_dict(model, save_embedding_layers=False), stored, "adapter_model")
    tensors = {name: read_tensor(tensor, name, torch.float32, finite=True) for name, tensor in stored.items()}
    set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
    return model.eval()


def find_tokenizer(folders: Sequence[Path]) -> Path:
    """The first of these folders that holds a tokenizer; raises CheckpointError where none does."""
    for folder in folders:
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            return folder
    looked = " and ".join(map(str, folders))
    raise CheckpointError(f"no tokenizer in {looked}", f"copy {' or '.join(TOKENIZER_FILES)} and what belongs to it")


def load_tokenizer(folders: list[Path], config: Any) -> Any:
    """The tokenizer of the first folder that holds one; `config` is the language model's.  Raises CheckpointError."""
    from transformers import AutoTokenizer

    folder = find_tokenizer(folders)
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:
        remedy = COPY_AGAIN
        if not (folder / "tokenizer.json").is_file():
            remedy = "a tokenizer.model needs: pip install sentencepiece protobuf"
        raise CheckpointError(f"the tokenizer in {folder} cannot be opened ({brief(error)})", remedy) from error


def _require_layers(config: Any, tensors: Mapping[str, Stored], where: str) -> None:
    """Refuse a config of other layers or another width than the tensors' before a model of that size is built."""
    layers = {int(found[1]) for found in (re.match(r"model\.layers\.(\d{1,4})\.", name) for name in tensors) if found}
    claimed = (config.num_hidden_layers, config.vocab_size, config.hidden_size)
    embedded = tensors.get("model.embed_tokens.weight")
    if embedded is None:
        raise CheckpointError(f"{where} lacks model.embed_tokens.weight", "the language model's weights: name base")
    found_sizes = (len(layers), *embedded.shape)
    if claimed != found_sizes:
        names = "layers, tokens and width"
        raise CheckpointError(
            f"config.json claims {names} {claimed}, {where} has {found_sizes}", "are they of one model?"
        )
