"""Tiny checkpoints in LLaVA's layout, written file by file, and what the released code computes of them.

Nothing of ours is imported: towers and language models are transformers' own, connectors are `tests/paper.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional

from tests import paper

Tensors = dict[str, torch.Tensor]
WIDTH, N_EMBD, GRID, SIZE = 8, 16, (4, 4), 56
TOWER = {"hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 14, "image_size": SIZE}
DEPTHS = {"clip": 24, "siglip": 27}
INSIDE = "model.vision_tower.vision_tower."
LLM_SIZES = {
    "vocab_size": 40,
    "hidden_size": N_EMBD,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIALS = {
    "vicuna": ("<s>", "</s>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "yi": ("<|im_start|>", "<|im_end|>"),
    "qwen2": ("<|im_start|>", "<|im_end|>"),
    "phi": ("<|endoftext|>",),
}


def stir(module: torch.nn.Module, seed: int) -> Any:
    """Every parameter drawn anew, widely enough that a wrong layer is seen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module.eval()


def make_tower(kind: str, seed: int = 1, **changes: Any) -> Any:
    """CLIP with 24 layers or SigLIP with 27 and its head, tiny in all else."""
    config_class, model_class = {
        "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
        "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
    }[kind]
    return stir(model_class(config_class(**TOWER, num_hidden_layers=DEPTHS[kind], **changes)), seed)


def make_llm(kind: str = "llama", seed: int = 2, **changes: Any) -> Any:
    config = transformers.CONFIG_MAPPING[kind](**{**LLM_SIZES, **changes})
    llm = stir(transformers.AutoModelForCausalLM.from_config(config), seed)
    llm.tie_weights()
    return llm


def make_projector(width: int, seed: int = 3) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"0.weight": (N_EMBD, width), "0.bias": (N_EMBD,), "2.weight": (N_EMBD, N_EMBD), "2.bias": (N_EMBD,)}
    return {f"model.mm_projector.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_tokenizer(folder: Path, kind: str = "vicuna") -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<unk>", *SPECIALS[kind], "a", "red", "circle", "what"]
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS[kind])})
    tokenizer.save_pretrained(folder)


def write_config(folder: Path, llm: Any, model_type: str = "llava_llama", **keys: Any) -> None:
    """The language model's keys with the layout's own among them; a key that is None is left out."""
    own = {
        "model_type": model_type,
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": "lab/unheard-of-tower",
        "mm_dense_connector_type": "dci",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat",
        "image_aspect_ratio": "pad",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
    }
    data = {**llm.config.to_dict(), **own, **keys}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: value for key, value in data.items() if value is not None})
    (folder / "config.json").write_text(text, encoding="utf-8")


def tower_tensors(tower: Any, layers: int | None = None) -> Tensors:
    """A tower as checkpoints hold it; with `layers`, cut to as many and without head, as the released code does."""
    tensors = {f"{INSIDE}{name}": tensor for name, tensor in tower.state_dict().items()}
    if layers is None:
        return tensors
    gone = [f"encoder.layers.{layer}." for layer in range(layers, 27)] + ["vision_model.head."]
    return {name: tensor for name, tensor in tensors.items() if not any(part in name for part in gone)}


def llm_tensors(llm: Any) -> Tensors:
    tied = llm.config.tie_word_embeddings
    return {name: value for name, value in llm.state_dict().items() if not (tied and name == "lm_head.weight")}


def write_weights(folder: Path, tensors: Tensors, form: str = "model.safetensors") -> None:
    """`form`: model.safetensors or pytorch_model.bin, with " sharded" after it for three files and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    name, sharded = form.removesuffix(" sharded"), form.endswith(" sharded")
    whole = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}

    def write(part: Tensors, file: Path) -> None:
        save_file(part, file, metadata={"format": "pt"}) if file.suffix == ".safetensors" else torch.save(part, file)

    if not sharded:
        return write(whole, folder / name)
    stem, suffix = name.rsplit(".", 1)
    index = {}
    for shard in range(3):
        file = f"{stem}-{shard + 1:05}-of-00003.{suffix}"
        part = {key: whole[key] for key in sorted(whole)[shard::3]}
        write(part, folder / file)
        index.update(dict.fromkeys(part, file))
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / f"{name}.index.json").write_text(text, encoding="utf-8")
    return None


def dense(
    kind: str, backbone: str, tower: Any, pixels: torch.Tensor, aux: np.ndarray | None = None
) -> list[np.ndarray]:
    """Each picture's integrated features, at the layers that the released code names."""
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states
    prefix, final, half = {"clip": (1, 23, 12), "siglip": (0, 26, 13)}[backbone]
    out = []
    for picture in range(len(pixels)):
        arrays = [state[picture, prefix:].double().numpy() for state in states]
        out.append(
            {
                "baseline": lambda a: a[final],
                "sti": lambda a: paper.sti(a, final, [7, 15]),
                "sci": lambda a: paper.sci(a, final, [7, 15]),
                "dci": lambda a: paper.dci(a, final, [range(half), range(half, 2 * half)], "mean"),
            }[kind](arrays)
        )
    return out


