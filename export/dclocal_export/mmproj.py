"""A model's vision side as a llama.cpp multimodal projector (GGUF), for llama.cpp's own tools and what builds on it.

llama.cpp joins the hidden states that `clip.vision.feature_layer` lists on the channel axis, in ascending order
(state 0 is the input of the first layer), and applies a two-layer MLP.  A dense connector is a linear map of that
concatenation, so it goes into a widened first matrix: each hidden state's block is the share that the final feature
and the groups give it.  The efficient connector's halving of a 24×24 grid is the mean of 2×2 tokens, which the
projector "ldpv2" has; what cannot be said in these terms, `cannot_express` names.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from dclocal.errors import UserError
from dclocal.llama_log import capture_log, is_zero, run_logging
from dclocal.machine import usable_cores
from dclocal.progress import Progress, silent
from dclocal_models.connectors import Connector
from dclocal_models.vlm import DenseConnectorModel

DTYPES: dict[str, Any] = {"f32": np.float32, "f16": np.float16}
PAD_COLOUR = (122, 116, 104)
"""What llama.cpp pads with: CLIP's mean, whatever the model."""
POOLED_SIDE = 24
"""llama.cpp's "ldpv2" assumes this many patches a side."""
PEG_KERNEL = "mm.model.peg.0.weight"
ACTIVATIONS = {"quick_gelu": None, "gelu_pytorch_tanh": "clip.use_gelu", "silu": "clip.use_silu"}
BACKBONES = {
    "clip": None,
    "siglip": None,
    "dinov2": "llama.cpp's graph for feature layers has neither DINOv2's layer scale nor its exact GELU",
    "dinov2+efficientnet_lite2": "llama.cpp has no second, convolutional tower beside a vision transformer",
    "clip+convnext": "llama.cpp has no second, convolutional tower, hence no patch info mining either",
}
CONNECTORS = {
    "baseline": None,
    "sci": None,
    "dci": None,
    "sti": "llama.cpp's projector joins layers on the channel axis alone; STI adds tokens",
    "sti_conv": "llama.cpp's projector joins layers on the channel axis alone; STI adds tokens",
    "sci_conv": "llama.cpp's projector has no convolution on each layer before the concatenation",
    "dci_linear": "llama.cpp's projector has no LayerNorm on each layer, which no matrix can stand for",
}
FITS = {
    "pad": None,
    "stretch": "llama.cpp pads pictures to a square, and this model was trained on stretched ones",
    "anyres": "llama.cpp cuts AnyRes pictures by rules of its own: no tiles for small ones, another padding colour",
}
CLASS_TOKEN_LAST = (
    "llama.cpp, as in llama-cpp-python 0.3.36, puts CLIP's class token behind the patches but reads positions and "
    "patches as if it stood first, so the first patch is lost and every position is off by one: "
    "https://github.com/ggml-org/llama.cpp/issues/25814"
)


@dataclass(frozen=True)
class MmprojReport:
    """What was written.

    `feature_layers` are the hidden states that llama.cpp reads, `projector_width` the columns of the first
    projector matrix, `tokens` the visual tokens of a picture; `differences` are sentences on where llama.cpp
    computes something else than this model does.
    """

    path: Path
    dtype: str
    size_bytes: int
    projector: str
    feature_layers: tuple[int, ...]
    projector_width: int
    tokens: int
    differences: tuple[str, ...]


def cannot_express(model: DenseConnectorModel, *, class_token_first: bool = False) -> str | None:
    """Why llama.cpp cannot run this model's vision side, in one sentence; None where it can.

    `class_token_first`: the llama.cpp meant is one that puts CLIP's class token first (see CLASS_TOKEN_LAST).
    """
    config, connector = model.config, model.connector
    backbone = config.vision.backbone
    reason = BACKBONES[backbone] or CONNECTORS[config.connector.kind] or FITS[config.fit]
    if reason:
        return reason
    if connector.token_grid != connector.grid and not _pools(connector):
        (rows, columns), (fewer_rows, fewer_columns) = connector.grid, connector.token_grid
        return (
            f"llama.cpp has no interpolation of {rows}×{columns} tokens to {fewer_rows}×{fewer_columns}; of all token "
            f"grids it can only halve {POOLED_SIDE}×{POOLED_SIDE}, or keep every token"
        )
    tower = model.vision.tower.config
    if tower.hidden_act not in ACTIVATIONS:
        return f"llama.cpp has no exact {tower.hidden_act} in a tower; known: {', '.join(ACTIVATIONS)}"
    if tower.intermediate_size == tower.hidden_size:
        return "llama.cpp takes a feed-forward layer as wide as its input for one of an old file with swapped names"
    if max(sum(connector.groups, (connector.final,))) == 0:
        return "llama.cpp has no tower without layers, and this model reads its stem alone"
    return CLASS_TOKEN_LAST if backbone == "clip" and not class_token_first else None


