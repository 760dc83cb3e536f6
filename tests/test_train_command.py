"""`dclocal train` as a user types it: help without torch, one clear line for a mistake, plans as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dclocal.cli import run


def test_train_help_imports_no_torch() -> None:
    code = (
        "import sys; from dclocal.cli import run; run(['train', '--help']); "
        "print([name for name in ('torch', 'transformers', 'numpy', 'yaml') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "--dry-run" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a RECIPE to train, or rows with --check-data"),
        (["dc-tiny", "--check-data", "rows.json"], "--check-data takes no RECIPE"),
        (["dc-tiny", "--fast"], "go with --check-data"),
        (["dc-tiny", "--json"], "--json goes with"),
        (["dc-tiny", "--dry-run", "--build-data"], "--dry-run builds nothing"),
        (["dc-tinny"], "did you mean dc-tiny"),
        (["clip-vicuna-7b", "--build-data"], "builds no data"),
        (["clip-vicuna-7b", "data.folder=nowhere"], "its rows nowhere/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"),
        (["clip-vicuna-7b", "--dry-run", "stages.0.stepz=3"], "did you mean 'steps'"),
        (["--check-data", "none.json"], "none.json does not exist"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], expected: str, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and expected in captured.err and "Traceback" not in captured.err


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name misspelt, a gated model, no network: said in a line, not as a fault."""
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text('[{"id": 1}]')
    overrides = [f"data.folder={tmp_path}", "stages.0.rows=one.json", "stages.1.rows=two.json", "stages.0.images=."]
    overrides += [f"output={tmp_path}/out", f"model.llm.pretrained={tmp_path}/none", "loggers=[]"]
    assert run(["train", "clip-vicuna-7b", *overrides]) == 2
    error = capsys.readouterr().err
    assert "none cannot be loaded" in error and "name a folder" in error


def test_missing_pictures_are_found_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"data.folder={tmp_path}", "stages.0.rows=rows.json", "stages.0.images=pictures"]
    (tmp_path / "rows.json").write_text("[]")
    assert run(["train", "clip-vicuna-7b", *overrides]) == 2
    assert "stage align: its pictures" in capsys.readouterr().err


def test_dry_run_and_check_print_json(own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "siglip-phi2", "--dry-run", "--json", "gpus=4", "stages.1.batch_size=8"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["gpus"] == 4 and plan["image_tokens"] == [729, 729]
    assert plan["recipe"]["model"]["llm"]["pretrained"] == "microsoft/phi-2"
    assert plan["stages"][1]["accumulation"] == 4
    assert plan["stages"][1]["memory"]["ddp"]["total_bytes"] > 2**30
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"id": "a", "conversations": [{"from": "human", "value": "hm?"}]}]))
    assert run(["train", "--check-data", str(rows), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["findings"][0]["kind"] == "odd_turns"
