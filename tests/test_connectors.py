"""The method itself: a wrong layer, group or order answers plausibly and wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dclocal_models.connectors import Connector, ConnectorConfig
from dclocal_models.efficientnet_lite import SameConv
from dclocal_models.layers import FULL_GRID, layer_groups
from dclocal_models.registry import BACKBONES, CONNECTORS, lookup
from tests import paper

GRID, DEPTH, WIDTH, N_EMBD = (8, 6), 8, 10, 12
FINAL = 7  # hidden_states[-2] of nine


def make(depth: int = DEPTH, conv_channels: int = 0, **settings: Any) -> Connector:
    torch.manual_seed(0)
    config = ConnectorConfig(**settings)
    connector = lookup(CONNECTORS, config.kind, "connector")(
        config, depth=depth, width=WIDTH, grid=GRID, conv_channels=conv_channels, n_embd=N_EMBD
    )
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return connector


def states(depth: int = DEPTH) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, GRID[0] * GRID[1], WIDTH) for _ in range(depth + 1)]


def as_numpy(connector: Connector) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in connector.state_dict().items()}


def integrated(kind: str, arrays: list[np.ndarray], reduce: str, weights: dict[str, np.ndarray]) -> np.ndarray:
    """What the paper says of each connector, for layers 3 and 6 or two groups of four of hidden states 0 to 7."""
    groups = [range(0, 4), range(4, 8)]
    if kind == "baseline":
        return arrays[FINAL]
    if kind == "sti":
        return paper.sti(arrays, FINAL, [2, 5])
    if kind == "sci":
        return paper.sci(arrays, FINAL, [2, 5])
    if kind == "dci":
        return paper.dci(arrays, FINAL, groups, reduce)
    if kind == "sti_conv":
        shallow = [
            paper.conv1d(arrays[layer], weights["convolution.weight"], weights["convolution.bias"]) for layer in (2, 5)
        ]
        return np.concatenate([arrays[FINAL], *shallow], axis=0)
    if kind == "sci_conv":
        shallow = [
            paper.conv2d(arrays[layer], GRID, weights["convolution.weight"], weights["convolution.bias"])
            for layer in (2, 5)
        ]
        return np.concatenate([arrays[FINAL], *shallow], axis=1)
    assert kind == "dci_linear"
    refined = [
        paper.layer_norm(
            array @ weights["linear.0.weight"].T + weights["linear.0.bias"],
            weights["linear.1.weight"],
            weights["linear.1.bias"],
        )
        for array in arrays
    ]
    refined_final = [*refined[:FINAL], *refined[FINAL:]]
    dense = paper.dci(refined_final, FINAL, groups, reduce)
    return np.concatenate([arrays[FINAL], dense[:, WIDTH:]], axis=1)


@pytest.mark.parametrize("kind", sorted(CONNECTORS))
@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("token_grid", [FULL_GRID, None, (5, 2)])
def test_every_connector_against_the_papers_equations(kind: str, reduce: str, token_grid: Any) -> None:
    """Integration, projector and interpolation, each token of it, from numpy alone."""
    layers = (2, 5) if CONNECTORS[kind].takes_layers else ()
    connector = make(kind=kind, layers=layers, reduce=reduce, token_grid=token_grid).double()
    inputs = [state.double() for state in states()]
    found = connector(inputs).detach().numpy()
    assert found.shape == (2, connector.tokens, N_EMBD)
    weights, target = as_numpy(connector), {FULL_GRID: GRID, None: (4, 3), (5, 2): (5, 2)}[token_grid]
    for picture in range(2):
        arrays = [state[picture].numpy() for state in inputs]
        tokens = paper.project(integrated(kind, arrays, reduce, weights), weights)
        grid_tokens, extra = tokens[: GRID[0] * GRID[1]], tokens[GRID[0] * GRID[1] :]
        expected = [paper.efficient(grid_tokens, GRID, target)]
        size = int(6 * target[0] * target[1] / 48)  # each shallow layer's six tokens shrink as the grid does
        expected += [paper.interpolate(line, size) for line in (extra[:6], extra[6:]) if len(line)]
        np.testing.assert_allclose(found[picture], np.concatenate(expected), atol=1e-9)


@pytest.mark.parametrize(("depth", "width"), [(24, 1024), (27, 1152)])
def test_reference_mode_is_the_released_behaviour(depth: int, width: int) -> None:
    """REFERENCE.md: CLIP-L takes hidden_states[23] with 0–11 and 12–23, SigLIP hidden_states[26] with 0–12 and
    13–25; SCI and STI take 7 and 15; groups are means; the final feature comes first."""
    final = depth - 1
    half = {24: 12, 27: 13}[depth]
    torch.manual_seed(0)
    hidden = [torch.randn(1, 16, 6) for _ in range(depth + 1)]
    arrays = [state[0].numpy() for state in hidden]
    expected = {
        "baseline": arrays[final],
        "sti": paper.sti(arrays, final, [7, 15]),
        "sci": paper.sci(arrays, final, [7, 15]),
        "dci": paper.dci(arrays, final, [range(0, half), range(half, 2 * half)], "mean"),
    }
    for kind, features in expected.items():
        connector = CONNECTORS[kind](
            ConnectorConfig.reference(kind), depth=depth, width=6, grid=(4, 4), conv_channels=0, n_embd=4
        )
        np.testing.assert_allclose(connector.integrate(hidden)[0].numpy(), features, atol=1e-6)
        assert connector.tokens == len(features)


def test_groups_are_equal_runs_of_neighbours() -> None:
    """The paper's choices: CLIP-L two groups and three, SigLIP's 27 states with one left out; dc-tiny's own."""
    assert layer_groups(0, 23, 2) == (tuple(range(12)), tuple(range(12, 24)))
    assert layer_groups(0, 23, 3) == (tuple(range(8)), tuple(range(8, 16)), tuple(range(16, 24)))
    assert layer_groups(0, 26, 2) == (tuple(range(13)), tuple(range(13, 26)))
    assert layer_groups(1, 12, 2) == ((1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12))
    for groups in (0, 30):
        with pytest.raises(ValueError, match="cannot be cut"):
            layer_groups(0, 23, groups)


