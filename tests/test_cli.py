"""The command line as scripts and people see it: exit statuses, where text goes, and how fast help comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dclocal.cli import COMMANDS, run

HEAVY = (
    "numpy",
    "PIL",
    "onnxruntime",
    "llama_cpp.llama_cpp",
    "rich",
    "httpx",
    "torch",
    "transformers",
    "prompt_toolkit",
    "onnx",
)


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
        (["chat", "--json"], "--json needs a question"),
        (["chat", "-"], "- needs a question"),
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