def project(features: list[np.ndarray], projector: Tensors) -> torch.Tensor:
    weights = {name.replace("model.mm_projector", "projector"): value.numpy() for name, value in projector.items()}
    return torch.from_numpy(np.stack([paper.project(array, weights) for array in features])).float()


def logits(llm: Any, before: list[int], embeds: torch.Tensor, after: list[int]) -> torch.Tensor:
    """Next-token logits with one picture's tokens between two texts."""
    table = llm.get_input_embeddings()
    with torch.no_grad():
        whole = torch.cat([table(torch.tensor(before)), embeds, table(torch.tensor(after))])
        found: torch.Tensor = llm(inputs_embeds=whole[None]).logits
    return found


def convnext(tensors: Tensors, pixels: torch.Tensor, prefix: str) -> np.ndarray:
    """OpenCLIP's ConvNeXt from its tensors, by the architecture's paper (arXiv 2201.03545): all stages, each at the
    first one's resolution, on the channel axis."""

    def at(name: str) -> torch.Tensor:
        return tensors[prefix + name]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        last = x.permute(0, 2, 3, 1)
        normed = functional.layer_norm(last, last.shape[-1:], at(f"{name}.weight"), at(f"{name}.bias"), 1e-6)
        return normed.permute(0, 3, 1, 2)

    x = functional.conv2d(pixels, at("stem.0.weight"), at("stem.0.bias"), stride=at("stem.0.weight").shape[-1])
    x = norm(x, "stem.1")
    maps: list[torch.Tensor] = []
    for stage in range(4):
        if stage:
            x = norm(x, f"stages.{stage}.downsample.0")
            name = f"stages.{stage}.downsample.1"
            x = functional.conv2d(x, at(f"{name}.weight"), at(f"{name}.bias"), stride=2)
        block = 0
        while f"{prefix}stages.{stage}.blocks.{block}.gamma" in tensors:
            name = f"stages.{stage}.blocks.{block}"
            y = functional.conv2d(
                x, at(f"{name}.conv_dw.weight"), at(f"{name}.conv_dw.bias"), padding=3, groups=x.shape[1]
            )
            y = norm(y, f"{name}.norm").permute(0, 2, 3, 1)
            y = functional.gelu(functional.linear(y, at(f"{name}.mlp.fc1.weight"), at(f"{name}.mlp.fc1.bias")))
            y = functional.linear(y, at(f"{name}.mlp.fc2.weight"), at(f"{name}.mlp.fc2.bias")) * at(f"{name}.gamma")
            x = x + y.permute(0, 3, 1, 2)
            block += 1
        maps.append(x)
    size = maps[0].shape[-2:]
    grown = [functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in maps]
    return torch.cat(grown, dim=1).double().numpy()


def make_convnext(
    prefix: str, sizes: tuple[int, ...] = (4, 4, 6, 6), depths: tuple[int, ...] = (1, 2, 1, 1)
) -> Tensors:
    """Random tensors under OpenCLIP's names."""
    shapes: dict[str, tuple[int, ...]] = {"stem.0.weight": (sizes[0], 3, 4, 4), "stem.0.bias": (sizes[0],)}
    shapes |= {f"stem.1.{part}": (sizes[0],) for part in ("weight", "bias")}
    for stage, (width, depth) in enumerate(zip(sizes, depths)):
        if stage:
            shapes |= {f"stages.{stage}.downsample.0.{part}": (sizes[stage - 1],) for part in ("weight", "bias")}
            shapes |= {
                f"stages.{stage}.downsample.1.weight": (width, sizes[stage - 1], 2, 2),
                f"stages.{stage}.downsample.1.bias": (width,),
            }
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            shapes |= {f"{name}.{part}": (width,) for part in ("gamma", "conv_dw.bias", "norm.weight", "norm.bias")}
            shapes |= {f"{name}.conv_dw.weight": (width, 1, 7, 7), f"{name}.mlp.fc1.weight": (4 * width, width)}
            shapes |= {f"{name}.mlp.fc1.bias": (4 * width,), f"{name}.mlp.fc2.weight": (width, 4 * width)}
            shapes |= {f"{name}.mlp.fc2.bias": (width,)}
    generator = torch.Generator().manual_seed(7)
    return {prefix + name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
