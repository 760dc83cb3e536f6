"""The paper's ablation in miniature: baseline, STI, SCI and DCI at 576 and at 144 tokens, several seeds each.

`python -m dclocal_train.ablation --out runs/ablation` makes the data, looks at every picture once with the
embedded default's vision transformer, trains a very small language model from scratch with each connector on the
same budget, and writes one line a run to `results.jsonl`; run again to go on where it stopped.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from dclocal.formats import FORMATS
from dclocal.images import load_image, to_pixels
from dclocal_models.connectors import Connector, ConnectorConfig
from dclocal_models.embedded import DC_TINY, vit_state_dict
from dclocal_models.layers import FULL_GRID
from dclocal_models.vision import Dinov2Backbone
from dclocal_models.vlm import DenseConnectorModel, ModelConfig
from dclocal_train.collate import Collator
from dclocal_train.config import DataConfig, Recipe, StageConfig
from dclocal_train.data import IGNORED, Encoder, RowDataset, TurnPlan
from dclocal_train.precision import autocast
from dclocal_train.sources import fetch_sources
from dclocal_train.stages import prepare_stage
from dclocal_train.synthetic import easy_vqa, shapes
from dclocal_train.trainer import run_stage

LAYERS = (3, 7)  # thirds of twelve, as the paper's 8, 16 and 24 are of twenty-four
CONNECTORS = {
    "baseline": ConnectorConfig(kind="baseline"),
    "sti": ConnectorConfig(kind="sti", layers=LAYERS),
    "sci": ConnectorConfig(kind="sci", layers=LAYERS),
    "dci": ConnectorConfig(kind="dci"),
}
GRIDS: dict[int, tuple[int, int]] = {576: FULL_GRID, 144: (12, 12)}
VISION = replace(DC_TINY.vision, backbone="dinov2")
STORED = 5  # per token: the final layer, the two of LAYERS, the two group means
PICTURES = {"train": 900, "test": 250}  # of each of the two sets
TURNS, BATCH = 6, 12
SPECIALS = ("<pad>", "<|im_start|>", "<|im_end|>", "\n", "user", "assistant")


class Layers:
    """The hidden states that the four connectors need, float16 on disk: `[pictures, 576, STORED·width]`."""

    def __init__(self, file: Path, names: Sequence[str], width: int):
        self.file, self.width = file, width
        self.places = {name: index for index, name in enumerate(names)}
        self.shape = (len(names), 576, STORED * width)

    def fill(self, backbone: Dinov2Backbone, folder: Path) -> None:
        """Look at every picture, unless that was done."""
        done = self.file.with_suffix(".done")
        if done.exists():
            return
        from tqdm import tqdm

        table = np.memmap(self.file, np.float16, "w+", shape=self.shape)
        spec = image_spec_of(VISION.image_size)
        for name, place in tqdm(self.places.items(), desc="vision features", unit="image"):
            pixels = torch.from_numpy(to_pixels([load_image(folder / name)], spec))
            with torch.no_grad(), autocast():
                states = [state.float() for state in backbone(pixels).hidden_states]
            means = [torch.stack(states[start : start + 6]).mean(0) for start in (0, 6)]
            kept = torch.cat([states[11], *(states[layer] for layer in LAYERS), *means], dim=-1)
            table[place] = kept[0].half().numpy()
        table.flush()
        done.touch()

    def dense(self, name: str, connector: Connector) -> Tensor:
        """What the connector's `integrate` yields for a picture, `[1, dense_tokens, dense_width]`."""
        table = np.memmap(self.file, np.float16, "r", shape=self.shape)
        final, first, second, *means = torch.from_numpy(np.array(table[self.places[name]]))[None].split(self.width, -1)
        if connector.config.kind == "dci":
            return torch.cat([final, *means], dim=-1).float()
        states: dict[int, Tensor] = {11: final.float(), 3: first.float(), 7: second.float()}
        return connector.integrate(states)  # type: ignore[arg-type]


