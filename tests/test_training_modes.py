"""What can be trained and how: if these fail, the wrong weights move, or a long run dies of one bad picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dclocal.formats import FORMATS
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.broken import BrokenPictures, TooManyBroken
from dclocal_train.collate import Collator, balanced
from dclocal_train.config import DataConfig, LoraSettings, Recipe, RecipeError, StageConfig
from dclocal_train.data import Encoder, RowDataset, TurnPlan
from dclocal_train.inputs import Pixels
from dclocal_train.pictures import open_pictures
from dclocal_train.sampler import LengthGroupedSampler, row_length
from dclocal_train.stages import make_optimizer, parameter_groups, prepare_stage
from dclocal_train.synthetic.rows import conversation_row
from dclocal_train.trainer import accumulation_steps, run_stage, stage_steps
from tests.tiny import tiny_config, tiny_llm, tiny_model, tokenize

LORA = LoraSettings(rank=2, alpha=4, learning_rate=1e-2)


def stage(**changes: Any) -> StageConfig:
    base = StageConfig("test", "rows.json", "chatml", 2, 1e-2, steps=2, bf16=False, warmup_steps=0, decay_steps=1)
    return dataclasses.replace(base, log_steps=1, **changes)


def make_rows(folder: Path, count: int = 4) -> list[dict[str, Any]]:
    made = []
    for index in range(count):
        Image.new("RGB", (60, 40 + index), (index * 60, 90, 30)).save(folder / f"{index}.png")
        made.append(conversation_row(str(index), f"{index}.png", [("what circle?", "red"), ("is a circle?", "blue")]))
    return made


def anyres_model() -> DenseConnectorModel:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config(), fit="anyres", pinpoints=((56, 112), (112, 56), (112, 112)))
    return DenseConnectorModel(config, tiny_llm())


def train(
    model: DenseConnectorModel, rows: list[dict[str, Any]], folder: Path, settings: StageConfig, **options: Any
) -> RowDataset:
    inputs = Pixels(model, open_pictures(folder))
    encoder = Encoder(FORMATS["chatml"], tokenize)
    data = RowDataset(rows, encoder, TurnPlan(9, settings.branched_share, 0), inputs, **options)
    recipe = Recipe("test", "dc-tiny", str(folder), DataConfig(str(folder)), (settings,), loggers=())
    run_stage(model, data, Collator(tokens_per_tile=model.connector.tokens), recipe, settings, folder / "run")
    return data


MODES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ("connector.",)),
    ({"llm_learning_rate": 1e-2}, ("connector.", "llm.")),
    ({"llm_learning_rate": 1e-2, "gradient_checkpointing": True}, ("connector.", "llm.")),
    ({"vision_learning_rate": 1e-2}, ("connector.", "vision.")),
    ({"lora": LORA, "vision_learning_rate": 1e-2}, ("connector.", "vision.", "lora")),
    ({"lora": LORA, "optimizer": "adamw_8bit"}, ("connector.", "lora")),
]
UNUSED = ("vision.tower.layernorm.", "vision.tower.embeddings.mask_token")
"""The tower's final norm is not in the path: every integrated state lies before it."""


@pytest.mark.parametrize(("changes", "parts"), MODES)
def test_exactly_the_named_parameters_move(changes: dict[str, Any], parts: tuple[str, ...], tmp_path: Path) -> None:
    """After the steps of a stage, these parts have moved, every tensor of them, and no other."""
    model = tiny_model()
    settings = stage(**changes)
    prepare_stage(model, settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, make_rows(tmp_path), tmp_path, settings)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    expected = {
        name
        for name in before
        if (".lora_" in name if name.startswith("llm.") and "lora" in parts else name.startswith(parts))
        and not name.startswith(UNUSED)
    }
    assert moved == expected


