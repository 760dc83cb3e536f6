"""Answers from a PyTorch checkpoint, through the runtime's own preprocessing and prompt.

The reference that a bundle is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from dclocal.bundle import NEWLINE_FILE, VisionSpec
from dclocal.formats import FORMATS
from dclocal.images import image_key, to_pixels
from dclocal.picture import encode_picture
from dclocal.prompt import Embeds, Message, Tokenize, render, to_segments
from dclocal_models.registry import lookup
from dclocal_models.vlm import DenseConnectorModel, image_spec

BATCH = 8


def tokenize_with(tokenizer: Any) -> Tokenize:
    """A Hugging Face tokenizer as the prompt's tokenize function: special tokens count in control text alone."""

    def tokenize(text: str, parse_special: bool) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not parse_special)
        return ids

    return tokenize


def vision_spec(model: DenseConnectorModel) -> VisionSpec:
    """What the model makes of a picture, as a bundle's manifest says it."""
    config, connector = model.config, model.connector
    return VisionSpec(
        image=replace(image_spec(model), fit=config.fit, pinpoints=config.pinpoints),
        tokens=connector.tokens,
        grid=connector.token_grid,
        n_embd=model.base_llm.config.hidden_size,
        backbone=config.vision.backbone,
        connector=config.connector.kind,
        layer_groups=connector.groups,
        newline=None if model.image_newline is None else NEWLINE_FILE,
    )


def newline_array(model: DenseConnectorModel) -> np.ndarray | None:
    """AnyRes's newline embedding, float32 `[n_embd]`, or None."""
    return None if model.image_newline is None else model.image_newline.detach().float().cpu().numpy()


@torch.inference_mode()
def encode_pixels(model: DenseConnectorModel, pixels: np.ndarray) -> np.ndarray:
    """Normalised pixels float32 `[n, 3, H, W]` to embeddings float32 `[n, tokens, n_embd]`, on the model's device."""
    weight = next(model.connector.parameters())
    parts = [
        model.encode_images(torch.from_numpy(pixels[start : start + BATCH]).to(weight.device, weight.dtype))
        for start in range(0, len(pixels), BATCH)
    ]
    return torch.cat(parts).float().cpu().numpy()


def embed_pictures(model: DenseConnectorModel, images: Sequence[Image]) -> list[Tensor]:
    """What the language model reads of each picture, float32 `[tokens, n_embd]`: AnyRes's tiles gathered."""
    spec, newline = vision_spec(model), newline_array(model)
    encoded = [encode_picture(image, spec, lambda pixels: encode_pixels(model, pixels), newline) for image in images]
    return [torch.from_numpy(embeds) for embeds in encoded]


def embed_images(model: DenseConnectorModel, images: Sequence[Image]) -> Tensor:
    """Embeddings `[n, tokens, n_embd]`, float32, of each picture as one square: what the vision graph gives.

    Of an AnyRes model, this is a picture's first tile alone; `embed_pictures` gives all that is read of it.
    """
    return torch.from_numpy(encode_pixels(model, to_pixels(images, image_spec(model))))


@torch.inference_mode()
def prompt_embeds(model: DenseConnectorModel, tokenizer: Any, text: str, images: dict[str, Tensor]) -> Tensor:
    """A question's whole prompt as embeddings `[1, length, n_embd]`; `images` maps keys to `[tokens, n_embd]`."""
    prompt = lookup(FORMATS, model.config.prompt, "prompt format")
    pieces = render(prompt, [Message("user", text, tuple(images))], answer_next=True)
    arrays = {key: embeds.numpy() for key, embeds in images.items()}
    table = model.base_llm.get_input_embeddings()
    device, dtype = table.weight.device, table.weight.dtype
    parts = [
        torch.from_numpy(segment.rows()).to(device)
        if isinstance(segment, Embeds)
        else table(torch.tensor(segment.ids, device=device))
        for segment in to_segments(pieces, tokenize_with(tokenizer), arrays)
    ]
    return torch.cat([part.to(dtype) for part in parts])[None]


def answer(model: DenseConnectorModel, tokenizer: Any, text: str, images: Sequence[Image], max_tokens: int = 32) -> str:
    """The greedy answer to one question about pictures."""
    embedded = {image_key(image): embeds for image, embeds in zip(images, embed_pictures(model, images))}
    return answer_embedded(model, tokenizer, text, embedded, max_tokens)


@torch.inference_mode()
def answer_embedded(
    model: DenseConnectorModel, tokenizer: Any, text: str, images: dict[str, Tensor], max_tokens: int = 32
) -> str:
    """As `answer`, for images that are embedded already."""
    prompt = lookup(FORMATS, model.config.prompt, "prompt format")
    embeds = prompt_embeds(model, tokenizer, text, images)
    end = tokenizer.convert_tokens_to_ids(prompt.answer_end)
    ids = model.llm.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    text_out: str = tokenizer.decode(ids[0], skip_special_tokens=True)
    return text_out.strip()
