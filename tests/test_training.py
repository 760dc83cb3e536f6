"""Training: if these fail, weights move that should not, questions leak their answers, or a resumed run differs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dclocal.formats import FORMATS
from dclocal_models.vlm import DenseConnectorModel, ModelConfig
from dclocal_train.collate import Collator, visible
from dclocal_train.config import DataConfig, LoraSettings, Recipe, RecipeError, StageConfig, load_recipe
from dclocal_train.data import IGNORED, Encoder, Example, RowDataset, TurnPlan, turns_of
from dclocal_train.features import FeatureCache
from dclocal_train.inputs import CachedFeatures, Pixels
from dclocal_train.pictures import open_pictures
from dclocal_train.stages import prepare_stage
from dclocal_train.synthetic.easy_vqa import caption_from
from dclocal_train.synthetic.rows import conversation_row
from dclocal_train.trainer import run_stage
from tests.tiny import WORDS, tiny_model, tokenize

TURNS = [("what circle?", "red"), ("is a circle blue?", "a blue"), ("what?", "circle")]
RECIPES = Path(__file__).parent.parent / "train" / "recipes"


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    made = []
    for index, colour in enumerate(["red", "blue", "green", "white"]):
        Image.new("RGB", (56, 56), colour).save(tmp_path / f"{index}.png")
        made.append(conversation_row(str(index), f"{index}.png", TURNS))
    return made


def dataset(
    rows: list[dict[str, Any]], folder: Path, branched: float, turns: int = 3, model: DenseConnectorModel | None = None
) -> RowDataset:
    inputs = Pixels(model or tiny_model(), open_pictures(folder))
    return RowDataset(rows, Encoder(FORMATS["chatml"], tokenize), TurnPlan(turns, branched, 0), inputs)


def batch_of(model: DenseConnectorModel, examples: list[Example], data: RowDataset) -> dict[str, torch.Tensor]:
    vision = data.inputs.prepare("0.png")
    return Collator()([dataclasses.replace(example, vision=vision) for example in examples])


def stage(**changes: Any) -> StageConfig:
    base = StageConfig("test", "rows.json", "chatml", 2, 1e-2, steps=4, bf16=False)
    return dataclasses.replace(base, warmup_steps=1, decay_steps=1, log_steps=1, **changes)


def test_only_answers_and_their_end_are_in_the_loss(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    example = dataset(rows, tmp_path, branched=0.0)[0]
    learnt = [WORDS[label] for label in example.labels if label != IGNORED]
    assert learnt == ["red", "<|im_end|>", "a", "blue", "<|im_end|>", "circle", "<|im_end|>"]
    assert sum(example.is_image) == 4


def test_branches_equal_separate_conversations(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Several questions in one sequence: each must be answered as if it were the only one asked."""
    model = tiny_model().eval()
    data = dataset(rows, tmp_path, branched=1.0)
    separate = [data.encoder.conversation([turn], 4) for turn in TURNS]
    with torch.no_grad():
        one = model(**batch_of(model, [data[0]], data))["loss"]
        many = model(**batch_of(model, separate, data))["loss"]
    assert one.item() == pytest.approx(many.item(), abs=1e-5)
    conversation = data.encoder.conversation(TURNS, 4)
    with torch.no_grad():
        leaking = model(**batch_of(model, [conversation], data))["loss"]
    assert abs(leaking.item() - one.item()) > 1e-4  # the mask does something


def test_padding_changes_nothing(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    model = tiny_model().eval()
    data = dataset(rows, tmp_path, branched=0.0)
    short, long = data.encoder.conversation(TURNS[:1], 4), data.encoder.conversation(TURNS, 4)
    with torch.no_grad():
        alone = [model(**batch_of(model, [example], data))["loss"].item() for example in (short, long)]
        both = model(**batch_of(model, [short, long], data))["loss"].item()
    assert both == pytest.approx((2 * alone[0] + 7 * alone[1]) / 9, abs=1e-5)


def test_who_sees_whom() -> None:
    mask = visible(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2, alpha=4, learning_rate=1e-2)])
