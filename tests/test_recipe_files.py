"""Files of recipes and of launches: found by name, in the wheel, and read by accelerate and transformers themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dclocal.errors import UserError
from dclocal_train.recipe_files import find_recipe, known_recipes
from tests.test_recipes import ROOT

LAUNCH = ROOT / "train" / "recipes" / "accelerate"


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(path))
    counts = {"8xa100": (8, 1), "4x8xa100": (32, 4), "cpu": (2, 1)}
    key = next(part for part in ("4x8xa100", "8xa100", "cpu") if part in path.stem)
    assert (config.num_processes, config.num_machines) == counts[key]
    assert config.use_cpu == (key == "cpu")
    kind = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "cpu": "MULTI_GPU"}
    assert config.distributed_type.value == kind[path.stem.partition("-")[0]]
    if config.fsdp_config:
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
        import transformers.models.llama.modeling_llama as llama

        assert hasattr(llama, config.fsdp_config["fsdp_transformer_layer_cls_to_wrap"])
    if config.deepspeed_config:
        assert (ROOT / config.deepspeed_config["deepspeed_config_file"]).is_file()
        assert "mixed_precision" not in yaml.safe_load(path.read_text())  # accelerate refuses it beside a JSON


@pytest.mark.parametrize(("name", "stage"), [("zero2.json", 2), ("zero3.json", 3)])
def test_transformers_fills_the_deepspeed_files(name: str, stage: int) -> None:
    """By transformers' own code: every "auto" gets a value, and none waits for a hidden_size that our model has not."""
    from accelerate.utils.deepspeed import HfDeepSpeedConfig
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    class Filled(HfTrainerDeepSpeedConfig, HfDeepSpeedConfig):
        """As it is where DeepSpeed is installed."""

        def __init__(self, settings: dict[str, Any]):
            HfDeepSpeedConfig.__init__(self, settings)
            self._dtype, self.mismatches = None, []

    filled = Filled(json.loads((LAUNCH / name).read_text()))
    arguments = TrainingArguments(per_device_train_batch_size=4, gradient_accumulation_steps=4, bf16=True, use_cpu=True)
    filled.trainer_config_process(arguments)
    filled.trainer_config_finalize(arguments, torch.nn.Linear(1, 1), 100)
    assert "auto" not in json.dumps(filled.config)
    assert filled.config["zero_optimization"]["stage"] == stage and filled.config["bf16"]["enabled"] is True
    assert filled.config["train_batch_size"] == 16


def test_recipes_by_name_and_by_path(tmp_path: Path) -> None:
    assert find_recipe("clip-vicuna-7b") == find_recipe("clip-vicuna-7b.yaml") == known_recipes()["clip-vicuna-7b"]
    own = tmp_path / "mine.yaml"
    own.write_text("name: mine")
    assert find_recipe(str(own)) == own
    with pytest.raises(UserError, match=r"no recipe clip-vicuna-8b — did you mean clip-vicuna-7b.*siglip-phi2"):
        find_recipe("clip-vicuna-8b")


def test_recipes_travel_in_the_wheel(tmp_path: Path) -> None:
    """Without this, `dclocal train dc-tiny` works in a checkout and nowhere else."""
    builder = pytest.importorskip("hatchling.builders.wheel")
    import zipfile

    wheel = next(iter(builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    names = zipfile.ZipFile(wheel).namelist()
    for name in known_recipes():
        assert f"dclocal_train/recipes/{name}.yaml" in names
    assert "dclocal_train/recipes/accelerate/zero3.json" in names
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site", [name for name in names if name.startswith(("dclocal", "dclocal_train"))])
    code = "from dclocal_train.recipe_files import find_recipe; print(find_recipe('siglip-phi2'))"
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "dclocal_train" / "recipes" / "siglip-phi2.yaml")
