"""Fewer tokens a frame: the numbers PyTorch gives, and as many frames as the context holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from dclocal.errors import PromptError
from dclocal.manifest import VideoDefaults
from dclocal.pooling import pool_tokens, token_choices
from dclocal.video_plan import plan_video


def embeds(rows: int, columns: int, extra: int = 0) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(3, rows * columns + extra, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("grid", "tokens"), [((12, 12), 36), ((12, 12), 16), ((12, 12), 4), ((27, 27), 196), ((4, 6), 6)]
)
@pytest.mark.parametrize("pool", ["area", "bilinear"])
def test_pooling_is_pytorchs(grid: tuple[int, int], tokens: int, pool: str) -> None:
    values = embeds(*grid, extra=5)  # five tokens beside the grid are left out
    rows, columns = token_choices(values.shape[1], grid, pool)[tokens]
    maps = torch.from_numpy(values[:, : grid[0] * grid[1]].reshape(3, *grid, 8)).permute(0, 3, 1, 2)
    corners = {"align_corners": False} if pool == "bilinear" else {}
    expected = functional.interpolate(maps, size=(rows, columns), mode=pool, **corners)
    found = pool_tokens(values, grid, tokens, pool)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, expected.flatten(2).transpose(1, 2).numpy(), atol=1e-5)


@pytest.mark.parametrize("tokens", [72, 36, 9, 4])
def test_max_pooling_is_pytorchs(tokens: int) -> None:
    values = embeds(12, 12)
    expected = torch.from_numpy(values).transpose(1, 2)
    while expected.shape[2] > tokens:
        expected = functional.max_pool1d(expected, 2)
    np.testing.assert_array_equal(pool_tokens(values, (12, 12), tokens, "max"), expected.transpose(1, 2).numpy())


def test_all_tokens_are_untouched_and_others_refused() -> None:
    values = embeds(12, 12)
    assert pool_tokens(values, (12, 12), 144, "area") is values
    with pytest.raises(PromptError, match="known: 144, 36, 16, 4"):
        pool_tokens(values, (12, 12), 35, "area")


@pytest.mark.parametrize(
    ("frames", "tokens", "context", "expected"),
    [
        (None, None, 4096, (16, 144)),
        (None, None, 2048, (16, 36)),
        (None, None, 400, (16, 16)),
        (None, None, 190, (16, 4)),
        (None, None, 130, (7, 4)),  # frames that nobody asked for give way
        (40, None, 4096, (40, 36)),
        (8, 144, 4096, (8, 144)),
        (999, 4, 4096, (999, 4)),
    ],
)
def test_the_plan_fits(frames: int | None, tokens: int | None, context: int, expected: tuple[int, int]) -> None:
    assert plan_video(frames, tokens, context, 100) == expected
    assert expected[0] * expected[1] + 100 <= context


def test_the_plan_follows_the_bundle() -> None:
    plan = plan_video(None, None, 4096, 100, defaults=VideoDefaults(8, 36))
    assert plan == (8, 36)
    assert plan_video(200, None, 4096, 100, defaults=VideoDefaults(8, 36), beside_frame=3) == (200, 16)


def test_what_does_not_fit_is_refused_with_figures() -> None:
    with pytest.raises(PromptError, match=r"28 frames of 144 tokens are 4,032, the context holds 4,096 .*at most 27"):
        plan_video(28, 144, 4096, 100)
    with pytest.raises(PromptError, match="at most 999"):
        plan_video(1000, None, 4096, 100)
    with pytest.raises(PromptError, match="known: 144, 36, 16, 4"):
        plan_video(None, 35, 4096, 100)