@pytest.mark.parametrize("kind", ["sti_conv", "sci_conv", "dci_linear"])
def test_variants_learn_their_own_parameters(kind: str, tmp_path: Path) -> None:
    """The appendix variants' convolution or Linear must not be left at its random start."""
    layers = () if kind == "dci_linear" else (1, 2)
    model = tiny_model(kind=kind, layers=layers)
    prepare_stage(model, stage())
    before = {name: tensor.clone() for name, tensor in model.connector.state_dict().items()}
    train(model, make_rows(tmp_path), tmp_path, stage())
    still = [name for name, tensor in model.connector.state_dict().items() if torch.equal(before[name], tensor)]
    assert len(before) > 4 and still == []


def test_anyres_pictures_train_the_newline(tmp_path: Path) -> None:
    """Pictures of several sizes in one batch, each with its own count of tokens."""
    model = anyres_model()
    prepare_stage(model, stage())
    before = model.image_newline.detach().clone()
    rows = make_rows(tmp_path)
    Image.new("RGB", (110, 110), "red").save(tmp_path / "1.png")
    data = train(model, rows, tmp_path, stage())
    assert not torch.equal(before, model.image_newline)
    lengths = [sum(data[index].is_image) for index in (0, 1)]
    assert lengths[0] != lengths[1] and all(length > 4 for length in lengths)


def test_anyres_batches_put_each_pictures_tokens_in_its_own_place(tmp_path: Path) -> None:
    """The loss of two pictures together is that of each alone: no token of one lies in the other."""
    model = anyres_model().eval()
    rows = make_rows(tmp_path, 2)
    Image.new("RGB", (110, 110), "red").save(tmp_path / "1.png")
    encoder = Encoder(FORMATS["chatml"], tokenize)
    data = RowDataset(rows, encoder, TurnPlan(9, 0.0, 0), Pixels(model, open_pictures(tmp_path)))
    collate = Collator(tokens_per_tile=model.connector.tokens)
    with torch.no_grad():
        alone = [model(**collate([data[index]]))["loss"].item() for index in (0, 1)]
        both = model(**collate([data[0], data[1]]))["loss"].item()
    assert both == pytest.approx(sum(alone) / 2, abs=1e-5)


def test_text_rows_train_beside_pictures(tmp_path: Path) -> None:
    """A batch without a picture reaches the connector with a gradient of zero, so that processes stay in step."""
    model = tiny_model()
    prepare_stage(model, stage(llm_learning_rate=1e-2))
    model.train()
    example = Encoder(FORMATS["chatml"], tokenize).conversation([("what?", "red")])
    model(**Collator()([example]))["loss"].backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.connector.parameters())


def test_a_loss_over_parts_is_the_loss_of_the_whole(tmp_path: Path) -> None:
    """Accumulated batches weigh every answer token alike, however they are cut."""
    model = tiny_model().eval()
    rows = make_rows(tmp_path)
    rows[0]["conversations"] = rows[0]["conversations"][:2]
    encoder = Encoder(FORMATS["chatml"], tokenize)
    data = RowDataset(rows, encoder, TurnPlan(9, 0.0, 0), Pixels(model, open_pictures(tmp_path)))
    collate, examples = Collator(), [data[index] for index in range(4)]
    with torch.no_grad():
        whole = model(**collate(examples))["loss"].item()
        labels = sum(label != -100 for example in examples for label in example.labels)
        parts = [
            model(**collate(part), num_items_in_batch=labels)["loss"].item() for part in (examples[:1], examples[1:])
        ]
    assert sum(parts) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(("balance", "each"), [(0.0, [1, 3, 2]), (1.0, [2, 2, 2]), (0.5, [1.45, 2.51, 2.05])])
def test_answers_are_balanced_by_their_length(balance: float, each: list[float]) -> None:
    """Of answers of 1, 3 and 2 tokens, the second at its row's end and the third at the next one's start."""
    labels = torch.tensor([[-100, 7, -100, 7, 7, 7], [7, 7, -100, -100, -100, -100]])
    weights = balanced(labels, balance)
    assert [weights[0, 1], weights[0, 3:].sum(), weights[1, :2].sum()] == pytest.approx(each, abs=0.01)
    assert weights[labels == -100].abs().sum() == 0
    assert weights.sum() == pytest.approx(6)