def test_exactly_the_named_parameters_move(
    lora: LoraSettings | None, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Stage 1 moves the connector alone; stage 2 with LoRA the connector and the adapter."""
    model = tiny_model()
    settings = stage(lora=lora)
    prepare_stage(model, settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, rows, tmp_path, settings, tmp_path / "run")
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    expected = {name for name in before if name.startswith("connector.") or ".lora_" in name}
    assert moved == expected and any(".lora_" in name for name in moved) == (lora is not None)


def train(
    model: DenseConnectorModel,
    rows: list[dict[str, Any]],
    folder: Path,
    settings: StageConfig,
    out: Path,
    loggers: tuple[str, ...] = (),
) -> list[float]:
    data = dataset(rows, folder, settings.branched_share, settings.max_turns, model)
    if settings.cache_features:
        cache = FeatureCache(folder / "cache", model, open_pictures(folder))
        cache.fill(model, [row["image"] for row in rows])
        data.inputs = CachedFeatures(cache, 4)
    recipe = Recipe("test", "dc-tiny", str(out), DataConfig(str(folder)), (settings,), loggers=loggers)
    run_stage(model, data, Collator(tokens_per_tile=4), recipe, settings, out)
    log = json.loads((out / "losses.json").read_text())
    return [entry["loss"] for entry in log if "loss" in entry]


def test_a_run_is_logged_for_tensorboard_with_its_config(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    settings = stage(steps=1, save_steps=1)
    model = tiny_model()
    prepare_stage(model, settings)
    train(model, rows, tmp_path, settings, tmp_path / "run", loggers=("tensorboard",))
    assert list((tmp_path / "run" / "logs").glob("events*"))
    assert ModelConfig.from_dict(json.loads(model.config.to_json_string())) == model.config


def test_a_resumed_run_has_the_same_losses(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill costs nothing but the steps since the last checkpoint."""
    settings = stage(steps=6, save_steps=2, branched_share=0.5, max_turns=2, cache_features=True)
    model = tiny_model()
    prepare_stage(model, settings)
    whole = train(model, rows, tmp_path, settings, tmp_path / "whole")
    import shutil

    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "cut" / "checkpoint-4")
    model = tiny_model()
    prepare_stage(model, settings)
    seen: list[int] = []
    real = RowDataset.__getitem__
    monkeypatch.setattr(RowDataset, "__getitem__", lambda self, index: seen.append(self.epoch) or real(self, index))
    resumed = train(model, rows, tmp_path, settings, tmp_path / "cut")
    assert resumed == pytest.approx(whole, abs=1e-6)
    assert seen == [2] * 4  # two steps of two rows in the third pass: what was done is not done again


def test_recipes_name_what_is_wrong(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "dc-tiny.yaml", ["stages.1.steps=7", "data.seed=3"])
    assert recipe.stages[1].steps == 7 and recipe.data.seed == 3 and recipe.stages[0].lora is None
    for override, expected in {
        "stages.1.stepz=7": "did you mean 'steps'",
        "seed=many": "expected int",
        "sed=1": "did you mean 'seed'",
        "oops": "has no '='",
    }.items():
        with pytest.raises(RecipeError, match=expected):
            load_recipe(RECIPES / "dc-tiny.yaml", [override])
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_rows_out_of_turn_are_named() -> None:
    with pytest.raises(ValueError, match="row '7'.*gpt"):
        turns_of({"id": "7", "conversations": [{"from": "gpt", "value": "hello"}]})


def test_captions_follow_from_answers() -> None:
    """The caption of an easy-VQA picture is told from its answers; a wrong one teaches wrong words."""
    assert caption_from([("what color is the circle?", "red")]) == "a red circle"
    assert caption_from([("is there not a blue shape?", "no"), ("is a triangle present?", "yes")]) == "a blue triangle"
    assert caption_from([("is there a blue shape?", "no"), ("is a triangle present?", "yes")]) is None