class StoredInputs:
    """`VisionInputs` out of Layers."""

    def __init__(self, layers: Layers, connector: Connector):
        self.layers, self.connector = layers, connector

    def prepare(self, name: str) -> dict[str, Tensor]:
        return {"dense": self.layers.dense(name, self.connector)}

    def tokens(self, vision: dict[str, Tensor]) -> int:
        return self.connector.tokens


def image_spec_of(size: int) -> Any:
    """How the pictures are prepared: as dc-tiny's."""
    from dclocal.bundle import ImageSpec

    return ImageSpec(size=size, fit="pad", mean=VISION.image_mean, std=VISION.image_std)


def build_rows(folder: Path, sources: Path | None) -> dict[str, list[dict[str, Any]]]:
    """Train and test rows: easy-VQA pictures (of its train split, parted here) and scenes of several shapes."""
    wheel = fetch_sources(("easy_vqa",), sources)["easy_vqa"]
    total = PICTURES["train"] + PICTURES["test"]
    _, easy = easy_vqa.build(wheel, folder, pictures=total, seed=0)
    rows = {"train": easy[: PICTURES["train"]], "test": easy[PICTURES["train"] :]}
    for seed, split in enumerate(PICTURES):
        rows[split] = rows[split] + shapes.build(folder, scenes=PICTURES[split], seed=seed)
    return {split: [_one_word(row) for row in found] for split, found in rows.items()}


def _one_word(row: dict[str, Any]) -> dict[str, Any]:
    """The row's questions with answers of one word, so that an answer is one token, right or wrong; not those that
    count, which so small a model does not learn within the budget."""
    turns = row["conversations"]
    pairs = [
        pair
        for pair in zip(turns[::2], turns[1::2])
        if " " not in pair[1]["value"] and "how many" not in pair[0]["value"]
    ]
    return {**row, "conversations": [turn for pair in pairs for turn in pair]}


class Words:
    """A tokenizer of whole words, out of the rows."""

    def __init__(self, rows: Sequence[dict[str, Any]]):
        words = {word for row in rows for turn in row["conversations"] for word in _split(turn["value"])}
        self.ids = {word: index for index, word in enumerate([*SPECIALS, *sorted(words - set(SPECIALS))])}

    def __call__(self, text: str, parse_special: bool) -> list[int]:
        return [self.ids[text]] if parse_special else [self.ids[word] for word in _split(text)]


def _split(text: str) -> list[str]:
    import re

    return re.findall(r"\n|\w+|[^\w\s]", text.replace("<image>", "").lower())


