"""Training by the command line, in one process and in several: the same rows must give the same model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from dclocal_train.synthetic.rows import conversation_row, write_rows
from tests.tiny import tiny_model, tiny_tokenizer

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe that starts from a tiny checkpoint: pictures and text rows of unlike length, LoRA, accumulation."""
    from PIL import Image

    tiny_model().save_pretrained(tmp_path / "start", tiny_tokenizer())
    rows = []
    for index in range(24):
        Image.new("RGB", (60, 40 + index), (index * 10, 90, 30)).save(tmp_path / f"{index}.png")
        turns = [("what circle ?", "red"), ("is a circle ?", "blue a red")][: 1 + index % 2]
        row = conversation_row(str(index), f"{index}.png", turns)
        if index % 6 == 5:
            del row["image"]
        rows.append(row)
    write_rows(tmp_path / "rows.json", rows)
    stage = {
        "name": "one",
        "rows": "rows.json",
        "prompt": "chatml",
        "batch_size": 4,
        "global_batch": 8,
        "steps": 5,
        "connector_learning_rate": 0.01,
        "lora": {"rank": 2, "alpha": 4, "learning_rate": 0.01},
        "bf16": False,
        "warmup_steps": 1,
        "decay_steps": 1,
        "branched_share": 0.0,
        "log_steps": 1,
        "save_steps": 2,
    }
    return {
        "name": "test",
        "start": str(tmp_path / "start"),
        "output": "",
        "data": {"folder": str(tmp_path)},
        "stages": [stage],
        "loggers": [],
    }


def run(arguments: list[str], recipe: dict[str, Any], out: Path, **stage: Any) -> list[dict[str, Any]]:
    """The log of one training run, made by its own process or processes."""
    command = [sys.executable, *arguments, *prepared(recipe, out, **stage)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [entry for entry in json.loads((out / "one" / "losses.json").read_text()) if "loss" in entry]


def prepared(recipe: dict[str, Any], out: Path, **stage: Any) -> list[str]:
    file = out.with_suffix(".yaml")
    changed = {**recipe, "output": str(out), "stages": [{**recipe["stages"][0], **stage}]}
    file.write_text(yaml.safe_dump(changed))
    return ["train", str(file)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.mark.parametrize("changes", [{}, {"group_by_length": True, "keep_language": 2.0}])
def test_two_processes_train_as_one(recipe: dict[str, Any], tmp_path: Path, changes: dict[str, float]) -> None:
    """The same global batch gives the same losses and the same weights, whoever computes which part of it."""
    one = run(["-m", "dclocal"], recipe, tmp_path / "single", **changes)
    two = run([*TWO, "-m", "dclocal"], recipe, tmp_path / "double", batch_size=2, **changes)
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=2e-4)
    assert len(one) == 5 and one[0]["rows_per_s"] > 0
    alone = load_file(tmp_path / "single" / "one" / "trained.safetensors")
    together = load_file(tmp_path / "double" / "one" / "trained.safetensors")
    assert alone.keys() == together.keys() and len(alone) > 4
    for name, tensor in alone.items():
        assert (tensor - together[name]).abs().max() < 2e-4, name
    assert (tmp_path / "double" / "checkpoint" / "config.json").is_file()


@pytest.mark.parametrize(("seconds", "fails"), [(5, True), (60, False)])
def test_others_wait_as_long_as_they_are_told_for_the_first_process(
    recipe: dict[str, Any], tmp_path: Path, seconds: int, fails: bool
) -> None:
    """PyTorch's half an hour is too short for features of many pictures; here they wait for twelve seconds' work."""
    script = tmp_path / "slow_first.py"
    script.write_text(
        f"""
import datetime, os, time
import dclocal_train.run as run
from dclocal.cli import main
run.LONGEST_WAIT = datetime.timedelta(seconds={seconds})
make = run.stage_dataset
run.stage_dataset = lambda *all: (time.sleep(12 if os.environ["RANK"] == "0" else 0), make(*all))[1]
main()
"""
    )
    command = [sys.executable, *TWO, str(script), *prepared(recipe, tmp_path / "out", steps=1, batch_size=2)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), check=False)
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    assert ("timed out" in done.stderr.lower()) == fails


