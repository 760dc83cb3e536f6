"""Rows without a picture teach what the language model says by itself: if these fail, it forgets how to talk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dclocal.formats import FORMATS
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.collate import Collator
from dclocal_train.config import LoraSettings, RecipeError
from dclocal_train.data import IGNORED, Encoder, RowDataset, TurnPlan
from dclocal_train.inputs import Pixels
from dclocal_train.pictures import open_pictures
from dclocal_train.stages import prepare_stage
from tests.test_fake_quant import rounded_model
from tests.test_training_modes import make_rows, stage
from tests.tiny import tokenize

ENCODER = Encoder(FORMATS["chatml"], tokenize)
TEXT = [ENCODER.conversation([("what is a circle?", "a red circle")]), ENCODER.conversation([("what?", "blue")])]


def lora_model(rounded: str | None, moved: float) -> DenseConnectorModel:
    model = rounded_model()
    lora = LoraSettings(4, 8, 1e-2, rounded=rounded, target_modules=("gate_proj", "o_proj"))
    prepare_stage(model, stage(lora=lora, keep_language=1.0))
    torch.manual_seed(2)
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=moved) if moved else None
    return model


def answered(model: DenseConnectorModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities at every labelled position of text rows, and the labels."""
    asked = {key: value for key, value in batch.items() if key not in ("labels", "from_base")}
    with torch.no_grad():
        logits = model(**asked)["logits"][:, :-1]
    labels = batch["labels"][:, 1:]
    return logits[labels != IGNORED].log_softmax(-1), labels[labels != IGNORED]


@pytest.mark.parametrize("rounded", [None, "q4_0"])
def test_the_loss_is_the_divergence_from_the_model_without_its_lora(rounded: str | None) -> None:
    model = lora_model(rounded, moved=0.3).eval()
    batch = Collator(keep_language=1.0)(TEXT)
    said, _ = answered(model, batch)
    meant, _ = answered(rounded_model().eval(), batch)
    expected = (meant.exp() * (meant - said)).sum(-1).mean()
    assert expected > 1e-4
    torch.testing.assert_close(model(**batch)["loss"], expected, atol=1e-6, rtol=1e-4)


def test_what_has_not_moved_has_nothing_to_learn() -> None:
    model, batch = lora_model(None, moved=0).eval(), Collator(keep_language=1.0)(TEXT)
    assert model(**batch)["loss"].item() == pytest.approx(0, abs=1e-6)


def test_pictures_teach_their_answers_as_ever(tmp_path: Path) -> None:
    """In a batch of both: the answers of pictures and the divergence of texts, each token counting alike."""
    model = lora_model(None, moved=0.3).eval()
    data = RowDataset(make_rows(tmp_path), ENCODER, TurnPlan(9, 0.0, 0), Pixels(model, open_pictures(tmp_path)))
    pictures = [data[0], data[1]]
    counts = [sum(label != IGNORED for example in part for label in example.labels) for part in (pictures, TEXT)]
    with torch.no_grad():
        both = model(**Collator(keep_language=1.0)([pictures[0], TEXT[0], pictures[1], TEXT[1]]))["loss"].item()
        shown = model(**Collator()(pictures))["loss"].item()
        told = model(**Collator(keep_language=1.0)(TEXT))["loss"].item()
        louder = model(**Collator(keep_language=3.0)(TEXT))["loss"].item()
    assert louder == pytest.approx(3 * told, rel=1e-5)
    assert both == pytest.approx((counts[0] * shown + counts[1] * told) / sum(counts), abs=1e-5)


def test_gradients_reach_the_adapter_and_nothing_else() -> None:
    model = lora_model("q4_0", moved=0.3)
    model.train()
    model(**Collator(keep_language=1.0)(TEXT))["loss"].backward()
    moving = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert moving and all(".lora_" in name for name in moving)


def test_without_lora_there_is_nothing_to_keep() -> None:
    with pytest.raises(RecipeError, match="keep_language without lora"):
        stage(keep_language=1.0)
