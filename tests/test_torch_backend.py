"""A checkpoint tried before export: it must answer as the model itself does, over turns, and say what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dclocal.chat import Answered, ChatSession, PromptReady, TextPiece
from dclocal.cli import run
from dclocal.errors import UserError
from dclocal.prompt import Embeds, Segment, Tokens
from dclocal_models.answer import answer
from dclocal_models.backend import open_backend
from dclocal_models.checkpoint import ADAPTER_FOLDER, LLM_FOLDER, load_checkpoint
from dclocal_models.vlm import DenseConnectorModel
from tests.tiny import tiny_config
from tests.tiny_checkpoint import byte_tokenizer, lively_llm, save

ROOT = Path(__file__).parent.parent
PINPOINTS = ((112, 56), (56, 112), (112, 112))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def tiled_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoints") / "tiled", fit="anyres", pinpoints=PINPOINTS)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry points of pyproject.toml, as an installer would write them (an older editable install has others)."""
    tomllib = pytest.importorskip("tomllib")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "site" / "dclocal_under_test-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dclocal-under-test\nVersion: 0\n")
    lines = [f"{name} = {target}" for name, target in groups["dclocal.backends"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[dclocal.backends]", *lines, ""]))
    monkeypatch.syspath_prepend(str(info.parent))


@pytest.fixture
def file(tmp_path: Path, picture: Image.Image) -> str:
    picture.save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def recorded(session: ChatSession) -> list[list[Segment]]:
    """The segments of each prompt that the session asks for from now on."""
    prompts: list[list[Segment]] = []
    prefill = session.llm.prefill
    session.llm.prefill = lambda segments: (prompts.append(list(segments)), prefill(segments))[1]  # type: ignore[method-assign,func-returns-value]
    return prompts


def generated(model: DenseConnectorModel, tokenizer: Any, prompt: list[Segment], max_tokens: int) -> str:
    """transformers' own greedy answer to a whole prompt, nothing reused."""
    table = model.llm.get_input_embeddings()
    rows = [torch.from_numpy(s.values) if isinstance(s, Embeds) else table(torch.tensor(s.ids)) for s in prompt]
    embeds = torch.cat(rows)[None]
    with torch.inference_mode():
        ids = model.llm.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return str(tokenizer.decode(ids[0], skip_special_tokens=True)).strip()


def text_of(events: Iterator[Any]) -> str:
    last = list(events)[-1]
    assert isinstance(last, Answered)
    return last.answer


@pytest.mark.parametrize("kind", ["checkpoint", "tiled_checkpoint"])
def test_answers_are_the_models_own(kind: str, request: pytest.FixtureRequest, picture: Image.Image) -> None:
    """Three turns, two pictures: the first against `answer`, each later one against a run that reuses nothing."""
    folder = request.getfixturevalue(kind)
    model, tokenizer = load_checkpoint(folder)
    session = ChatSession(*open_backend(folder))
    prompts = recorded(session)
    first = text_of(session.ask("what is red?", [session.attach(picture)], max_tokens=12))
    assert first == answer(model, tokenizer, "what is red?", [picture], 12) != ""
    other = Image.effect_noise((90, 40), 80).convert("RGB")
    texts = [
        text_of(session.ask("and the circle?", max_tokens=12)),
        text_of(session.ask("is this blue?", [session.attach(other)], max_tokens=12)),
    ]
    assert texts == [generated(model, tokenizer, prompt, 12) for prompt in prompts[1:]]
    assert len({first, *texts}) == 3  # a model that always says the same would prove nothing
    images = [segment for segment in prompts[2] if isinstance(segment, Embeds)]
    # tiles of 2×2 tokens, both pictures on 2×1 of them: 40×30 covers 2 of 4 columns, 90×40 all four, plus newlines
    assert [len(segment) for segment in images] == ([4, 4] if kind == "checkpoint" else [4 + 2 * 3, 4 + 2 * 5])


def test_a_follow_up_evaluates_its_own_tokens(checkpoint: Path, picture: Image.Image) -> None:
    session = ChatSession(*open_backend(checkpoint))
    attachment = session.attach(picture)
    first = list(session.ask("what?", [attachment], max_tokens=6))
    ready = next(event for event in first if isinstance(event, PromptReady))
    assert ready.reused_tokens == 0 and isinstance(first[-1], Answered) and first[-1].stats.answer_tokens == 6
    held = len(session.llm.cells)  # type: ignore[attr-defined]
    assert held == ready.prompt_tokens + 5  # the sixth token is evaluated when something follows it
    second = next(event for event in session.ask("and?", max_tokens=6) if isinstance(event, PromptReady))
    assert second.reused_tokens == held
    assert session.vision.encoded_images == 1  # type: ignore[attr-defined]
    session.reset()
    third = next(event for event in session.ask("what?", [attachment], max_tokens=6) if isinstance(event, PromptReady))
    assert (third.prompt_tokens, third.reused_tokens) == (ready.prompt_tokens, ready.prompt_tokens - 1)


def test_closing_an_answer_early_loses_nothing(checkpoint: Path, picture: Image.Image) -> None:
    model, tokenizer = load_checkpoint(checkpoint)
    session = ChatSession(*open_backend(checkpoint))
    prompts = recorded(session)
    events = session.ask("what is red?", [session.attach(picture)], max_tokens=30)
    seen = 0
    for event in events:
        seen += isinstance(event, TextPiece)
        if seen == 3:
            break
    events.close()  # type: ignore[attr-defined]
    assert len(session.llm.last_tokens) < 30
    assert text_of(session.ask("and?", max_tokens=10)) == generated(model, tokenizer, prompts[1], 10)


def logits_on(folder: Path, **options: Any) -> tuple[np.ndarray, str]:
    described, _, llm = open_backend(folder, **options)
    rows = []
    for ids in ((5, 60, 70, 80), (9, 100, 200), (33, 44, 55, 66, 77)):
        llm.prefill([Tokens(ids)])
        rows.append(llm.logits())
    return np.concatenate(rows), described.manifest.llm_quantization


@pytest.mark.parametrize("lora", [False, True])
def test_four_bits_stay_near_full_precision(tmp_path: Path, lora: bool) -> None:
    pytest.importorskip("bitsandbytes")
    tokenizer = byte_tokenizer()
    torch.manual_seed(3)
    model = DenseConnectorModel(tiny_config(), lively_llm(len(tokenizer)))
    for parameter in model.llm.model.layers.parameters():
        parameter.data *= 0.5  # nearer to a trained model: noise is not amplified from layer to layer
    if lora:
        from dclocal_train.config import LoraSettings
        from dclocal_train.stages import add_lora

        add_lora(model, LoraSettings(rank=2, alpha=4, learning_rate=1e-3))
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)  # an adapter that changes something
    model.save_pretrained(tmp_path / "model", tokenizer)
    full, name = logits_on(tmp_path / "model")
    four, four_name = logits_on(tmp_path / "model", load_in_4bit=True)
    assert (name, four_name) == ("float32", "nf4")
    assert 0.9 < np.corrcoef(full, four)[0, 1] < 0.9999
    if lora:
        shutil.rmtree(tmp_path / "model" / ADAPTER_FOLDER)
        base, _ = logits_on(tmp_path / "model", load_in_4bit=True)
        assert np.corrcoef(full, base)[0, 1] < np.corrcoef(full, four)[0, 1] - 0.05  # the adapter was not lost


def test_the_command_answers(
    installed: None, checkpoint: Path, file: str, picture: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = load_checkpoint(checkpoint)
    expected = answer(model, tokenizer, "what is red?", [picture], 8)
    arguments = ["chat", file, "--checkpoint", str(checkpoint), "-p", "what is red?", "--max-tokens", "8"]
    assert run([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["answer"] == expected and found["bundle"] == "tiny"
    stats = found["stats"]
    assert (stats["image_tokens"], stats["answer_tokens"], stats["image_cached"]) == (4, 8, False)
    assert captured.err == "dclocal: loading tiny in float32\n"
    assert run([*arguments, "--threads", "1"]) == 0
    assert capsys.readouterr().out.strip() == expected


def test_the_command_in_four_bits(
    installed: None, checkpoint: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    arguments = ["chat", file, "--checkpoint", str(checkpoint), "--load-in-4bit", "-p", "hm?", "--max-tokens", "4"]
    assert run([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["stats"]["answer_tokens"] == 4
    assert "dclocal: loading tiny in 4 bits" in captured.err


def broken(source: Path, folder: Path, how: str) -> Path:
    """A copy of a checkpoint with something wrong."""
    shutil.copytree(source, folder)
    weights = folder / LLM_FOLDER / "model.safetensors"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif how == "foreign":
        shutil.copy(folder / LLM_FOLDER / "config.json", folder / "config.json")
    else:
        (folder / how).unlink()
    return folder


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("vision.safetensors", "is not a whole checkpoint: vision.safetensors is missing"),
        ("config.json", "is not a whole checkpoint: config.json is missing"),
        ("llm/model.safetensors", "cannot be loaded: Error no file named"),
        ("llm/config.json", "cannot be loaded"),
        ("llm/tokenizer.json", "cannot be loaded"),
        ("cut", "cannot be loaded"),
        ("foreign", "is not a config of ours"),
    ],
)
def test_a_broken_checkpoint_is_one_line(
    installed: None, checkpoint: Path, tmp_path: Path, how: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = broken(checkpoint, tmp_path / "copy", how)
    assert run(["chat", "--checkpoint", str(folder), "-p", "hm?"]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("dclocal: loading")]
    assert captured.out == "" and len(lines) == 1 and expected in lines[0], captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--checkpoint", "nowhere"], "dclocal: there is no folder nowhere — name a checkpoint's folder\n"),
        (["--checkpoint", "x", "--bundle", "dc-tiny"], "--bundle and --checkpoint name two models: give one"),
        (["--load-in-4bit"], "--load-in-4bit needs --checkpoint DIR"),
    ],
)
def test_options_that_do_not_go_together(
    installed: None, arguments: list[str], expected: str, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chat", *arguments, "-p", "hm?"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and expected in captured.err


def test_what_is_missing_is_named_with_its_command(
    installed: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A laptop without PyTorch; one without the backend at all; one without bitsandbytes."""
    arguments = ["chat", "--checkpoint", str(checkpoint), "-p", "hm?"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        patch.delitem(sys.modules, "dclocal_models.backend")
        assert run(arguments) == 2
        assert capsys.readouterr().err == "dclocal: this needs torch — pip install 'dclocal[train]'\n"
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.entry_points", lambda **_: [])
        assert run(arguments) == 2
        assert "pip install 'dclocal[train]'" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match="pip install bitsandbytes"):
            open_backend(checkpoint, load_in_4bit=True)
