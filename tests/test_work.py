"""What answers cost in counts that depend on no machine: tokens evaluated, encoder runs, Python calls, bytes read.

Timings are for benchmarks; these bounds fail where a change does work twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dclocal.bundle import Bundle
from dclocal.chat import ChatSession
from dclocal.session import open_session

pytestmark = pytest.mark.bundle
counts_reads = pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what a process reads")
READ_AT_START = """
import json, sys
from dclocal.cli import main
try:
    main()
except SystemExit:
    pass
counts = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
names = ("onnxruntime", "numpy", "PIL", "torch", "cv2", "textual", "jsonschema")
loaded = [name for name in names if name in sys.modules]
slow = [name for name in ("logging", "platformdirs", "typing_extensions") if name in sys.modules]
print(json.dumps({"read": int(counts["rchar"]), "loaded": loaded, "slow": slow}), file=sys.stderr)
"""


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def session(bundle: Bundle) -> ChatSession:
    return open_session(bundle)


def test_a_second_question_costs_its_own_tokens_and_a_second_picture_one_run(session: ChatSession) -> None:
    llm, vision = session.llm, session.vision
    visual = session.bundle.manifest.vision.tokens
    first = session.attach(noise(0))
    list(session.ask("What is this?", [first], max_tokens=2, temperature=0.0))
    assert vision.encoded_images == 1  # type: ignore[attr-defined]
    assert visual < llm.evaluated_tokens <= visual + 30  # type: ignore[attr-defined]
    before = llm.evaluated_tokens  # type: ignore[attr-defined]
    list(session.ask("And where is it?", max_tokens=2, temperature=0.0))
    assert llm.evaluated_tokens - before <= 20  # type: ignore[attr-defined]
    before = llm.evaluated_tokens  # type: ignore[attr-defined]
    list(session.ask("And this?", [session.attach(noise(1))], max_tokens=2, temperature=0.0))
    assert vision.encoded_images == 2  # type: ignore[attr-defined]
    assert llm.evaluated_tokens - before <= visual + 25  # type: ignore[attr-defined]


def test_a_token_costs_few_python_calls(session: ChatSession) -> None:
    """Ten thousand would be 1 ms of a token's 6; measured 35."""
    session.reset()
    attachment = session.attach(noise(2))
    list(session.ask("Describe the picture.", [attachment], max_tokens=1, temperature=0.0))
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    pieces = session.llm.generate(session.bundle.manifest.sampling, seed=0, max_tokens=24)
    next(pieces)
    sys.setprofile(count)
    try:
        tokens = len(list(pieces)) + 1
    finally:
        sys.setprofile(None)
    tokens = max(tokens, len(session.llm.last_tokens))
    if tokens < 3:
        pytest.skip("the model said too little to count by")
    assert calls / tokens < 60


@counts_reads
def test_a_start_reads_the_models_once_and_a_known_picture_leaves_the_encoder_out(
    bundle: Bundle, tmp_path: Path
) -> None:
    """The language model is mapped, not read; hashing the files would read some 190 MB."""
    noise(3).save(tmp_path / "picture.png")
    command = [sys.executable, "-c", READ_AT_START, "chat", str(tmp_path / "picture.png"), "-p", "What?", "--json"]
    environment = {**os.environ, "DCLOCAL_HOME": str(tmp_path / "home")}
    counts, answers = [], []
    for _ in range(2):
        ended = subprocess.run(
            [*command, "--bundle", str(bundle.path)], env=environment, check=True, capture_output=True, text=True
        )
        counts.append(json.loads(ended.stderr.splitlines()[-1]))
        answers.append(json.loads(ended.stdout))
    size = bundle.vision_path.stat().st_size
    assert counts[0]["read"] < 1.3 * size + (40 << 20) and counts[0]["loaded"] == ["onnxruntime", "numpy", "PIL"]
    assert counts[1]["read"] < 40 << 20 and counts[1]["loaded"] == counts[1]["slow"] == []
    assert answers[1]["answer"] == answers[0]["answer"]
    assert [answer["stats"]["image_cached"] for answer in answers] == [False, True]


@counts_reads
def test_a_question_without_a_picture_loads_no_vision_encoder(bundle: Bundle, own_home: Path) -> None:
    command = [sys.executable, "-c", READ_AT_START, "chat", "-p", "What?", "--max-tokens", "1"]
    ended = subprocess.run([*command, "--bundle", str(bundle.path)], check=True, capture_output=True, text=True)
    counts = json.loads(ended.stderr.splitlines()[-1])
    assert counts["loaded"] == [] and counts["read"] < 40 << 20


def test_a_model_loads_without_asking_python(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp tells 1,400 lines meanwhile; each would wait for whatever Python does at the time."""
    from dclocal import llama_log
    from dclocal.llm import LLM

    told: list[object] = []
    monkeypatch.setattr(llama_log.logger(), "log", lambda *line: told.append(line))
    with LLM(bundle.llm_path, n_ctx=64):
        assert len(told) < 20
