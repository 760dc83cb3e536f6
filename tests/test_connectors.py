"""The method itself: a wrong layer, group or order answers plausibly and wrongly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dclocal_models.connectors import ConnectorConfig, DenseChannelConnector, layer_groups
from dclocal_models.efficientnet_lite import SameConv
from dclocal_models.registry import BACKBONES, lookup
from tests.tiny import tiny_model


def test_groups_are_equal_runs_of_neighbours() -> None:
    """REFERENCE: CLIP-L with 24 layers has groups 1–12 and 13–24; dc-tiny's 12 layers two groups of six."""
    assert layer_groups(24, 2) == (tuple(range(1, 13)), tuple(range(13, 25)))
    assert layer_groups(12, 2) == ((1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12))
    with pytest.raises(ValueError, match="do not divide"):
        layer_groups(26, 4)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_dci_against_numpy(reduce: str) -> None:
    """Final layer first, then each group's mean (released code) or sum (paper); then the projector, then the
    2-D interpolation, which for a factor of two is the mean of each two-by-two block."""
    torch.manual_seed(0)
    states = [torch.randn(2, 16, 8) for _ in range(5)]
    conv_map = torch.randn(2, 3, 4, 4)
    config = ConnectorConfig(groups=2, reduce=reduce, token_grid=(2, 2))
    connector = DenseChannelConnector(config, depth=4, width=8, grid=(4, 4), conv_channels=3, n_embd=6)
    found = connector(states, conv_map).detach().numpy()

    arrays = [state.numpy().astype(np.float64) for state in states]
    combine = np.mean if reduce == "mean" else np.sum
    groups = [combine([arrays[1], arrays[2]], axis=0), combine([arrays[3], arrays[4]], axis=0)]
    conv_tokens = conv_map.numpy().reshape(2, 3, 16).transpose(0, 2, 1)
    features = np.concatenate([arrays[4], *groups, conv_tokens], axis=-1)
    first, second = connector.projector[0], connector.projector[2]
    hidden = features @ first.weight.detach().numpy().T + first.bias.detach().numpy()
    from math import erf, sqrt

    hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / sqrt(2)))
    projected = hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()
    blocks = projected.reshape(2, 2, 2, 2, 2, 6).mean(axis=(2, 4)).reshape(2, 4, 6)
    np.testing.assert_allclose(found, blocks, atol=1e-5)


def test_hidden_states_are_the_librarys_own_patches() -> None:
    """Which hidden state is which, against transformers' own outputs, the class token dropped."""
    model = tiny_model()
    pixels = torch.randn(2, 3, 56, 56)
    ours = model.vision(pixels).hidden_states
    theirs = model.vision.tower(pixels, output_hidden_states=True)
    assert len(ours) == 5 and ours[0].shape == (2, 16, 32)
    for mine, state in zip(ours, theirs.hidden_states):
        assert torch.equal(mine, state[:, 1:])
    normed = model.vision.tower.layernorm(theirs.hidden_states[-1])
    assert torch.allclose(normed, theirs.last_hidden_state)


def test_full_geometry_gives_144_tokens() -> None:
    """CLIP-L's and dc-tiny's 24 × 24 patches become 144 tokens."""
    with torch.device("meta"):
        connector = DenseChannelConnector(
            ConnectorConfig(), depth=12, width=384, grid=(24, 24), conv_channels=1280, n_embd=576
        )
        out = connector([torch.empty(1, 576, 384)] * 13, torch.empty(1, 1280, 12, 12))
    assert out.shape == (1, 144, 576) and connector.tokens == 144
    assert connector.projector[0].in_features == 3 * 384 + 1280


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "before"), [(3, 2, 6, 0), (5, 2, 6, 1), (3, 1, 5, 1), (5, 1, 5, 2)]
)
def test_convolutions_pad_as_tensorflow(kernel: int, stride: int, size: int, before: int) -> None:
    """TensorFlow's "same": the output has ceil(size/stride) places, and an odd pixel of padding goes to the end.
    The published weights were trained so; half a pixel of shift is not seen in a top-1 name."""
    convolution = SameConv(1, 1, kernel, stride=stride, bias=False)
    convolution.weight.data.fill_(1.0)
    values = np.arange(size * size, dtype=np.float32).reshape(size, size)
    places = -(-size // stride)
    after = (places - 1) * stride + kernel - size - before
    padded = np.pad(values, ((before, after), (before, after)))
    starts = [place * stride for place in range(places)]
    expected = [[padded[y : y + kernel, x : x + kernel].sum() for x in starts] for y in starts]
    found = convolution(torch.from_numpy(values)[None, None]).detach().numpy()[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match="dinov2"):
        lookup(BACKBONES, "clip-x", "vision backbone")
