"""Examples to one padded batch: ids, labels, positions, who sees whom, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dclocal_models.vlm import NEWLINE
from dclocal_train.data import IGNORED, Example
from dclocal_train.imprint import join_imprints


class Collator:
    """Pads on the right; `attention_mask` is boolean `[batch, 1, length, length]`, true where a token may look.

    A token sees what is at or before it in its own branch and in the shared prefix (branch 0).
    `tokens_per_tile` is the count of visual tokens of one encoded square, needed for AnyRes's orders;
    `answer_balance` and `keep_language` see `StageConfig`.
    """

    def __init__(
        self,
        pad_id: int = 0,
        tokens_per_tile: int = 0,
        answer_balance: float = 0.0,
        keep_language: float = 0.0,
    ):
        self.pad_id, self.tokens_per_tile = pad_id, tokens_per_tile
        self.answer_balance, self.keep_language = answer_balance, keep_language

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        length = max(len(example.ids) for example in examples)
        branches = _pad([example.branches for example in examples], length, -1)
        batch = {
            "input_ids": _pad([example.ids for example in examples], length, self.pad_id),
            "labels": _pad([example.labels for example in examples], length, IGNORED),
            "position_ids": _pad([example.positions for example in examples], length, 0),
            "image_mask": _pad([example.is_image for example in examples], length, False),
            "attention_mask": visible(branches),
        }
        if self.answer_balance:
            batch["label_weights"] = balanced(batch["labels"], self.answer_balance)
        if self.keep_language:
            batch["from_base"] = self.keep_language * ~batch["image_mask"].any(dim=1)
        pictures = [example.vision for example in examples if example.vision is not None]
        for key in ("pixels", "dense", "conv_map"):
            tensors = [picture[key] for picture in pictures if key in picture]
            if tensors:
                batch[key] = torch.cat(tensors).float()
        batch |= join_imprints(pictures)
        if pictures and "token_order" in pictures[0]:
            batch["token_order"] = self._join_orders(pictures)
        return batch

    def _join_orders(self, pictures: Sequence[dict[str, Tensor]]) -> Tensor:
        """Orders of single pictures as one over all their tiles; NEWLINE stays as it is."""
        joined, tiles = [], 0
        for picture in pictures:
            order = picture["token_order"]
            joined.append(torch.where(order == NEWLINE, order, order + tiles * self.tokens_per_tile))
            tiles += len(picture["pixels"])
        return torch.cat(joined)


def balanced(labels: Tensor, balance: float) -> Tensor:
    """Weights of labelled tokens, `[batch, length]`: an answer of n tokens counts n^(1 − balance) in all, scaled so
    that the batch's weights sum to its count of labels."""
    answered = labels != IGNORED
    starts = answered & ~torch.nn.functional.pad(answered, (1, 0))[:, :-1]
    answer = starts.flatten().cumsum(0) - 1
    lengths = torch.bincount(answer[answered.flatten()]).float()
    weights = torch.where(answered, lengths[answer.clamp(min=0)].view_as(labels) ** -balance, 0.0)
    return weights * (answered.sum() / weights.sum())


def visible(branches: Tensor) -> Tensor:
    """Boolean `[batch, 1, length, length]` from branch numbers `[batch, length]`; −1 marks padding.

    Padding sees itself, so that no row of the softmax is empty.
    """
    length = branches.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = branches[:, :, None] == branches[:, None, :]
    prefix = (branches == 0)[:, None, :] & (branches >= 0)[:, :, None]
    return ((same | prefix) & causal)[:, None]


def _pad(rows: Sequence[Sequence[int]] | Sequence[Sequence[bool]], length: int, value: int | bool) -> Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
