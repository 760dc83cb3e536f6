"""How much of each GPU's memory a stage will take: an estimate from shapes, for every way of sharding.

With T trained parameters and N processes, in bytes (bf16 training; what is trained is held in float32):

| way | weights | gradients | AdamW's states |
|---|---|---|---|
| single | 4T + 2T (autocast's bf16 copies) + frozen | 4T | 8T |
| ddp | as single | 8T (its own and the buckets that are exchanged) | 8T |
| zero2 | 2T + frozen | 2T/N | 12T/N (float32 weights and both moments) |
| zero3/fsdp | 4T/N + frozen/N + what is gathered | 4T/N | 8T/N |

Frozen parameters take 2 bytes each, or 0.516 where they are in four bits (NF4 with double quantization: 4 bits, 8 a
block of 64, 32 a block of 16,384).  8-bit optimizers take 2T in place of 8T.  Gathered is the bf16 of two decoder
layers (one at work, one on its way) and of all that is outside of them: towers, connector, embeddings, output layer.
DeepSpeed's ZeRO-3 holds 2 + 2 + 12 bytes where FSDP holds 4 + 4 + 8: the same in all.

Activations are those of `batch_size` sequences of `max_length` tokens, the longest that can come, each with a
picture.  A decoder layer of width h and feed-forward width i keeps, per token, a·h + b·i numbers of 2 bytes (a and b
in `LAYER_NUMBERS`).  With checkpointing every layer keeps h numbers (4 bytes each where the residual stream is
float32, that is where the language model is trained without DeepSpeed or FSDP; else 2), and one at a time keeps all.
Logits, made at answers alone, take 14 bytes a word of the vocabulary; answers are taken to fill what the picture
leaves.  A frozen tower holds its layers' outputs, a trained one all that it computes, without checkpointing.

How far to trust it: weights, gradients and states are exact up to buffers of communication.  `LAYER_NUMBERS` are what
autograd saved of small Llamas on a CPU; a GPU's kernels may keep a little more or less.  Real rows are mostly shorter
than `max_length`.  Not counted: the CUDA context and NCCL (1 to 2 GiB), fragmentation (5 to 10 %), temporary copies
in the optimizer's step (up to 4T where nothing is sharded), convolutional towers' inner maps.  No total was measured
on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.config import StageConfig

NF4_BYTES = (4 + 8 / 64 + 32 / 16384) / 8
BF16, FLOAT32 = 2, 4
LOGIT_BYTES = 14  # bf16 logits, their float32 copy, its log-softmax, the gradient
STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
GATHERED_LAYERS = 2
LAYER_NUMBERS = {
    "frozen": (8, 3),
    "lora": (14, 4),
    "lora with dropout": (26, 6),
    "trained": (12, 4),
    "float32": (17, 4),
}
"""Numbers that a decoder layer keeps per token: (times its width, times its feed-forward width); "float32" is trained
with float32 weights under autocast."""


@dataclass(frozen=True)
class MemoryEstimate:
    """One way's bytes per GPU."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All four together."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes


def estimate_memory(
    model: DenseConnectorModel, stage: StageConfig, processes: int, *, tiles: int = 1, in_4bit: int = 0
) -> dict[str, MemoryEstimate]:
    """Estimates by way of sharding, for a model on which `prepare_stage` was called.

    `tiles` is the largest count of squares that one picture is encoded as; `in_4bit` counts the frozen parameters
    of four bits.  Such a model is not sharded, nor is anything where there is one process.
    """
    trained, frozen = 0, 0.0
    for parameter in model.parameters():
        if parameter.requires_grad:
            trained += parameter.numel()
        else:
            frozen += parameter.numel() * parameter.element_size()
    frozen -= in_4bit * (BF16 - NF4_BYTES)
    states = STATE_BYTES[stage.optimizer]
    copies = BF16 if stage.bf16 else 0
    narrow = BF16 if stage.bf16 else FLOAT32
    stream = FLOAT32 if stage.llm_learning_rate is not None else narrow
    whole, shared = (activation_bytes(model, stage, size, tiles) for size in (stream, narrow))
    weights = (FLOAT32 + copies) * trained + frozen
    if processes == 1:
        return {"single": _estimate(weights, FLOAT32 * trained, states * trained, whole)}
    ways = {"ddp": _estimate(weights, 2 * FLOAT32 * trained, states * trained, whole)}
    part = trained / processes
    ways["zero2"] = _estimate(narrow * trained + frozen, narrow * part, (FLOAT32 + states) * part, shared)
    if not in_4bit:
        sharded = FLOAT32 * part + frozen / processes + narrow * _gathered(model)
        ways["zero3/fsdp"] = _estimate(sharded, FLOAT32 * part, states * part, shared)
    return ways


