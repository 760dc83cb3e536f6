"""What an export would weigh and cost, from shapes alone: no weights are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dclocal.tables import Table
from dclocal_models.open import open_checkpoint

BITS = {"f16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q5_k_m": 5.69, "q4_k_m": 4.85, "q4_0": 4.55, "iq4_nl": 4.55}
"""Bits a weight: llama.cpp's block sizes, and for mixtures what they come to in models of 7B."""
PREFILL_TIME = {"f16": 1.6, "q8_0": 1.0, "q6_k": 1.3, "q5_k_m": 1.3, "q4_k_m": 0.9, "q4_0": 0.54, "iq4_nl": 0.6}
"""Prefill time as a share of q8_0's on a processor with AVX-512; q8_0 and q4_0 measured with dc-tiny, the others
rough."""
VISION_BITS = {"fp32": 32.0, "fp16": 16.0, "int8": 8.3, "int8_static": 8.3, "int8_block": 9.0, "int4": 5.0}
CONTEXT = 4096
QUESTION_TOKENS = 32


@dataclass(frozen=True)
class Estimate:
    """Bytes on disk and in memory (with the KV cache of `context` tokens), and the prefill of one picture and a short
    question: multiply-adds, and time as a share of q8_0's."""

    quantization: str
    disk_bytes: int
    memory_bytes: int
    prefill_multiply_adds: int
    prefill_time_to_q8_0: float


@dataclass(frozen=True)
class Estimates:
    """`vision_bytes` by precision; `llm` by quantization, whose sizes count the language model alone."""

    llm_parameters: int
    vision_parameters: int
    image_tokens: int
    context: int
    vision_bytes: dict[str, int]
    llm: tuple[Estimate, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


def estimate(checkpoint: Path, *, base: Path | None = None, vision_tower: Path | None = None) -> Estimates:
    """Sizes and costs of every quantization; raises CheckpointError."""
    model, _ = open_checkpoint(checkpoint, base=base, vision_tower=vision_tower, llm_weights=False)
    config = model.base_llm.config
    total = sum(parameter.numel() for parameter in model.base_llm.parameters())
    table = model.base_llm.get_input_embeddings().weight.numel()
    multiplied = total - table * (0 if config.tie_word_embeddings else 1)  # a tied table is the output's matrix too
    tokens = model.connector.tokens + QUESTION_TOKENS
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * 2 * config.num_hidden_layers * heads * head * CONTEXT
    seen = sum(parameter.numel() for part in (model.vision, model.connector) for parameter in part.parameters())
    return Estimates(
        llm_parameters=total,
        vision_parameters=seen,
        image_tokens=model.connector.tokens,
        context=CONTEXT,
        vision_bytes={precision: round(seen * bits / 8) for precision, bits in VISION_BITS.items()},
        llm=tuple(
            Estimate(
                kind, round(total * bits / 8), round(total * bits / 8) + cache, multiplied * tokens, PREFILL_TIME[kind]
            )
            for kind, bits in BITS.items()
        ),
    )


def as_tables(found: Estimates) -> list[Table]:
    """For people."""
    vision = [(precision, f"{size / 1e6:,.0f} MB") for precision, size in found.vision_bytes.items()]
    llm = [
        (
            row.quantization,
            f"{row.disk_bytes / 1e6:,.0f} MB",
            f"{row.memory_bytes / 1e6:,.0f} MB",
            f"{row.prefill_multiply_adds / 1e9:,.0f} G",
            f"{row.prefill_time_to_q8_0:.2f}",
        )
        for row in found.llm
    ]
    return [
        Table(vision, f"vision, {found.vision_parameters / 1e6:,.0f}M parameters", ("precision", "size")),
        Table(
            llm,
            f"language model, {found.llm_parameters / 1e6:,.0f}M parameters; {found.image_tokens} tokens a picture",
            ("quantization", "disk", f"memory, {found.context:,} tokens", "prefill, multiply-adds", "time to q8_0's"),
        ),
    ]
