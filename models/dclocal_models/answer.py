"""Answers from a PyTorch checkpoint, through the runtime's own preprocessing and prompt.

The reference that a bundle is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from dclocal.formats import FORMATS
from dclocal.images import image_key, to_pixels
from dclocal.prompt import Embeds, Message, Tokenize, render, to_segments
from dclocal_models.registry import lookup
from dclocal_models.vlm import DenseConnectorModel, image_spec


def tokenize_with(tokenizer: Any) -> Tokenize:
    """A Hugging Face tokenizer as the prompt's tokenize function: special tokens count in control text alone."""

    def tokenize(text: str, parse_special: bool) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not parse_special)
        return ids

    return tokenize


@torch.inference_mode()
def embed_images(model: DenseConnectorModel, images: Sequence[Image]) -> Tensor:
    """Embeddings `[n, tokens, n_embd]`, float32."""
    return model.encode_images(torch.from_numpy(to_pixels(images, image_spec(model)))).float()


@torch.inference_mode()
def prompt_embeds(model: DenseConnectorModel, tokenizer: Any, text: str, images: dict[str, Tensor]) -> Tensor:
    """A question's whole prompt as embeddings `[1, length, n_embd]`; `images` maps keys to `[tokens, n_embd]`."""
    prompt = lookup(FORMATS, model.config.prompt, "prompt format")
    pieces = render(prompt, [Message("user", text, tuple(images))], answer_next=True)
    arrays = {key: embeds.numpy() for key, embeds in images.items()}
    table = model.base_llm.get_input_embeddings()
    parts = [
        torch.from_numpy(segment.values) if isinstance(segment, Embeds) else table(torch.tensor(segment.ids))
        for segment in to_segments(pieces, tokenize_with(tokenizer), arrays)
    ]
    return torch.cat([part.to(table.weight.dtype) for part in parts])[None]


@torch.inference_mode()
def answer(model: DenseConnectorModel, tokenizer: Any, text: str, images: Sequence[Image], max_tokens: int = 32) -> str:
    """The greedy answer to one question about pictures."""
    embedded = {image_key(image): embeds for image, embeds in zip(images, embed_images(model, images))}
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
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )
    text_out: str = tokenizer.decode(ids[0], skip_special_tokens=True)
    return text_out.strip()