def activation_bytes(model: DenseConnectorModel, stage: StageConfig, stream: int, tiles: int) -> float:
    """What is kept for the backward pass of one batch; `stream` is the residual stream's bytes a number."""
    llm = model.base_llm.config
    tokens = stage.batch_size * stage.max_length
    narrow = BF16 if stage.bf16 else FLOAT32
    of_width, of_feed_forward = LAYER_NUMBERS[_layer_kind(stage, stream)]
    layer = tokens * (of_width * llm.hidden_size + of_feed_forward * llm.intermediate_size) * narrow
    kept = llm.num_hidden_layers * layer
    if stage.gradient_checkpointing:
        kept = llm.num_hidden_layers * tokens * llm.hidden_size * stream + layer
    answered = stage.batch_size * max(0, stage.max_length - model.connector.tokens)
    logits = answered * llm.vocab_size * LOGIT_BYTES
    squares = stage.batch_size * tiles
    return kept + logits + squares * (_tower_bytes(model, stage, narrow) + _connector_bytes(model, narrow))


def _layer_kind(stage: StageConfig, stream: int) -> str:
    if stage.lora is not None:
        return "lora with dropout" if stage.lora.dropout else "lora"
    if stage.llm_learning_rate is None:
        return "frozen"
    return "float32" if stream == FLOAT32 else "trained"


def _tower_bytes(model: DenseConnectorModel, stage: StageConfig, narrow: int) -> int:
    """The transformer's for one square, the class token left out."""
    if stage.cache_features:
        return 0
    vision = model.vision
    tokens = vision.grid[0] * vision.grid[1]
    if stage.vision_learning_rate is None:
        return (vision.depth + 1) * tokens * vision.width * narrow
    config = getattr(vision, "vit", vision).tower.config
    inner = getattr(config, "intermediate_size", None) or vision.width * config.mlp_ratio
    return int(vision.depth * tokens * (12 * vision.width + 3 * inner) * narrow)


def _connector_bytes(model: DenseConnectorModel, narrow: int) -> int:
    """The projector's for one square, and patch info mining's, whose keys and values cover the fine map."""
    connector = model.connector
    n_embd = model.base_llm.config.hidden_size
    kept = connector.dense_tokens * (connector.dense_width + 3 * n_embd) * narrow
    if connector.mining is not None:
        fine = (model.config.vision.image_size // model.vision.conv.config.patch_size) ** 2
        normed = 2 * FLOAT32  # a LayerNorm each for keys and values
        kept += fine * (connector.conv_channels * (narrow + normed) + 2 * connector.dense_width * narrow)
    return int(kept)


def _gathered(model: DenseConnectorModel) -> int:
    """Parameters that are whole at one time where everything is sharded."""
    layers = [_size(layer) for layer in model.base_llm.get_decoder().layers]
    return _size(model) - sum(layers) + GATHERED_LAYERS * max(layers)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _estimate(weights: float, gradients: float, optimizer: float, activations: float) -> MemoryEstimate:
    return MemoryEstimate(int(weights), int(gradients), int(optimizer), int(activations))
