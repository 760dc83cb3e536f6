"""A recipe from start to checkpoint: load the pretrained parts, cache features, run each stage, save."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from dclocal.prompt import FORMATS
from dclocal_models.answer import tokenize_with
from dclocal_models.embedded import pretrained_dc_tiny
from dclocal_models.registry import lookup
from dclocal_models.vlm import DenseConnectorModel, save_checkpoint
from dclocal_train.collate import Collator
from dclocal_train.config import Recipe, StageConfig, to_plain
from dclocal_train.data import Encoder, RowDataset, TurnPlan, read_rows
from dclocal_train.features import FeatureCache
from dclocal_train.sources import fetch_sources
from dclocal_train.stages import prepare_stage
from dclocal_train.trainer import TRAINED_FILE, load_trained, run_stage


def train(recipe: Recipe, source_folder: Path | None) -> Path:
    """Train every stage of the recipe that is not yet done; returns the checkpoint's folder."""
    from transformers import set_seed

    set_seed(recipe.seed)
    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.json").write_text(json.dumps(to_plain(recipe), indent=2) + "\n", encoding="utf-8")
    model, tokenizer = start_model(recipe, source_folder)
    cache = FeatureCache(output / "features", model)
    for stage in recipe.stages:
        prepare_stage(model, stage)
        folder = output / stage.name
        if (folder / TRAINED_FILE).exists():
            print(f"stage {stage.name} is done; taking its weights", file=sys.stderr)
            load_trained(model, folder / TRAINED_FILE)
            continue
        dataset = stage_dataset(recipe, stage, model, tokenizer)
        fill_cache(cache, model, dataset)
        print(f"stage {stage.name}: {describe(model)}", file=sys.stderr)
        run_stage(model, dataset, Collator(cache, pad_id=0), recipe, stage, folder)
    checkpoint = output / "checkpoint"
    model.config = dataclasses.replace(model.config, provenance={"recipe": to_plain(recipe)})
    save_checkpoint(model, tokenizer, checkpoint)
    return checkpoint


def start_model(recipe: Recipe, source_folder: Path | None) -> tuple[DenseConnectorModel, Any]:
    """The untrained model that the recipe starts from."""
    starts = {"dc-tiny": _start_dc_tiny}
    return lookup(starts, recipe.start, "start")(source_folder)


def _start_dc_tiny(source_folder: Path | None) -> tuple[DenseConnectorModel, Any]:
    sources = fetch_sources(("vit", "conv", "llm"), source_folder)
    return pretrained_dc_tiny(sources["vit"], sources["conv"], sources["llm"], dtype=torch.bfloat16)


def stage_dataset(recipe: Recipe, stage: StageConfig, model: DenseConnectorModel, tokenizer: Any) -> RowDataset:
    """The stage's rows as a data set of encoded examples."""
    folder = Path(recipe.data.folder)
    prompt = lookup(FORMATS, stage.prompt, "prompt format")
    encoder = Encoder(prompt, tokenize_with(tokenizer), model.connector.tokens, placeholder=0)
    plan = TurnPlan(stage.max_turns, stage.branched_share, recipe.seed)
    return RowDataset(read_rows(folder / stage.rows), folder, encoder, plan)


def fill_cache(cache: FeatureCache, model: DenseConnectorModel, dataset: RowDataset) -> None:
    """Compute the vision features that are missing, with a progress bar."""
    from tqdm import tqdm

    images = [dataset.image_folder / row["image"] for row in dataset.rows if "image" in row]
    with tqdm(total=len(images), desc="vision features", unit="image") as bar:
        cache.fill(model, images, bar.update)


def describe(model: DenseConnectorModel) -> str:
    """Trained and frozen parameter counts, in words."""
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return f"{counts[True]:,} parameters trained, {counts[False]:,} frozen"