def small_llm(vocabulary: int) -> Any:
    """Two layers of width 128, from scratch; initialized widely, or it takes thousands of steps to look at all."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config)


def run_one(kind: str, tokens: int, seed: int, steps: int, data: Any, out: Path) -> dict[str, Any]:
    """Train and test one connector with one seed."""
    rows, words, layers = data
    torch.manual_seed(seed)
    config = ModelConfig(VISION, replace(CONNECTORS[kind], token_grid=GRIDS[tokens]))
    model = DenseConnectorModel(config, small_llm(len(words.ids)))
    stage = StageConfig(
        name="train",
        rows="",
        prompt="chatml",
        batch_size=BATCH,
        connector_learning_rate=1e-3,
        llm_learning_rate=1e-3,
        steps=steps,
        warmup_steps=steps // 20,
        schedule="cosine",
        max_turns=TURNS,
        branched_share=1.0,
        save_steps=steps + 1,
        log_steps=25,
    )
    prepare_stage(model, stage)
    encoder = Encoder(FORMATS["chatml"], words)
    dataset = RowDataset(rows["train"], encoder, TurnPlan(TURNS, 1.0, seed), StoredInputs(layers, model.connector))
    recipe = Recipe("ablation", "dc-tiny", str(out), DataConfig(str(out)), (stage,), seed=seed, loggers=())
    started = time.perf_counter()
    run_stage(model, dataset, Collator(), recipe, stage, out / f"{kind}-{tokens}-{seed}")
    trained_s = time.perf_counter() - started
    scores = evaluate(model, rows["test"], encoder, layers)
    losses = json.loads((out / f"{kind}-{tokens}-{seed}" / "losses.json").read_text(encoding="utf-8"))
    last = [entry["loss"] for entry in losses if "loss" in entry][-4:]
    return {
        "connector": kind,
        "tokens": model.connector.tokens,
        "grid": tokens,
        "seed": seed,
        "steps": steps,
        "train_s": round(trained_s, 1),
        "loss": round(sum(last) / max(1, len(last)), 4),
        **scores,
    }


@torch.inference_mode()
def evaluate(model: DenseConnectorModel, rows: Sequence[Any], encoder: Encoder, layers: Layers) -> dict[str, float]:
    """Share of test questions whose first answer token is the right one, per set and kind of question."""
    model.eval()
    inputs = StoredInputs(layers, model.connector)
    plan = TurnPlan(100, 1.0, 0)
    right: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        example = RowDataset([row], encoder, plan, inputs)[0]
        batch = Collator()([example])
        labels = batch.pop("labels")[0]
        with autocast():
            logits = model(**batch)["logits"][0]
        answers = [i for i in range(1, len(labels)) if labels[i] != IGNORED and labels[i - 1] == IGNORED]
        for place, turn in zip(answers, row["conversations"][::2], strict=True):
            correct = bool(logits[place - 1].argmax() == labels[place])
            right["easy" if row["id"].startswith("easy") else "scenes"].append(correct)
            if not row["id"].startswith("easy"):
                right[question_kind(turn["value"])].append(correct)
    return {name: round(100 * sum(found) / len(found), 2) for name, found in sorted(right.items())}


def question_kind(question: str) -> str:
    """What a question about a scene is about."""
    text = question.replace("<image>", "").strip()
    for start, kind in (("what color", "colour"), ("is there", "existence")):
        if text.startswith(start):
            return kind
    return "size" if "small or large" in text else "place"


def blind(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """What the question alone allows: for each question the answer most frequent in training."""
    seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    right: dict[str, list[bool]] = defaultdict(list)
    for split in ("train", "test"):
        for row in rows[split]:
            turns = [turn["value"].replace("<image>", "").strip() for turn in row["conversations"]]
            for question, answer in zip(turns[::2], turns[1::2]):
                if split == "train":
                    seen[question][answer] += 1
                    continue
                counts = seen.get(question) or {"": 0}
                right["easy" if row["id"].startswith("easy") else "scenes"].append(
                    max(counts, key=lambda word: counts[word]) == answer
                )
    return {name: round(100 * sum(found) / len(found), 2) for name, found in right.items()}


@click.command(epilog="Example: python -m dclocal_train.ablation --out runs/ablation --seeds 3")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/ablation"), show_default=True)
@click.option("--seeds", default=3, show_default=True, help="How often each is trained.")
@click.option("--steps", default=300, show_default=True, help="Steps of each run.")
@click.option("--sources", type=click.Path(path_type=Path), help="A folder with the packages.")
def main(out: Path, seeds: int, steps: int, sources: Path | None) -> None:
    """Train every connector at both token counts with every seed, and write results.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    rows = build_rows(out / "data", sources)
    names = [row["image"] for split in rows.values() for row in split]
    layers = Layers(out / "layers.f16", names, VISION.tower["hidden_size"])
    backbone = Dinov2Backbone(VISION).eval()
    vit = fetch_sources(("vit",), sources)["vit"]
    backbone.tower.load_state_dict(vit_state_dict(vit, backbone.grid))
    layers.fill(backbone, out / "data")
    (out / "blind.json").write_text(json.dumps(blind(rows)), encoding="utf-8")
    results = out / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    finished = {(run["connector"], run["grid"], run["seed"], run["steps"]) for run in done}
    plan = [(kind, grid, seed) for seed in range(seeds) for grid in GRIDS for kind in CONNECTORS]
    random.Random(0).shuffle(plan)  # whatever else the machine does falls on all alike
    words = Words(rows["train"] + rows["test"])
    for kind, grid, seed in plan:
        if (kind, grid, seed, steps) in finished:
            continue
        result = run_one(kind, grid, seed, steps, (rows, words, layers), out)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