def write_mmproj(
    model: DenseConnectorModel,
    out: Path,
    *,
    dtype: str = "f16",
    progress: Progress = silent,
    class_token_first: bool = False,
) -> MmprojReport:
    """Write the projector GGUF `out`; matrices as `dtype`, vectors and positions as float32.

    `class_token_first` as in `cannot_express`.  Raises UserError for what cannot be expressed, ValueError for an
    unknown dtype.
    """
    from gguf import GGUFWriter

    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    reason = cannot_express(model, class_token_first=class_token_first)
    if reason:
        raise UserError(f"no mmproj: {reason}", "export the bundle alone, without --mmproj")
    layers = tuple(layer_blocks(model.connector))
    tensors = _tower_tensors(model, max(layers)) | _projector_tensors(model.connector)
    unfinished = out.with_name(out.name + ".unfinished")
    writer = GGUFWriter(unfinished, "clip")
    _add_settings(writer, model, layers, dtype)
    step = "writing the llama.cpp projector"
    for done, (name, tensor) in enumerate(tensors.items()):
        progress(step, done, len(tensors))
        writer.add_tensor(name, np.ascontiguousarray(tensor.numpy(), _stored_dtype(name, tensor, dtype)))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    progress(step, len(tensors), len(tensors))
    kind, width, tokens = _projector(model.connector), len(layers) * model.connector.width, model.connector.tokens
    return MmprojReport(out, dtype, out.stat().st_size, kind, layers, width, tokens, _differences(model))


def layer_blocks(connector: Connector) -> dict[int, Tensor]:
    """The widened first projector matrix: by hidden state, ascending, the block float32 `[n_embd, width]`.

    Applied to the concatenation of those states it gives what the projector's own matrix gives of the
    integrated features.
    """
    weight = connector.projector.state_dict()["0.weight"].double().cpu()
    final, *grouped = weight.split(connector.width, dim=1)
    blocks = {connector.final: final}
    for group, part in zip(connector.groups, grouped, strict=True):
        share = part / len(group) if connector.config.reduce == "mean" else part
        for layer in group:
            blocks[layer] = blocks[layer] + share if layer in blocks else share
    return {layer: blocks[layer].float() for layer in sorted(blocks)}


def llama_cpp_embeds(mmproj: Path, llm: Path, images: Sequence[Image], threads: int | None = None) -> list[np.ndarray]:
    """What llama.cpp itself makes of pictures with a projector file: for each, float32 `[tokens, n_embd]`.

    `llm` is the GGUF that it belongs to; `threads` None: every core.  Raises UserError for a file that it refuses.
    """
    import llama_cpp.mtmd_cpp as mtmd

    from dclocal.llama_api import llama
    from dclocal.llama_model import model_params

    log = capture_log()
    mtmd.mtmd_log_set(log.callback, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = run_logging(llama.llama_model_load_from_file, os.fsencode(llm), model_params())
    if not model:
        raise UserError(f"llama.cpp cannot load {llm}", "; ".join(log.errors) or "it gave no reason")
    settings = mtmd.mtmd_context_params_default()
    settings.use_gpu = settings.print_timings = settings.warmup = False
    settings.n_threads = threads or usable_cores()
    context = run_logging(mtmd.mtmd_init_from_file, os.fsencode(mmproj), model, settings)
    try:
        if not context:
            raise UserError(f"llama.cpp cannot load {mmproj} with {llm}", "; ".join(log.errors) or "it gave no reason")
        n_embd = llama.llama_model_n_embd(model)
        return [_one_picture(mtmd, context, image, n_embd) for image in images]
    finally:
        if context:
            mtmd.mtmd_free(context)
        llama.llama_model_free(model)


def _one_picture(mtmd: Any, context: Any, image: Image, n_embd: int) -> np.ndarray:
    pixels = np.ascontiguousarray(np.asarray(image.convert("RGB")))
    data = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd.mtmd_bitmap_init(image.width, image.height, data)
    chunks = mtmd.mtmd_input_chunks_init()
    marker = mtmd.mtmd_default_marker()
    text = mtmd.mtmd_input_text(marker, len(marker), False, False)
    bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
    try:
        failed = mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1)
        chunk = None if failed else mtmd.mtmd_input_chunks_get(chunks, 0)
        if not chunk or run_logging(mtmd.mtmd_encode_chunk, context, chunk, succeeded=is_zero):
            raise RuntimeError(f"llama.cpp could not encode a picture of {image.width}×{image.height}")
        tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        return np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), shape=(tokens, n_embd)).copy()
    finally:
        mtmd.mtmd_input_chunks_free(chunks)
        mtmd.mtmd_bitmap_free(bitmap)