def test_a_killed_run_goes_on_to_the_same_losses(recipe: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL in the middle; the same command again ends where an undisturbed run ends."""
    whole = run(["-m", "dclocal"], recipe, tmp_path / "whole", steps=40)
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "dclocal", *prepared(recipe, out, steps=40)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 120
    while not list(out.glob("one/checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "one" / "trained.safetensors").exists(), "it ended before it could be killed"
    again = run(["-m", "dclocal"], recipe, out, steps=40)
    assert [entry["loss"] for entry in again] == pytest.approx([entry["loss"] for entry in whole], abs=2e-4)


def test_two_processes_go_on_where_they_stopped(recipe: dict[str, Any], tmp_path: Path) -> None:
    """From their newest checkpoint with the optimizer's state, to the losses of a run that was not stopped."""
    whole = run([*TWO, "-m", "dclocal"], recipe, tmp_path / "run", batch_size=2)
    (tmp_path / "run" / "one" / "trained.safetensors").unlink()
    shutil.rmtree(tmp_path / "run" / "one" / "checkpoint-5")
    assert (tmp_path / "run" / "one" / "checkpoint-4").is_dir()
    again = run([*TWO, "-m", "dclocal"], recipe, tmp_path / "run", batch_size=2)
    assert [entry["loss"] for entry in again] == pytest.approx([entry["loss"] for entry in whole], abs=2e-4)


def test_shards_are_left_behind_after_each_stage(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where processes held the model in shards, the next stage and the checkpoint start from what was written:
    the same model comes out, and nothing of the sharded one is used again."""
    import torch

    from dclocal_train import run as module
    from dclocal_train.config import load_recipe

    stages = [{**recipe["stages"][0], "name": name, "steps": 3} for name in ("one", "two")]
    del stages[0]["lora"]
    checkpoints = []
    for sharded in (False, True):
        out = tmp_path / f"sharded-{sharded}"
        file = tmp_path / f"{sharded}.yaml"
        file.write_text(yaml.safe_dump({**recipe, "output": str(out), "stages": stages}))
        real = module.run_stage

        def ruined(model: Any, *others: Any, real: Any = real, sharded: bool = sharded) -> bool:
            real(model, *others)
            for parameter in model.parameters() if sharded else ():
                torch.nn.init.zeros_(parameter)
            return sharded

        with monkeypatch.context() as patch:
            patch.setattr(module, "run_stage", ruined)
            checkpoints.append(module.train(load_recipe(file), None))
    for name in ("connector.safetensors", "vision.safetensors", "adapter/adapter_model.safetensors"):
        whole, rebuilt = (load_file(folder / name) for folder in checkpoints)
        for key, tensor in whole.items():
            assert torch.equal(tensor, rebuilt[key]) and tensor.any() == rebuilt[key].any(), key


def test_qlora_trains_and_saves_what_it_trained_on(recipe: dict[str, Any], tmp_path: Path) -> None:
    """4-bit NF4 base, LoRA, 8-bit optimizer, gradient checkpointing, by the command line; the checkpoint opens
    without bitsandbytes and holds the very weights that the adapter was trained on."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from dclocal_models.vlm import DenseConnectorModel
    from tests.tiny import TOWER

    start = tmp_path / "start" / "llm"
    config = AutoModelForCausalLM.from_pretrained(start).config
    keys = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
    vision = {"backbone": "dinov2", "image_size": 56, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "tower": TOWER}
    described = {
        "vision": vision,
        "llm": {
            "config": {key: getattr(config, key) for key in keys},
            "pretrained": str(start),
            "load_in_4bit": True,
        },
        "connector": {"kind": "dci"},
        "prompt": "chatml",
    }
    recipe = {**recipe, "start": "model", "model": described}
    losses = run(
        ["-m", "dclocal"], recipe, tmp_path / "qlora", optimizer="adamw_8bit", gradient_checkpointing=True, steps=12
    )
    assert losses[-1]["loss"] < losses[0]["loss"]
    model, _ = DenseConnectorModel.from_pretrained(tmp_path / "qlora" / "checkpoint")
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    quantized = AutoModelForCausalLM.from_pretrained(start, quantization_config=nf4, dtype=torch.float32)
    ids = torch.arange(6)[None]
    with model.llm.disable_adapter():  # not under no_grad: bitsandbytes' CPU kernel wants wider layers than these
        found, expected = model.llm(ids).logits, quantized(ids).logits
    full = AutoModelForCausalLM.from_pretrained(start)(ids).logits
    assert (found - expected).abs().max() < 0.1 * (full - expected).abs().max()
