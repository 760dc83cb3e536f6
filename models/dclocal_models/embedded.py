"""The embedded default's pretrained parts as PyTorch modules: where `dc-tiny` starts from.

The vision transformer comes out of an ONNX file (saliency weights over a DINOv2 ViT-S/14), the
convolutional branch out of a `.pth`, the language model out of a GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dclocal.vit_onnx import read_vit_weights
from dclocal_models.class_words import name_tokens
from dclocal_models.connectors import ConnectorConfig
from dclocal_models.efficientnet_lite import import_classifier, import_weights
from dclocal_models.vision import VisionConfig
from dclocal_models.vlm import DenseConnectorModel, ModelConfig

UNTRAINED, SHIPPED = "dc-tiny", "shipped-dc-tiny"
"""What a recipe calls the two states of the embedded default that it may start from."""
CLASSES_GAIN = 0.1
"""How loudly classes are said at first, beside things: they are of photographs, and most pictures are drawn."""
CLASS_NAMES = Path(__file__).with_name("class_names.txt")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DC_TINY = ModelConfig(
    vision=VisionConfig(
        backbone="dinov2+efficientnet_lite2",
        image_size=336,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        tower={
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "patch_size": 14,
            "layer_norm_eps": 1e-6,
        },
    ),
    connector=ConnectorConfig(
        kind="dci",
        final_layer=-1,
        first_layer=1,
        groups=2,
        reduce="mean",
        token_grid=(12, 12),
        classes=1000,
        things=1087,
        photographs=True,
        counts=True,
        agreed=True,
        texts=10238,
    ),
    prompt="chatml",
)


def vit_state_dict(onnx_file: Path, grid: tuple[int, int]) -> dict[str, Tensor]:
    """transformers' `Dinov2Model` weights, position embeddings resampled to `grid` as that class does it."""
    weights = {name: torch.from_numpy(array.copy()) for name, array in read_vit_weights(onnx_file).items()}
    positions = weights["embeddings.position_embeddings"]
    weights["embeddings.position_embeddings"] = resample_positions(positions, grid)
    weights["embeddings.mask_token"] = torch.zeros(1, positions.shape[-1])
    return weights


def resample_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings `[1, 1 + side², width]` to `[1, 1 + rows·columns, width]`, bicubic, class token kept."""
    class_token, patches = positions[:, :1], positions[:, 1:]
    side = int(np.sqrt(patches.shape[1]))
    as_map = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resampled = functional.interpolate(as_map, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([class_token, resampled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def load_language_model(gguf_file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The language model and tokenizer from a GGUF, its quantized weights expanded to `dtype`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    where = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    llm = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of a choice that does not concern tokenizers out of a GGUF
    try:
        return llm, AutoTokenizer.from_pretrained(**where)
    finally:
        logging.set_verbosity(verbosity)


def pretrained_dc_tiny(
    vit_onnx: Path, conv_pth: Path, llm_gguf: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[DenseConnectorModel, Any]:
    """`dc-tiny` before training: pretrained towers and language model, a fresh connector."""
    llm, tokenizer = load_language_model(llm_gguf, dtype)
    model = DenseConnectorModel(DC_TINY, llm)
    vit = model.vision.vit
    vit.tower.load_state_dict(vit_state_dict(vit_onnx, vit.grid))
    model.vision.conv.load_state_dict(import_weights(conv_pth))
    _load_class_words(model, conv_pth, tokenizer)
    return model, tokenizer


def class_names() -> list[str]:
    """What to call ImageNet's 1,000 classes in everyday words, in their order."""
    return CLASS_NAMES.read_text(encoding="utf-8").splitlines()


def _load_class_words(model: DenseConnectorModel, conv_pth: Path, tokenizer: Any) -> None:
    weight, bias = import_classifier(conv_pth)
    embeddings = model.base_llm.get_input_embeddings().weight
    words = model.connector.class_words
    assert words is not None
    words.fill(weight, bias, (CLASSES_GAIN, CLASSES_GAIN))
    words.call(name_tokens(class_names(), lambda text: tokenizer(text, add_special_tokens=False).input_ids), embeddings)


def shipped_dc_tiny(
    parts: Path, vit_onnx: Path, llm_gguf: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[DenseConnectorModel, Any]:
    """`dc-tiny` as it ships, in PyTorch: the parts' weights over the pretrained ones; LoRA apart, to be trained on."""
    from safetensors.torch import load_file

    from dclocal.assemble import LORA_PREFIX, WEIGHTS_FILE, read_parts, word_embeddings
    from dclocal.gguf_merge import open_gguf

    llm, tokenizer = load_language_model(llm_gguf, dtype)
    scale = read_parts(parts)["lora_scale"]
    weights = {name: tensor.float() for name, tensor in load_file(parts / WEIGHTS_FILE).items()}
    shipped = {name: tensor for name, tensor in weights.items() if not name.startswith(LORA_PREFIX)}
    lora = {name.removeprefix(LORA_PREFIX): tensor for name, tensor in weights.items() if name not in shipped}
    model = DenseConnectorModel(DC_TINY, llm)
    model.vision.vit.tower.load_state_dict(vit_state_dict(vit_onnx, model.vision.grid))
    words = {name: tensor.int().numpy() for name, tensor in shipped.items()}
    spoken = word_embeddings(words, open_gguf(llm_gguf))
    model.load_state_dict(shipped | {name: torch.from_numpy(table) for name, table in spoken.items()}, strict=False)
    model.llm = _with_lora(llm, lora, scale)
    return model.eval(), tokenizer


def trained_dc_tiny(
    parts: Path, vit_onnx: Path, llm_gguf: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[DenseConnectorModel, Any]:
    """`shipped_dc_tiny` with LoRA merged: what the assembled bundle is compared with."""
    model, tokenizer = shipped_dc_tiny(parts, vit_onnx, llm_gguf, dtype=dtype)
    model.llm = model.llm.merge_and_unload()
    return model, tokenizer


def _with_lora(llm: Any, matrices: Mapping[str, Tensor], scale: float) -> Any:
    """The language model with peft's LoRA of these matrices, "layers.N.MODULE.A" `[rank, inputs]` and "….B"."""
    from peft import LoraConfig, get_peft_model

    owners = sorted({name[:-2] for name in matrices})
    rank = len(matrices[f"{owners[0]}.A"])
    modules = sorted({owner.rpartition(".")[2] for owner in owners})
    config = LoraConfig(r=rank, lora_alpha=round(scale * rank), target_modules=modules, task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(llm, config)
    for owner in owners:
        layer: Any = adapted.get_base_model().model.get_submodule(owner)
        layer.lora_A["default"].weight.data.copy_(matrices[f"{owner}.A"])
        layer.lora_B["default"].weight.data.copy_(matrices[f"{owner}.B"])
    return adapted
