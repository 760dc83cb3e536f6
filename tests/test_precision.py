"""Where a processor has no bfloat16, training in it takes a hundred times as long."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dclocal_train import precision, start, trainer
from dclocal_train.config import load_recipe
from dclocal_train.precision import autocast, has_quick_bf16
from dclocal_train.start import start_model, training_dtype
from dclocal_train.trainer import training_arguments

RECIPE = Path(__file__).parent.parent / "train" / "recipes" / "dc-tiny.yaml"


@pytest.mark.parametrize("quick", [True, False])
def test_bfloat16_is_used_where_it_is_quick(quick: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # transformers sets it, for other tests' processes too
    monkeypatch.setattr(start, "has_quick_bf16", lambda: quick)
    monkeypatch.setattr(trainer, "has_quick_bf16", lambda: quick)
    recipe = dataclasses.replace(load_recipe(RECIPE), loggers=())
    assert all(stage.bf16 for stage in recipe.stages)
    taken: list[torch.dtype] = []
    monkeypatch.setattr(start, "_start", lambda recipe, source, dtype: taken.append(dtype) or (None, None))
    monkeypatch.setattr(start, "prepare_for_cpu", lambda model: None)
    start_model(recipe, None)
    assert taken == [torch.bfloat16 if quick else torch.float32]
    assert training_dtype(recipe) is torch.bfloat16, "a dry run is of the machine that the recipe was made for"
    assert training_arguments(recipe, recipe.stages[0], tmp_path, 100).bf16 is quick


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(("multiplied", "quicker"), [(False, True), (True, True), (True, False)])
def test_it_is_quick_where_something_multiplies_it_faster(
    gpu: bool, multiplied: bool, quicker: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {torch.bfloat16: 1.0, torch.float32: 2.0 if quicker else 0.5}
    monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: multiplied)
    precision._bf16_is_quicker.cache_clear()
    try:
        assert has_quick_bf16() is (gpu or (multiplied and quicker))
        with autocast("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    finally:
        precision._bf16_is_quicker.cache_clear()
    expected = torch.bfloat16 if multiplied and quicker else torch.float32
    assert product.dtype is expected, "a GPU does not make a processor quick"


def test_products_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[torch.dtype] = []
    monkeypatch.setattr(precision, "_seconds", lambda dtype: timed.append(dtype) or float(len(timed)))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    precision._bf16_is_quicker.cache_clear()
    try:
        assert has_quick_bf16("cpu") and has_quick_bf16("cpu") and len(timed) == 2
    finally:
        precision._bf16_is_quicker.cache_clear()