@pytest.mark.parametrize(
    ("kind", "side", "width", "depth", "tokens", "joined"),
    [
        ("baseline", 24, 1024, 24, 144, 1024),
        ("sti", 24, 1024, 24, 180, 1024),
        ("sci", 24, 1024, 24, 144, 3072),
        ("dci", 24, 1024, 24, 144, 3072),
        ("dci", 27, 1152, 27, 169, 3456),
    ],
)
def test_real_geometries(kind: str, side: int, width: int, depth: int, tokens: int, joined: int) -> None:
    """CLIP-L-336's and SigLIP-SO-384's sizes, by the default of the efficient connector."""
    layers = (7, 15) if CONNECTORS[kind].takes_layers else ()
    with torch.device("meta"):
        connector = CONNECTORS[kind](
            ConnectorConfig(kind=kind, layers=layers),
            depth=depth,
            width=width,
            grid=(side, side),
            conv_channels=0,
            n_embd=4096,
        )
        out = connector([torch.empty(1, side * side, width)] * (depth + 1))
    assert out.shape == (1, tokens, 4096) and connector.tokens == tokens
    assert connector.projector[0].in_features == joined


def test_a_convolutional_map_joins_on_the_channel_axis() -> None:
    """dc-tiny's fusion: the map is brought to the token grid and stands after the dense features."""
    connector = make(conv_channels=3).double()
    conv_map = torch.randn(2, 3, 4, 3, dtype=torch.float64)
    inputs = [state.double() for state in states()]
    found = connector(inputs, conv_map).detach().numpy()
    weights = as_numpy(connector)
    for picture in range(2):
        dense = paper.dci([state[picture].numpy() for state in inputs], FINAL, [range(0, 4), range(4, 8)], "mean")
        flat = conv_map[picture].flatten(1).T.numpy()
        features = np.concatenate([dense, paper.efficient(flat, (4, 3), GRID)], axis=1)
        expected = paper.efficient(paper.project(features, weights), GRID, (4, 3))
        np.testing.assert_allclose(found[picture], expected, atol=1e-9)


def test_patch_info_mining_against_numpy() -> None:
    """Mini-Gemini: each token's final feature attends to its own region of the fine map, and no other."""
    connector = make(conv_channels=5, fusion="mining").double()
    fine = torch.randn(2, 5, 24, 18, dtype=torch.float64)
    inputs = [state.double() for state in states()]
    found = connector(inputs, fine).detach().numpy()
    weights = as_numpy(connector)
    for picture in range(2):
        dense = paper.dci([state[picture].numpy() for state in inputs], FINAL, [range(0, 4), range(4, 8)], "mean")
        mined = dense.copy()
        mined[:, :WIDTH] = paper.mining(dense[:, :WIDTH], fine[picture].numpy(), GRID, weights)
        expected = paper.efficient(paper.project(mined, weights), GRID, (4, 3))
        np.testing.assert_allclose(found[picture], expected, atol=1e-9)
    with pytest.raises(ValueError, match="does not divide"):
        connector(inputs, fine[:, :, :23])


def test_configs_that_make_no_sense_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kind": "sci"}, "sci needs layers"),
        ({"kind": "dci", "layers": (1,)}, "does not take layers"),
        ({"kind": "sci", "layers": (2, 30)}, "layer 30 is not among 9"),
        ({"kind": "sti", "layers": (2,), "conv_channels": 3}, "cannot join"),
        ({"reduce": "max"}, "mean or sum"),
        ({"fusion": "add"}, "concat or mining"),
        ({"token_grid": (0, 3)}, "token_grid"),
    ]
    for settings, message in cases:
        with pytest.raises(ValueError, match=message):
            make(**settings)
    with pytest.raises(ValueError, match="dinov2"):
        lookup(BACKBONES, "clip-x", "vision backbone")


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
