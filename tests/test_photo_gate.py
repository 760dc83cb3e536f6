"""Photographs told from drawings: nobody names the drawing that a photograph resembles most."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dclocal_models.class_words import OF_PHOTOGRAPHS, PhotoGate
from dclocal_models.connectors import Connector, ConnectorConfig
from dclocal_models.registry import CONNECTORS
from dclocal_train.config import PhotoGateConfig
from dclocal_train.photo_gate import FILE, fit, fit_photo_gate
from tests.tiny import tiny_model

GRID, WIDTH, CONV, N_EMBD = (4, 6), 5, 3, 7
WORDS = {"classes": 4, "things": 6}


def make(**settings: Any) -> Connector:
    config = ConnectorConfig(kind="dci", token_grid=(2, 3), **settings)
    torch.manual_seed(0)
    connector = CONNECTORS["dci"](config, depth=4, width=WIDTH, grid=GRID, conv_channels=CONV, n_embd=N_EMBD)
    torch.manual_seed(1)
    with torch.no_grad():
        for words in (connector.class_words, connector.thing_words):
            if words is not None:
                for tensor in (words.weight, words.bias, words.names):
                    tensor.copy_(torch.randn(tensor.shape))
    return connector


def features() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(2, GRID[0] * GRID[1], 3 * WIDTH), torch.rand(2, CONV, 2, 3)


def told(connector: Connector, photographed: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return connector.project(*features(), photographed)


def gained(classes: float, things: float) -> torch.Tensor:
    """The same model's tokens with its words that much louder or softer."""
    connector = make(**WORDS)
    assert connector.class_words is not None and connector.thing_words is not None
    connector.class_words.gain.data *= classes
    connector.thing_words.gain.data *= things
    return told(connector)


def test_a_gate_that_was_not_trained_changes_nothing() -> None:
    torch.testing.assert_close(told(make(**WORDS, photographs=True)), told(make(**WORDS)), rtol=1e-6, atol=1e-6)


def test_of_a_photograph_classes_are_said_and_things_are_not() -> None:
    connector = make(**WORDS, photographs=True)
    assert connector.photo_gate is not None
    dense, _ = features()
    one, other = dense.mean(1)
    connector.photo_gate.weight.copy_(200 * (one - other))
    connector.photo_gate.bias.copy_(-200 * ((one - other) @ (one + other) / 2)[None])
    found = told(connector)
    torch.testing.assert_close(found[:1], gained(1 + OF_PHOTOGRAPHS, 0)[:1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1:], gained(1, 1)[1:], rtol=1e-5, atol=1e-5)


def test_a_picture_that_is_said_to_be_one_is_one() -> None:
    """Classes of which there is no picture are imprinted on drawn backgrounds."""
    found = told(make(**WORDS, photographs=True), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found[:1], gained(1, 1)[:1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1:], gained(1 + OF_PHOTOGRAPHS, 0)[1:], rtol=1e-5, atol=1e-5)


def test_it_takes_words_of_both() -> None:
    for words in ({"classes": 4}, {"things": 6}, {}):
        with pytest.raises(ValueError, match="words of classes and of things"):
            make(**words, photographs=True)


def test_the_line_lets_as_many_drawings_pass_as_are_allowed() -> None:
    """Features of unlike scales, of which one tells: what normalises them in training is part of the weights."""
    torch.manual_seed(0)
    scales = torch.tensor([0.01, 1.0, 100.0])
    drawings, photographs = torch.randn(400, 3) * scales, torch.randn(400, 3) * scales + torch.tensor([0.04, 0.0, 0.0])
    for allowed in (0.0, 0.05):
        gate = PhotoGate(3)
        weight, bias = fit(drawings, photographs, PhotoGateConfig(allowed=allowed, penalty=1e-3))
        gate.load_state_dict({"weight": weight, "bias": bias})
        passed = (gate(drawings[:, None])[:, 0, 0] > 0.5).float().mean()
        assert abs(float(passed) - allowed) <= 0.005
        assert float((gate(photographs[:, None])[:, 0, 0] > 0.5).float().mean()) > (0.8 if allowed else 0.4)


def test_what_was_fitted_is_kept_and_taken_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dclocal_train import photo_gate

    model = tiny_model("dinov2+efficientnet_lite2", classes=4, things=6, photographs=True)
    width = model.connector.dense_width
    means = {"photographs": torch.ones(6, width) + torch.randn(6, width) * 0.1, "drawings": torch.randn(6, width) * 0.1}
    monkeypatch.setattr(photo_gate, "build_materials", lambda source: tmp_path)
    monkeypatch.setattr(photo_gate, "load_materials", lambda folder: None)
    monkeypatch.setattr(photo_gate, "_means", lambda model, picture, count, title: means[title])
    fit_photo_gate(model, PhotoGateConfig(), tmp_path / "run", None)
    gate = model.connector.photo_gate
    assert gate is not None and (tmp_path / "run" / FILE).is_file()
    assert float(gate(means["photographs"][:, None]).min()) > 0.5 > float(gate(torch.zeros(1, 1, width)))
    monkeypatch.setattr(photo_gate, "_means", None)  # nothing is drawn again
    other = tiny_model("dinov2+efficientnet_lite2", classes=4, things=6, photographs=True)
    fit_photo_gate(other, PhotoGateConfig(), tmp_path / "run", None)
    assert other.connector.photo_gate is not None
    torch.testing.assert_close(other.connector.photo_gate.weight, gate.weight)
    assert gate.weight.requires_grad is False
