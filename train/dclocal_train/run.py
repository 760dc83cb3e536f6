"""A recipe from start to checkpoint: load the parts, cache features, run each stage, save."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from dclocal.formats import FORMATS
from dclocal_models.answer import tokenize_with
from dclocal_models.registry import lookup
from dclocal_models.vlm import DenseConnectorModel
from dclocal_train.broken import BrokenPictures
from dclocal_train.collate import Collator
from dclocal_train.config import Recipe, StageConfig, to_plain
from dclocal_train.data import Encoder, RowDataset, TurnPlan
from dclocal_train.features import FeatureCache
from dclocal_train.inputs import CachedFeatures, Pixels, VisionInputs
from dclocal_train.pictures import Pictures, open_pictures
from dclocal_train.rows import open_rows
from dclocal_train.stages import prepare_stage
from dclocal_train.start import start_model
from dclocal_train.trained import TRAINED_FILE, load_trained
from dclocal_train.trainer import run_stage

LONGEST_WAIT = timedelta(hours=12)
"""Of the other processes, while the first one trains networks of places or computes features; PyTorch waits half an
hour by itself, and then they fail."""


def train(recipe: Recipe, source_folder: Path | None) -> Path:
    """Train every stage of the recipe that is not yet done; returns the checkpoint's folder.

    Under a launcher of several processes, all run this; the first one writes.
    """
    from accelerate import PartialState
    from transformers import set_seed

    set_seed(recipe.seed)
    state = PartialState(cpu=not _has_gpu(), timeout=LONGEST_WAIT)
    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        (output / "recipe.json").write_text(json.dumps(to_plain(recipe), indent=2) + "\n", encoding="utf-8")
    model, tokenizer = begin(recipe, source_folder)
    for done, stage in enumerate(recipe.stages):
        set_seed(recipe.seed)  # so that a stage starts alike whether the one before it has just run or was done
        prepare_stage(model, stage)
        folder = output / stage.name
        if (folder / TRAINED_FILE).exists():
            print(f"stage {stage.name} is done; taking its weights", file=sys.stderr)
            load_trained(model, folder / TRAINED_FILE)
            continue
        with state.main_process_first():
            dataset = stage_dataset(recipe, stage, model, tokenizer, output / "features")
        print(f"stage {stage.name}: {describe(model)}", file=sys.stderr)
        collate = Collator(
            tokens_per_tile=model.connector.tokens,
            answer_balance=stage.answer_balance,
            keep_language=stage.keep_language,
        )
        sharded = run_stage(model, dataset, collate, recipe, stage, folder)
        _report_broken(dataset.broken)
        if sharded:
            model, tokenizer = trained_model(recipe, source_folder, recipe.stages[: done + 1])
    checkpoint = output / "checkpoint"
    model.config = dataclasses.replace(model.config, provenance={"recipe": to_plain(recipe)})
    if state.is_main_process:
        model.save_pretrained(checkpoint, tokenizer)
    state.wait_for_everyone()
    return checkpoint


def begin(recipe: Recipe, source_folder: Path | None) -> tuple[DenseConnectorModel, Any]:
    """What the first stage starts from: `start_model`'s, with the words that the recipe has it say."""
    from accelerate import PartialState

    from dclocal_train.count_words import fit_count_words
    from dclocal_train.photo_gate import fit_photo_gate
    from dclocal_train.text_words import fit_text_words
    from dclocal_train.thing_words import fit_thing_words

    model, tokenizer = start_model(recipe, source_folder)
    with PartialState().main_process_first():
        if recipe.things is not None:
            fit_thing_words(model, tokenizer, recipe.things, Path(recipe.output), source_folder)
        if recipe.photographs is not None:
            fit_photo_gate(model, recipe.photographs, Path(recipe.output), source_folder)
        if recipe.counts is not None:
            fit_count_words(model, tokenizer, recipe.counts, Path(recipe.output), source_folder)
        if recipe.texts is not None:
            fit_text_words(model, tokenizer, recipe.texts, Path(recipe.output), source_folder)
    return model, tokenizer


def trained_model(
    recipe: Recipe, source_folder: Path | None, stages: Sequence[StageConfig]
) -> tuple[DenseConnectorModel, Any]:
    """The model after these stages, put together anew from what each of them wrote."""
    model, tokenizer = begin(recipe, source_folder)
    for stage in stages:
        prepare_stage(model, stage)
        load_trained(model, Path(recipe.output) / stage.name / TRAINED_FILE)
    return model, tokenizer


def stage_dataset(
    recipe: Recipe,
    stage: StageConfig,
    model: DenseConnectorModel,
    tokenizer: Any,
    features: Path,
    *,
    cached: bool = True,
) -> RowDataset:
    """The stage's rows as a data set of encoded examples; with `cached` false, of pixels in any case."""
    folder = Path(recipe.data.folder)
    prompt = lookup(FORMATS, stage.prompt, "prompt format")
    rows = open_rows(folder / stage.rows)
    encoder = Encoder(prompt, tokenize_with(tokenizer), max_length=stage.max_length)
    plan = TurnPlan(stage.max_turns, stage.branched_share, recipe.seed)
    pictures = open_pictures(folder / stage.images)
    inputs = vision_inputs(stage, model, pictures, rows, features) if cached else Pixels(model, pictures)
    return RowDataset(rows, encoder, plan, inputs, BrokenPictures(stage.max_broken_share))


def vision_inputs(
    stage: StageConfig, model: DenseConnectorModel, pictures: Pictures, rows: Any, features: Path
) -> VisionInputs:
    """Pixels as the run goes, or features that are computed first, with a progress bar."""
    if not stage.cache_features or model.connector.has_parameters or model.config.fit == "anyres":
        return Pixels(model, pictures)
    from tqdm import tqdm

    cache = FeatureCache(features, model, pictures)
    names = [row["image"] for row in rows if "image" in row]
    with tqdm(total=len(dict.fromkeys(names)), desc="vision features", unit="image") as bar:
        cache.fill(model, names, bar.update)
    return CachedFeatures(cache, model.connector.tokens)


def describe(model: DenseConnectorModel) -> str:
    """Trained and frozen parameter counts, in words."""
    trained, frozen = count_parameters(model)
    return f"{trained:,} parameters trained, {frozen:,} frozen"


def count_parameters(model: DenseConnectorModel) -> tuple[int, int]:
    """How many parameters are trained, and how many are frozen."""
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return counts[True], counts[False]


def _report_broken(broken: BrokenPictures) -> None:
    if broken.broken:
        print(f"dclocal: {broken.broken} times a picture could not be read and its row was skipped", file=sys.stderr)


def _has_gpu() -> bool:
    return torch.cuda.is_available()