def test_each_part_has_its_own_rate() -> None:
    """REFERENCE: a fine-tuned ViT has its own rate, 2e-6."""
    model = tiny_model()
    settings = stage(llm_learning_rate=2e-5, vision_learning_rate=2e-6)
    prepare_stage(model, settings)
    rates = {group["lr"]: len(group["params"]) for group in parameter_groups(model, settings)}
    assert set(rates) == {1e-2, 2e-5, 2e-6} and rates[1e-2] == 4
    optimizer = make_optimizer(model, dataclasses.replace(settings, optimizer="adamw_8bit"))
    assert type(optimizer).__module__.startswith("bitsandbytes")


def test_trained_weights_are_float32_whatever_the_rest_is() -> None:
    """A step of 2e-5 is lost in bfloat16."""
    model = tiny_model().to(torch.bfloat16)
    prepare_stage(model, stage(llm_learning_rate=2e-5))
    kinds = {name.partition(".")[0]: parameter.dtype for name, parameter in model.named_parameters()}
    assert kinds == {"vision": torch.bfloat16, "connector": torch.float32, "llm": torch.float32}


def test_a_broken_picture_is_skipped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One truncated file must not end a run of days."""
    rows = make_rows(tmp_path)
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    model = tiny_model()
    prepare_stage(model, stage())
    data = train(model, rows, tmp_path, stage(steps=4), broken=BrokenPictures(1.0))
    assert data.broken.broken == 2  # twice in two passes
    assert "skipped 2.png" in capsys.readouterr().err
    assert data[2].ids == data[3].ids


def test_too_many_broken_pictures_stop_the_run() -> None:
    """A wrong folder would otherwise train on nothing for hours."""
    broken = BrokenPictures(max_share=0.1)
    for _ in range(90):
        broken.count_good()
    for _ in range(10):
        broken.count("x.png", ValueError("gone"))
    with pytest.raises(TooManyBroken, match="11 of 101.*x.png"):
        broken.count("x.png", ValueError("gone"))


def test_batches_are_of_one_kind_and_like_length() -> None:
    """Every row once; a batch has pictures or has none; padding is far less than by chance."""
    rows = [
        {"conversations": [{"value": "w " * (1 + index * 7 % 97)}], **({"image": "x"} if index % 3 else {})}
        for index in range(605)
    ]
    lengths = [row_length(row) for row in rows]
    sampler = LengthGroupedSampler(lengths, batch=8, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(605)) and order == list(sampler)
    batches = [[lengths[index] for index in order[start : start + 8]] for start in range(0, 592, 8)]
    assert all(len({length > 0 for length in batch}) == 1 for batch in batches)

    def padded(order: list[int]) -> int:
        parts = [[abs(lengths[index]) for index in order[start : start + 8]] for start in range(0, 605, 8)]
        return sum(max(part) * len(part) - sum(part) for part in parts)

    assert padded(order) < 0.2 * padded(torch.randperm(605).tolist())
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_steps_and_accumulation_follow_from_the_recipe() -> None:
    """The paper's stage 1: 558,128 rows at a global batch of 256 are 2,181 steps, on 8 GPUs or 2."""
    paper = stage(global_batch=256, batch_size=32)
    paper = dataclasses.replace(paper, steps=None, epochs=1.0)
    assert [accumulation_steps(paper, gpus) for gpus in (8, 2, 1)] == [1, 4, 8]
    assert stage_steps(paper, 558_128, 256) == 2181
    with pytest.raises(RecipeError, match="no multiple of 3 processes"):
        accumulation_steps(paper, 3)
    with pytest.raises(RecipeError, match="lora and llm_learning_rate"):
        stage(lora=LORA, llm_learning_rate=1e-5)
    with pytest.raises(RecipeError, match="schedule"):
        stage(schedule="linear")
