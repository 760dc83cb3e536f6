"""The command line with the embedded bundle: the first things that anyone does, as they are typed."""

from __future__ import annotations

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

EXAMPLES = Path(__file__).parent.parent / "examples"


def dclocal(*arguments: str, home: Path, timeout: float = 240, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DCLOCAL_HOME": str(home)}
    command = [sys.executable, "-m", "dclocal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, **options)  # type: ignore[call-overload, no-any-return]


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
    assert "text alone      text.gguf, until a picture is shown" in shown
    assert re.search(
        r"^precision +cosine mean +cosine min +max abs difference\nfp32 +1 +1 +(0\.000\d+|\d\.\d+e-05)$",
        shown,
        re.MULTILINE,
    )
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
