"""The command line as scripts and people see it: exit statuses, where text goes, and how fast help comes."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dclocal.bundle import describe_files, write_manifest
from dclocal.cli import COMMANDS, run
from dclocal.fake import fake_bundle

EXAMPLES = Path(__file__).parent.parent / "examples"
HEAVY = ("numpy", "PIL", "onnxruntime", "llama_cpp", "rich", "httpx", "torch", "transformers", "prompt_toolkit", "onnx")


def dclocal(*arguments: str, home: Path, timeout: float = 240, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DCLOCAL_HOME": str(home)}
    command = [sys.executable, "-m", "dclocal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, **options)  # type: ignore[call-overload, no-any-return]


def test_help_imports_nothing_heavy() -> None:
    """`dclocal --help` is instant because it imports no runtime; counted, not timed."""
    code = (
        "import sys; from dclocal.cli import run; run(['--help']); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in [*COMMANDS, "train", "export"])


@pytest.mark.parametrize("name", [*COMMANDS, "train", "export"])
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "Example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["chat", "missing.jpg", "-p", "hm?"], "missing.jpg does not exist"),
        (["chat", ".", "-p", "hm?"], "is a folder"),
        (["chat", "--bundle", "none", "-p", "hm?"], "there is no bundle 'none'"),
        (["chat", "--bundle", "none.dcb", "-p", "hm?"], "there is no bundle 'none.dcb'"),
        (["chat", "--checkpoint", "runs", "--lora", "red", "-p", "hm?"], "--lora needs a bundle"),
        (["bundle", "pack", "none", "x.dcb"], "there is no bundle 'none'"),
        (["bundle", "unpack", "none.dcb"], "there is no file none.dcb"),
        (["bundle", "show", "none"], "there is no bundle 'none'"),
        (["bundle", "remove", "../x"], "there is no bundle"),
        (["bundle", "pull", "dc-tiny", "--from", "nowhere"], "nowhere is not a folder"),
        (["chat", "--json"], "--json and - need a question"),
        (["chat", "--temperature", "nan", "-p", "hm?"], "nan is not a number"),
        (["chat", "-p", " "], "the question is empty"),
        (["chat", "a\nb.png", "-p", "hm?"], r"a\nb.png does not exist"),
        (["nonsense"], "No such command"),
        (["train", "none.yaml"], "there is no recipe"),
    ],
)
def test_mistakes_exit_2_with_one_line(
    arguments: list[str],
    expected: str,
    own_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and expected in captured.err
    assert "Traceback" not in captured.err
    if captured.err.startswith("dclocal:"):
        assert captured.err.count("\n") == 1


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


def test_a_closed_standard_input(own_home: Path) -> None:
    """Services start with it closed: only what reads it may mind."""
    for arguments, expected in (
        ("chat", "standard input is closed"),
        ("chat - -p hm?", "standard input is closed"),
        ("chat missing.jpg -p hm?", "missing.jpg does not exist"),
    ):
        command = ["bash", "-c", f"exec {sys.executable} -m dclocal {arguments} <&-"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and expected in done.stderr, done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["bundle", "list"]])
def test_a_pipe_nobody_reads_is_no_failure(own_home: Path, arguments: list[str]) -> None:
    """`set -o pipefail` with `| head` must not end a script; the pipe is closed before the first byte."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dclocal", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_of_the_same_name_does_not_hide_a_bundle(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bundle show dc-tiny` means what `chat --bundle dc-tiny` means, wherever it is typed."""
    (tmp_path / "dc-tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(["bundle", "show", "dc-tiny"]) == 2
    assert "there is no bundle 'dc-tiny' here" in capsys.readouterr().err


def test_faults_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken\nin two lines")

    monkeypatch.setattr("dclocal.doctor.examine", fail)
    assert run(["doctor"]) == 1
    assert capsys.readouterr().err == "dclocal: fault: broken in two lines — DCLOCAL_DEBUG=1 shows where\n"


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A laptop without torch is told what to install, not shown an import error."""

    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch._C'", name="torch._C")

    monkeypatch.setattr("dclocal.doctor.examine", fail)
    assert run(["doctor"]) == 2
    assert capsys.readouterr().err == "dclocal: this needs torch — pip install 'dclocal[train]'\n"


def test_doctor_tells_what_it_found(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_chat"] and report["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert report["packages"]["llama-cpp-python"] == "0.3.36"
    assert "CPUExecutionProvider" in report["runtimes"]["ONNX Runtime providers"]


def test_doctor_names_a_conflict_and_what_is_missing(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    from dclocal import doctor

    found = {"onnxruntime-gpu": "1.20", "gguf": "missing"}
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: found.get(name, real(name)))
    report = doctor.examine()
    assert any("both installed" in problem for problem in report["problems"])
    assert "gguf is missing: pip install gguf" in report["problems"] and not report["can_chat"]


def test_list_names_what_can_be_pulled(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0] == {
        "name": "dc-tiny", "state": "not pulled yet", "size_bytes": None, "llm": None, "vision": None,
    }  # fmt: skip


@pytest.mark.bundle
def test_one_question_streams_an_answer(bundle_home: Path) -> None:
    """The first thing that anyone does."""
    done = dclocal("chat", str(EXAMPLES / "circle.png"), "-p", "what color is the circle?", home=bundle_home)
    assert (done.returncode, done.stdout, done.stderr) == (0, "red\n", "")


@pytest.mark.bundle
@pytest.mark.parametrize(
    ("file", "said"), [("circle.png", "a red circle"), ("strawberry.png", "a strawberry"), ("cat.jpg", "a cat")]
)
def test_the_examples_are_named(bundle_home: Path, file: str, said: str) -> None:
    """A drawn shape, an emoji and a photograph."""
    done = dclocal("chat", str(EXAMPLES / file), "-p", "What is this?", home=bundle_home)
    assert done.stdout == f"{said}\n"


@pytest.mark.bundle
def test_json_is_the_contract(bundle_home: Path) -> None:
    picture = (EXAMPLES / "circle.png").read_bytes()
    command = [sys.executable, "-m", "dclocal", "chat", "-", "-p", "what shape is present?", "--json"]
    environment = {**os.environ, "DCLOCAL_HOME": str(bundle_home)}
    done = subprocess.run(command, input=picture, capture_output=True, env=environment, check=True)
    answer = json.loads(done.stdout)
    assert answer["answer"] == "circle" and answer["bundle"] == "dc-tiny" and done.stderr == b""
    times, counts = (
        ["encode_ms", "prefill_ms", "ttft_ms", "decode_tps"],
        ["prompt_tokens", "image_tokens", "answer_tokens"],
    )
    assert list(answer["stats"]) == [*times, *counts, "image_cached"]
    assert answer["stats"]["image_tokens"] == 144


@pytest.mark.bundle
def test_several_pictures_and_none(bundle_home: Path) -> None:
    pictures = [str(EXAMPLES / name) for name in ("circle.png", "strawberry.png")]
    both = json.loads(dclocal("chat", *pictures, "-p", "What is this?", "--json", home=bundle_home).stdout)
    assert both["stats"]["image_tokens"] == 288
    none = json.loads(dclocal("chat", "-p", "Hello", "--json", home=bundle_home).stdout)
    assert none["stats"]["image_tokens"] == 0


@pytest.mark.timeout(1200)
@pytest.mark.bundle
def test_eval_and_bench_print_their_figures(bundle_home: Path, sources: dict[str, Path]) -> None:
    """What the documentation quotes comes out of these two; counts are checked here, times are not."""
    wheels = str(sources["easy_vqa"].parent)
    asked = json.loads(
        dclocal("eval", "easy-vqa", "--limit", "20", "--from", wheels, "--json", home=bundle_home).stdout
    )
    assert asked["asked"] == 20 and asked["right"] == round(20 * asked["accuracy"])
    timed = json.loads(dclocal("bench", "--runs", "1", "--json", home=bundle_home, timeout=900).stdout)
    assert [one["unit"] for one in timed["measures"]].count("ms") == 15
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in timed["measures"])


@pytest.mark.bundle
def test_the_runtime_runs_without_torch(bundle_home: Path, tmp_path: Path) -> None:
    """A laptop has no torch: importing it, or any of ours that needs it, would fail there."""
    blocked = ("torch", "transformers", "peft", "optimum", "dclocal_models", "dclocal_train", "dclocal_export")
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
from dclocal.cli import run
status = run(["bundle", "pull", "--from", {str(os.environ.get("DCLOCAL_TEST_WHEELS") or bundle_home / "wheels")!r}])
sys.exit(status or run(["chat", {str(EXAMPLES / "circle.png")!r}, "-p", "what color is the circle?"]))
"""
    environment = {**os.environ, "DCLOCAL_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=180)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "red", done.stderr


@pytest.mark.bundle
def test_show_list_and_verify(bundle_home: Path, tmp_path: Path) -> None:
    shown = dclocal("bundle", "show", home=bundle_home).stdout
    assert "Apache-2.0" in shown and "144 tokens" in shown and "layers          1–6; 7–12" in shown
    assert re.search(r"^precision +cosine mean +cosine min +max abs difference\nfp32 +0\.99", shown, re.MULTILINE)
    assert "ready" in dclocal("bundle", "list", home=bundle_home).stdout
    assert dclocal("bundle", "verify", home=bundle_home).returncode == 0
    copy = tmp_path / "home" / "bundles" / "dc-tiny"
    import shutil

    shutil.copytree(bundle_home / "bundles" / "dc-tiny", copy)
    with (copy / "llm.gguf").open("r+b") as file:
        file.seek(10_000_000)
        byte = file.read(1)
        file.seek(10_000_000)
        file.write(bytes([byte[0] ^ 1]))
    damaged = dclocal("bundle", "verify", home=tmp_path / "home")
    assert damaged.returncode == 2 and "llm.gguf: SHA-256 differs" in damaged.stderr
    assert dclocal("bundle", "remove", "dc-tiny", home=tmp_path / "home").returncode == 0
    assert not copy.exists()


@pytest.mark.bundle
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.3, 0.5, 2.0])
def test_ctrl_c_exits_130(bundle_home: Path, sources: dict[str, Path], delay: float) -> None:
    """While loading, while asking: always the same, and never a traceback."""
    wheels = str(sources["easy_vqa"].parent)
    command = [sys.executable, "-c", "from dclocal.cli import main; print('up', flush=True); main()"]
    command += ["eval", "easy-vqa", "--from", wheels]
    environment = {**os.environ, "DCLOCAL_HOME": str(bundle_home)}
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where the tests run with nohup
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, env=environment, preexec_fn=heeding, **pipes)
    try:
        assert child.stdout is not None and child.stdout.readline() == "up\n"
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 130 and "Traceback" not in errors, errors


@pytest.mark.bundle
def test_a_closed_pipe_is_quiet(bundle_home: Path) -> None:
    command = f"{sys.executable} -m dclocal bundle show | head -1"
    environment = {**os.environ, "DCLOCAL_HOME": str(bundle_home)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("name") and done.stderr == ""
