"""The mean of a stage's weights: if these fail, what ships is another model than the one that was measured."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dclocal_train.averaging import Averaging
from dclocal_train.config import RecipeError, StageConfig
from dclocal_train.stages import prepare_stage
from dclocal_train.trained import TRAINED_FILE, trained_state
from tests.test_training_modes import make_rows, stage, train
from tests.tiny import tiny_model

Weights = dict[str, torch.Tensor]


def trained_by(folder: Path, settings: StageConfig) -> Weights:
    """What a run in `folder` leaves in the model."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = tiny_model()
    prepare_stage(model, settings)
    train(model, make_rows(folder), folder, settings)
    return trained_state(model)


def test_a_stage_ends_with_the_mean_of_its_later_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(stage(save_steps=2), steps=5, average_from=3)
    passed: list[Weights] = []
    take = Averaging.on_step_end

    def spied(self: Averaging, *arguments: object, **options: object) -> None:
        take(self, *arguments, **options)  # type: ignore[arg-type]
        passed.append({name: tensor.clone() for name, tensor in trained_state(self._model).items()})

    with monkeypatch.context() as patch:
        patch.setattr(Averaging, "on_step_end", spied)
        left = trained_by(tmp_path / "whole", settings)
    expected = {name: torch.stack([weights[name] for weights in passed[2:]]).mean(0) for name in left}
    torch.testing.assert_close(left, expected)
    torch.testing.assert_close(load_file(tmp_path / "whole" / "run" / TRAINED_FILE), expected)
    assert any((expected[name] - passed[-1][name]).abs().max() > 1e-4 for name in left)
    shutil.copytree(tmp_path / "whole" / "run" / "checkpoint-4", tmp_path / "cut" / "run" / "checkpoint-4")
    torch.testing.assert_close(trained_by(tmp_path / "cut", settings), expected)


def test_it_begins_within_the_stage() -> None:
    with pytest.raises(RecipeError, match="average_from is 9"):
        stage(average_from=9)
