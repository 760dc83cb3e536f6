"""The ablation: its figures are only as good as how they are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dclocal_models.connectors import ConnectorConfig
from dclocal_models.registry import CONNECTORS
from dclocal_train import ablation, ablation_report


def row(identifier: str, *pairs: tuple[str, str]) -> dict[str, object]:
    turns = [{"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair)]
    return {"id": identifier, "image": "x.png", "conversations": turns}


def test_guessing_from_the_question_is_counted() -> None:
    """The baseline that every figure is read against: the answer most frequent in training."""
    train = [row("easy-1", ("a?", "red")), row("easy-2", ("a?", "red")), row("easy-3", ("a?", "blue"))]
    test = [row("easy-4", ("a?", "red")), row("easy-5", ("a?", "blue")), row("shapes-1", ("new?", "one"))]
    assert ablation.blind({"train": train, "test": test}) == {"easy": 50.0, "scenes": 0.0}


def test_stored_layers_are_what_the_connector_would_integrate(tmp_path: Path) -> None:
    """Features out of the store equal those of the connector on the hidden states themselves."""
    torch.manual_seed(0)
    states = [torch.randn(1, 576, 8) for _ in range(13)]
    layers = ablation.Layers(tmp_path / "layers", ["x.png"], 8)
    means = [torch.stack(states[start : start + 6]).mean(0) for start in (0, 6)]
    kept = torch.cat([states[11], states[3], states[7], *means], dim=-1)
    import numpy as np

    table = np.memmap(tmp_path / "layers", np.float16, "w+", shape=layers.shape)
    table[0] = kept[0].half().numpy()
    table.flush()
    for name, config in ablation.CONNECTORS.items():
        assert isinstance(config, ConnectorConfig)
        connector = CONNECTORS[config.kind](config, depth=12, width=8, grid=(24, 24), conv_channels=0, n_embd=4)
        expected = connector.integrate(states)
        assert torch.allclose(layers.dense("x.png", connector), expected, atol=5e-3), name


def test_the_report_tells_mean_and_spread(tmp_path: Path) -> None:
    runs = [
        {"connector": "dci", "tokens": 144, "grid": 144, "seed": seed, "loss": 0.5, "train_s": 10, **scores}
        for seed, scores in enumerate(dict.fromkeys(ablation_report.MEASURES, value) for value in (60.0, 70.0, 80.0))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(json.dumps(run) for run in runs))
    table = ablation_report.table(ablation_report.read_results(tmp_path), {"easy": 66.5, "scenes": 43.8})
    assert "| dci | 144 | 3 | 70.0 ± 10.0 |" in table and "| question alone | 0 |  | 66.5 | 43.8 |" in table
    pytest.importorskip("matplotlib")
    ablation_report.plot(ablation_report.read_results(tmp_path), {"easy": 66.5, "scenes": 43.8}, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
