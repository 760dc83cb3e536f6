"""Examples to one padded batch: ids, labels, positions, who sees whom, and the pictures' features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dclocal_train.data import IGNORED, Example
from dclocal_train.features import FeatureCache


class Collator:
    """Pads on the right; `attention_mask` is boolean `[batch, 1, length, length]`, true where a token may look.

    A token sees what is at or before it in its own branch and in the shared prefix (branch 0).
    """

    def __init__(self, cache: FeatureCache, pad_id: int):
        self.cache, self.pad_id = cache, pad_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        length = max(len(example.ids) for example in examples)
        branches = _pad([example.branches for example in examples], length, -1)
        features = [self.cache.load(example.image) for example in examples if example.image is not None]
        batch = {
            "input_ids": _pad([example.ids for example in examples], length, self.pad_id),
            "labels": _pad([example.labels for example in examples], length, IGNORED),
            "position_ids": _pad([example.positions for example in examples], length, 0),
            "image_mask": _pad([example.is_image for example in examples], length, False),
            "attention_mask": visible(branches),
        }
        if features:
            batch["dense"] = torch.stack([dense for dense, _ in features]).float()
            maps = [conv_map for _, conv_map in features if conv_map is not None]
            if maps:
                batch["conv_map"] = torch.stack(maps).float()
        return batch


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
