"""Attention for training on a CPU: it must attend as PyTorch's own does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dclocal_train.matmul_attention import attend


@pytest.mark.parametrize("key_heads", [6, 2])
def test_it_attends_as_pytorch_does(key_heads: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 9, 16)
    key, value = torch.randn(2, key_heads, 9, 16), torch.randn(2, key_heads, 9, 16)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    mask[1, :, 5:, 2] = False
    found, _ = attend(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
    expected = functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found.float(), expected.transpose(1, 2), atol=0.03, rtol=0.03)


def test_without_a_mask_every_token_sees_all() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    found, _ = attend(torch.nn.Identity(), query, key, value, None)
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(found.float(), expected.transpose(1, 2), atol=0.03, rtol=0.03)