def _pools(connector: Connector) -> bool:
    """Whether the interpolation is a mean over 2×2 tokens of the one grid for which llama.cpp has that."""
    full, half = (POOLED_SIDE, POOLED_SIDE), (POOLED_SIDE // 2, POOLED_SIDE // 2)
    return connector.grid == full and connector.token_grid == half


def _projector(connector: Connector) -> str:
    return "ldpv2" if _pools(connector) else "mlp"


def _stored_dtype(name: str, tensor: Tensor, dtype: str) -> Any:
    if name == PEG_KERNEL:  # llama.cpp convolves depth by depth in float16 alone
        return np.float16
    return DTYPES[dtype] if tensor.ndim > 1 and not name.startswith("v.position_embd") else np.float32


def _add_settings(writer: Any, model: DenseConnectorModel, layers: tuple[int, ...], dtype: str) -> None:
    """The keys that llama.cpp reads; layers behind the last feature layer are left out of the file."""
    from gguf import GGUFType, LlamaFileType

    vision, tower = model.config.vision, model.vision.tower.config
    writer.add_type(GGUFType.MMPROJ)
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if dtype == "f16" else LlamaFileType.ALL_F32)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(_projector(model.connector))
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(tower.patch_size)
    writer.add_vision_embedding_length(tower.hidden_size)
    writer.add_vision_feed_forward_length(tower.intermediate_size)
    writer.add_vision_head_count(tower.num_attention_heads)
    writer.add_vision_block_count(max(layers))
    writer.add_vision_attention_layernorm_eps(tower.layer_norm_eps)
    writer.add_vision_projection_dim(model.base_llm.config.hidden_size)
    writer.add_vision_image_mean(list(vision.image_mean))
    writer.add_vision_image_std(list(vision.image_std))
    writer.add_array("clip.vision.feature_layer", list(layers))
    if activation := ACTIVATIONS[tower.hidden_act]:
        writer.add_bool(activation, True)


def _tower_tensors(model: DenseConnectorModel, depth: int) -> dict[str, Tensor]:
    """The tower's first `depth` layers under llama.cpp's names.  Its final norm is left out: llama.cpp would apply
    it to the last feature layer, and no connector reads a normed state."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, depth)
    tensors = {}
    for key, tensor in model.vision.tower.state_dict().items():
        layer = key.split("encoder.layers.")[1].split(".")[0] if "encoder.layers." in key else "0"
        if int(layer) >= depth or "post_layernorm" in key or key.endswith("position_ids"):
            continue
        name = names.get_name(f"vision_tower.{key}", try_suffixes=(".weight", ".bias"))
        if name is None:
            raise RuntimeError(f"gguf has no name for the tower's tensor {key}")
        tensors[name] = tensor.detach().float().cpu()
    return tensors


def _projector_tensors(connector: Connector) -> dict[str, Tensor]:
    values = connector.projector.state_dict()
    values["0.weight"] = torch.cat(list(layer_blocks(connector).values()), dim=1)
    n_embd = values["2.bias"].numel()
    pooled = _pools(connector)
    tensors = {f"{'mm.model.mlp' if pooled else 'mm'}.{name}": value for name, value in values.items()}
    if pooled:  # "ldpv2" adds a 3×3 convolution of the means to them: here, nothing
        tensors[PEG_KERNEL] = torch.zeros(n_embd, 1, 3, 3)
        tensors["mm.model.peg.0.bias"] = torch.zeros(n_embd)
    return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}


def _differences(model: DenseConnectorModel) -> tuple[str, ...]:
    ours = tuple(int(channel * 255) for channel in model.config.vision.image_mean)
    found = ["the projector's GELU is the tanh approximation in llama.cpp, on a CPU through a float16 table"]
    if ours != PAD_COLOUR:
        found.append(f"pictures that are not square are padded with {PAD_COLOUR} by llama.cpp, here with {ours}")
    found.append("pictures that are not square are resized before they are padded, here afterwards")
    if model.config.vision.backbone == "clip":
        found.append("right only in a llama.cpp that puts the class token first: see issue 25814 there")
    return tuple(found)
