"""`dclocal bundle show`: figures as tables, and no orders to a terminal, whatever a stranger wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from dclocal.bundle import describe_files, write_manifest
from dclocal.cli import run
from dclocal.fake import fake_bundle

PARITY = {
    "vision": {"fp16": {"cosine_mean": 0.99999, "cosine_min": 0.999, "max_abs_difference": 0.1}, "int8": {"new": 1}},
    "llm": {
        "q4_0": {
            "perplexity": 12.5,
            "top1_agreement": 0.91,
            "kl_mean": 0.02,
            "prefill_tps": 800.0,
            "size_bytes": 91000000,
        },
        "f16": {"perplexity": 12.1, "top1_agreement": 1.0, "kl_mean": 0.0, "decode_tps": 40, "size_bytes": 270000000},
    },
    "answers": {
        "questions": 4,
        "same": 3,
        "differing": [{"question": "What?", "pytorch": "[red]a bell", "bundle": "a \x1b[31mball"}],
    },
    "timings": {"encode": {"median_ms": 250.5, "runs": 5}, "prefill": {"median_ms": 90}},
    "machine": {"cpu": "some \x1b[2Jprocessor", "cores": 2, "accelerated": False},
    "of a newer version": {"a_b": {"c": [1, 2]}, "d": None},
}


def parity_folder(folder: Path, parity: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("vision.onnx", "llm.gguf"):
        (folder / name).write_text(name)
    (folder / "parity.json").write_text(parity if isinstance(parity, str) else json.dumps(parity))
    manifest = dataclasses.replace(fake_bundle(folder).manifest, description="[bold]a \x1b[31mstranger's")
    write_manifest(folder, dataclasses.replace(manifest, files=describe_files(folder)))
    return folder


def test_show_prints_parity_as_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A precision a row, a measure a column; what a row lacks is empty, what is new is shown."""
    folder = parity_folder(tmp_path / "it", PARITY)
    assert run(["bundle", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    rows = [line.split("  ") for line in shown.splitlines()]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["quantization", "perplexity", "top1 agreement", "kl mean", "prefill tps", "size", "decode tps"] in cells
    assert ["q4_0", "12.5", "0.91", "0.02", "800", "91 MB"] in cells
    assert ["f16", "12.1", "1", "0", "270 MB", "40"] in cells
    for expected in (
        ["int8", "1"],
        ["step", "median ms", "runs"],
        ["encode", "250.5", "5"],
        ["questions", "4"],
        ["question", "pytorch", "bundle"],
        ["What?", "[red]a bell", "a \\x1b[31mball"],
        ["cpu", "some \\x1b[2Jprocessor"],
        ["accelerated", "no"],
        ["a b c", "1, 2"],
        ["description", "[bold]a \\x1b[31mstranger's"],
    ):
        assert expected in cells, expected
    assert "\x1b" not in shown
    assert run(["bundle", "show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parity"] == PARITY


def test_show_on_a_terminal_takes_no_orders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither rich's markup nor a terminal's codes: the words are a stranger's."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["bundle", "show", str(parity_folder(tmp_path / "it", PARITY))]) == 0
    shown = capsys.readouterr().out
    assert "─" in shown and "[bold]a \\x1b[31mstranger's" in shown and "[red]a bell" in shown
    assert "\x1b[31m" not in shown and "\x1b[2J" not in shown


@pytest.mark.parametrize(
    "parity",
    [[], {}, {"vision": {}}, {"answers": 7, "llm": [1], "vision": {"fp32": 3}}, {"answers": {"differing": [1]}}],
)
def test_show_takes_any_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str], parity: object) -> None:
    assert run(["bundle", "show", str(parity_folder(tmp_path / "it", parity))]) == 0
    assert capsys.readouterr().out.startswith("name")
    for text in ("{", "[" * 100_000, '{"a": NaN}', "\xff"):
        assert run(["bundle", "show", str(parity_folder(tmp_path / "it", text))]) == 2
        error = capsys.readouterr().err
        assert "parity.json is damaged" in error and error.count("\n") == 1


def test_show_says_what_tiles_cost(tmp_path: Path) -> None:
    """The span of a picture's tokens, counted here picture by picture."""
    from dclocal.describe import picture_tokens_text
    from dclocal.picture import picture_tokens

    spec = fake_bundle(tmp_path).manifest.vision
    image = dataclasses.replace(spec.image, fit="anyres", pinpoints=((32, 16), (16, 32), (48, 32)))
    tiled = dataclasses.replace(spec, image=image, newline="newline.safetensors")
    sizes = [*range(1, 60), 1000, 20_000]
    counts = [picture_tokens((width, height), tiled) for width in sizes for height in sizes]
    assert picture_tokens_text(tiled) == f"4 tokens a tile, {min(counts)} to {max(counts)} a picture on 3 canvases"
    assert picture_tokens_text(spec) == "4 tokens"
