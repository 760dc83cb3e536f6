"""`dclocal export` as a user types it: estimates before, one clear line for a mistake, two bundles side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dclocal.cli import run
from dclocal.progress import silent
from dclocal_export.options import below_floors
from dclocal_export.pipeline import export_bundle
from tests.test_pipeline import KINDS, conversions, options, pictures, short_answers

__all__ = ["conversions", "pictures", "short_answers"]  # fixtures


def test_estimates_are_near_what_is_written(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are told before hours are spent; they must be those that come out."""
    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")
    assert run(["export", str(checkpoint), "--estimate", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    sizes = {row["quantization"]: row["disk_bytes"] for row in told["llm"]}
    for kind in ("f16", "q8_0"):
        bundle = export_bundle(checkpoint, tmp_path / kind, options(pictures, llm=kind), silent)
        metadata = 40_000  # the tokenizer, which is nothing beside a real model
        assert abs(bundle.manifest.files["llm.gguf"].size_bytes - sizes[kind]) < 0.1 * sizes[kind] + metadata
    assert run(["export", str(checkpoint), "--estimate"]) == 0
    assert "q4_k_m" in capsys.readouterr().out


def test_two_bundles_side_by_side(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = KINDS["clip+llama"](tmp_path / "checkpoint")
    names = [str(tmp_path / "one"), str(tmp_path / "other")]
    for name, kind in zip(names, ("f16", "q4_0")):
        export_bundle(checkpoint, Path(name), options(pictures, llm=kind), silent)
    assert run(["export", "--compare", *names, "--images", str(pictures), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [facts["llm"] for facts in found["bundles"]] == ["f16", "q4_0"]
    assert found["bundles"][0]["size_bytes"] > found["bundles"][1]["size_bytes"] > 0
    assert found["questions"] == 8 and found["same"] < 8
    assert run(["export", "--compare", names[0], names[0], "--images", str(pictures)]) == 0
    assert "8 of 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a CHECKPOINT"),
        (["none"], "name the folder OUT"),
        (["none", "out", "--images", "pictures"], "none is not a folder"),
        (["none", "out", "--llm", "q3", "--images", "pictures"], "--llm q3 is not known"),
        (["none", "out", "--images", "elsewhere"], "elsewhere is not a folder"),
        (["none", "out", "--licence", "MIT", "--images", "pictures"], "is not PART=TEXT"),
        (["--compare", "a", "b", "--images", "pictures"], "is not a bundle"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["export", *arguments]) == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "checkpoint", str(tmp_path / "out"), "--dry-run", "--images", str(pictures)]) == 0
    assert "would write" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_floors_name_what_is_below_them() -> None:
    """A quarter of the pictures looking like others would otherwise ship unseen."""
    parity = {
        "vision": {"int8": {"cosine_min": 0.98}, "fp16": {"cosine_min": 0.9999}},
        "llm": {"f16": {}, "q8_0": {"top1_agreement": 0.9}, "q4_0": {"top1_agreement": 0.9}},
    }
    assert below_floors(parity, "int8") == [
        "vision int8: cosine 0.98000, floor 0.99",
        "language model q8_0: same likeliest token at 0.900, floor 0.95",
    ]
