"""Names as visual tokens say them: in embeddings of the language model's own tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NAME_TOKENS = 8
"""Tokens of a name that are kept; what is longer is cut."""
NAME_PARTS = 3
"""In how many visual tokens a name is said: its first token, its second, and the rest."""


def name_table(tokens: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """`[names, NAME_PARTS, n_embd]`, float32, of names as `tokens` `[names, NAME_TOKENS]`, −1 beyond a name's end, and
    the language model's `embeddings` `[vocabulary, n_embd]`.

    The rest's embeddings are summed and divided by the root of their count, so that it is no louder than one token.
    """
    import numpy as np

    known = tokens >= 0
    each = embeddings[tokens.clip(0)].astype(np.float32) * known[..., None]
    rest = each[:, 2:].sum(1) / np.sqrt(known[:, 2:].sum(1).clip(1))[:, None]
    return np.stack([each[:, 0], each[:, 1], rest], axis=1).astype(np.float32)
