"""The examination of a machine: what keeps chat from running must be found, named with its remedy, and exit 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dclocal import doctor
from dclocal.cli import run


def test_a_runtime_that_does_not_load_is_reported(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing system library is what doctor is asked about: it must not fall over it."""

    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "onnxruntime":
                raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert run(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "onnxruntime is installed and does not load (libgomp.so.1" in shown
    assert "llama.cpp" in shown and shown.endswith("chat cannot run\n")


def test_a_home_that_cannot_hold_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chat would end at its first build; a file in the home's place holds for root too."""
    (tmp_path / "taken").touch()
    monkeypatch.setenv("DCLOCAL_HOME", str(tmp_path / "taken"))
    report = doctor.examine()
    assert not report["can_chat"]
    assert any("taken cannot be written: set DCLOCAL_HOME" in problem for problem in report["problems"])


def test_a_full_disk_is_said_before_the_build(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    real = shutil.disk_usage(own_home.parent)
    monkeypatch.setattr("shutil.disk_usage", lambda _: real._replace(free=1 << 20))
    report = doctor.examine()
    assert not report["can_chat"] and any("has 1 MB free" in problem for problem in report["problems"])


def test_a_healthy_machine(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read sizes as numbers, people as GB; nothing is written by looking."""
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    kilobytes = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert report["machine"]["memory_bytes"] == 1024 * int(kilobytes.split()[1])
    assert report["problems"] == [] and report["store"]["free_bytes"] > 0
    assert not own_home.exists()
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"{report['machine']['memory_bytes'] / 1e9:.1f} GB" in shown and "_bytes" not in shown


def test_an_extra_that_is_missing_says_how_to_get_it(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is no reason for chat not to run."""
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "missing" if name == "torch" else real(name))
    report = doctor.examine()
    assert report["extras"]["train"] == "not installed (torch): pip install 'dclocal[train]'" and report["can_chat"]
