"""Scores: a counting mistake here would claim what is not so."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from dclocal import eval_tasks
from dclocal.bundle import Bundle
from dclocal.chat import ChatSession
from dclocal.eval_chat import _segments, answer_of, likelihood, read_prompts, run_chat
from dclocal.eval_score import agreements, majority_answers, score_json, unique_names, wilson_interval
from dclocal.eval_test import EvalError, Question, is_right, normalised, read_test
from dclocal.evaluate import Item, folder_loader, run_task, run_test
from dclocal.fake import FakeLLM, FakeVision, fake_bundle
from dclocal.progress import silent


def write_rows(folder: Path, *rows: object) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def row(**other: Any) -> dict[str, Any]:
    return {"image": "a.png", "question": "colour?", "answers": ["red"], **other}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Red.", "red"),
        ("a circle", "circle"),
        ("The circle!", "circle"),
        ("yes", "yes"),
        ("", ""),
        ("A", "a"),  # an answer of multiple choice
        ("no no", "no no"),
        ("red-green\nblue", "red green blue"),
        ("It's 3.5 %.", "its 3.5"),
        ("1,250 - 7", "1250 7"),
        ("-7", "-7"),
        ("Été, ÉTÉ", "été été"),
        ("漢字。", "漢字"),
    ],
)
def test_answers_are_compared_by_their_words(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("match", "answer", "reply", "right"),
    [
        ("exact", "red", "Red.", True),
        ("exact", "red", "dark red", False),
        ("exact", "35", "3.5", False),
        ("contains", "a cat", "There is a cat on it.", True),
        ("contains", "cat", "two cats", True),
        ("contains", "cats", "one cat", True),
        ("contains", "cat", "a category", False),
        ("contains", "red apple", "a red, apple", True),
        ("contains", "red apple", "an apple is red", False),
        ("contains", "no", "nos", False),
        ("contains", "cat", "", False),
    ],
)
def test_what_counts_as_right(match: str, answer: str, reply: str, right: bool) -> None:
    assert is_right(Question("a", "q", ("zebra", answer), match), reply) is right


def test_right_and_wrong_are_counted(tmp_path: Path, picture: Image.Image) -> None:
    items = [
        Item(picture, (("colour?", "red"), ("is it red?", "yes"))),
        Item(picture.rotate(180), (("shape?", "circle"), ("is it blue?", "no"))),
    ]
    vision, llm = FakeVision(), FakeLLM(["red", "no", "a circle", "no"], 400)
    steps: list[tuple[int, int]] = []
    score = run_task(
        "test",
        items,
        ChatSession(fake_bundle(tmp_path), vision, llm),
        lambda step, done, total: steps.append((done, total)),
    )
    assert (score.asked, score.right, score.accuracy) == (4, 3, 0.75)
    assert {name: (group.right, group.asked) for name, group in score.groups.items()} == {
        "what": (2, 2),
        "yes/no": (1, 2),
    }
    assert [(one.question.question, one.answer) for one in score.mistakes] == [("is it red?", "no")]
    assert vision.encoded_images == 2  # once a picture, however many questions
    assert steps[-1] == (4, 4)


def test_a_picture_is_prefilled_once(tmp_path: Path, picture: Image.Image) -> None:
    """The second question on a picture evaluates its own text alone."""
    llm = FakeLLM(["x", "y"], 400)
    session = ChatSession(fake_bundle(tmp_path), FakeVision(), llm)
    run_task("test", [Item(picture, (("aaaa?", "x"),))], session, lambda *_: None)
    first = llm.evaluated_tokens
    run_task("test", [Item(picture, (("bbbb?", "y"),))], session, lambda *_: None)
    assert llm.evaluated_tokens - first == len("bbbb?E\nSassistant\n")


def test_intervals_are_wilsons() -> None:
    """Against scipy's own."""
    stats = pytest.importorskip("scipy.stats")
    for right, asked in [(0, 5), (5, 5), (1, 3), (9622, 9673)]:
        expected = stats.binomtest(right, asked).proportion_ci(method="wilson")
        assert wilson_interval(right, asked) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson_interval(0, 0) == (0, 1)


def test_what_can_be_had_without_looking(tmp_path: Path, picture: Image.Image) -> None:
    """Three of four times "red" is right for the one question, however it is written: 4 of 5 blindly."""
    answers = [("Colour?", "red"), ("colour? ", "blue"), ("colour?", "Red"), ("COLOUR?", "red"), ("shape?", "star")]
    questions = [Question("a.png", text, (answer,)) for text, answer in answers]
    assert majority_answers(questions) == {"colour?": "red", "shape?": "star"}
    session = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM(["blue"] * 5, 400))
    score = run_test("test", questions, lambda name: picture, session, progress=silent)
    assert (score.right, score.total.majority_right, score.total.majority) == (1, 4, 0.8)


def test_blind_shows_no_picture(tmp_path: Path, picture: Image.Image) -> None:
    """Every picture becomes the same grey one, which is encoded once."""
    questions = [Question(name, "colour?", ("red",)) for name in ("a", "b", "c")]
    pictures = {name: picture.rotate(90 * index) for index, name in enumerate("abc")}
    vision, seen = FakeVision(), []
    encode = vision.encode
    vision.encode = lambda pixels: seen.append((pixels.min((0, 2, 3)), pixels.max((0, 2, 3)))) or encode(pixels)  # type: ignore[func-returns-value, method-assign]
    session = ChatSession(fake_bundle(tmp_path), vision, FakeLLM(["red"] * 3, 400))
    score = run_test("test", questions, pictures.__getitem__, session, blind=True, progress=silent)
    assert (score.asked, vision.encoded_images, score.blind) == (3, 1, True)
    assert (seen[0][0] == seen[0][1]).all()


def test_a_broken_picture_is_named_and_the_rest_asked(tmp_path: Path, picture: Image.Image) -> None:
    folder = write_rows(tmp_path / "t", row(), row(image="b.png"), row(image="c.png"), row(image="a.png"))
    picture.save(folder / "a.png")
    (folder / "b.png").write_bytes(b"not a picture")
    session = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM(["red", "blue"], 400))
    score = run_test("t", read_test(folder), folder_loader(folder), session, progress=silent)
    assert (score.asked, score.right, list(score.broken)) == (2, 1, ["b.png", "c.png"])
    assert "does not exist" in score_json(score)["broken"]["c.png"]


def test_models_are_compared_by_their_replies(tmp_path: Path, picture: Image.Image) -> None:
    questions = [Question("a", f"{number}?", ("red",)) for number in range(4)]
    scores = []
    for answers in (["red", "red", "blue", "a"], ["red", "blue", "blue", "b"]):
        session = ChatSession(fake_bundle(tmp_path), FakeVision(), FakeLLM(answers, 400))
        scores.append(run_test("t", questions, lambda name: picture, session, progress=silent))
    assert agreements(scores) == [("fake", "fake", 0.5)]
    assert unique_names(["a", "b", "a"]) == ["a", "b", "a (2)"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not an object"),
        ("[" * 5000, "line 2 is not JSON"),
        ("x" * 70000, "line 2 has more than"),
        (row(image=3), "line 2: image is 3"),
        (row(question="  "), "line 2: question is"),
        (row(answers="red"), "line 2: answers is 'red'"),
        (row(answers=[]), "line 2: answers is"),
        (row(answers=["red", "?!"]), "line 2: the answer '\\?!' has no words"),
        (row(match="regex"), "line 2: match is 'regex' — known: exact, contains"),
        (row(group="a\x1b[31m"), "line 2: group is"),
        (row(image="../a.png"), "line 2: the image '../a.png' leaves the folder"),
        (row(image="/etc/passwd"), "leaves the folder"),
        (row(image="x/../../a.png"), "leaves the folder"),
        (row(image="..\\a.png"), "leaves the folder"),
        (row(image="a\x00.png"), "leaves the folder"),
        (row(image="out/a.png"), "link out of the folder"),
    ],
)
def test_rows_are_not_trusted(tmp_path: Path, wrong: object, told: str) -> None:
    folder = write_rows(tmp_path / "t", row(), wrong)
    os.symlink(tmp_path, folder / "out")
    with pytest.raises(EvalError, match=told):
        read_test(folder)
    assert len(read_test(folder, limit=1)) == 1


def test_a_folder_without_questions(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="has no questions.jsonl"):
        read_test(tmp_path)
    with pytest.raises(EvalError, match="has no questions"):
        read_test(write_rows(tmp_path, ""))


def test_a_plug_in_test_is_built_once_and_whole(own_home: Path, picture: Image.Image, monkeypatch: Any) -> None:
    built: list[Path] = []

    def build(source_folder: Path | None, folder: Path, progress: object) -> None:
        built.append(folder)
        if len(built) == 1:
            raise RuntimeError("interrupted")
        picture.save(folder / "a.png")
        write_rows(folder, row())

    build.version = 3  # type: ignore[attr-defined]
    monkeypatch.setattr(eval_tasks, "_plugins", lambda: {"mine": "somewhere:build"})
    monkeypatch.setattr(eval_tasks, "_loaded", lambda name, target: build)
    with pytest.raises(RuntimeError):
        eval_tasks.open_test("mine", None, silent)
    assert list((own_home / "tests").iterdir()) == []
    folder = eval_tasks.open_test("mine", None, silent)
    assert folder == own_home / "tests" / "mine-v3" and len(read_test(folder)) == 1
    assert eval_tasks.open_test("mine", None, silent) == folder and len(built) == 2
    with pytest.raises(EvalError, match="known: easy-vqa, chat, mine; or name a test's folder"):
        eval_tasks.open_test("mnie", None, silent)


def test_training_names_its_tests() -> None:
    """Every entry point of pyproject.toml is a builder under its own name."""
    tomllib = pytest.importorskip("tomllib")
    tasks = pytest.importorskip("dclocal_train.synthetic.tasks")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    entries = project["project"]["entry-points"]["dclocal.eval_tasks"]
    assert set(entries) == set(tasks.TASKS)
    for name, target in entries.items():
        assert eval_tasks._loaded(name, target) is tasks.TASKS[name]


@pytest.mark.bundle
def test_twelve_questions_of_a_users_own(
    bundle: Bundle, bundle_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command on a folder: shapes that dc-tiny knows, each line written as it is answered."""
    from PIL import ImageDraw

    from dclocal.commands.evaluate import evaluate

    monkeypatch.setenv("DCLOCAL_HOME", str(bundle_home))
    rows = []
    for index, colour in enumerate(("red", "blue", "green", "yellow")):
        image = Image.new("RGB", (64, 64), (205, 205, 210))
        ImageDraw.Draw(image).ellipse((15, 15, 49, 49), fill=colour)
        image.save(tmp_path / f"{index}.png")
        asked = {"image": f"{index}.png", "group": "colour"}
        rows.append({**asked, "question": "what color is the circle?", "answers": [colour]})
        rows.append({**asked, "question": "what shape is in the image?", "answers": ["circle"], "group": "shape"})
        rows.append({**asked, "question": "What is this?", "answers": ["circle"], "match": "contains"})
    write_rows(tmp_path, *rows)
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(evaluate, [str(tmp_path), "--json", "--out", str(out)], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["asked"] == 12 and found["right"] >= 10, found
    assert found["groups"]["shape"]["blind_majority"] == 1 and found["interval"][0] < found["accuracy"]
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(written) == 12 and sum(one["right"] for one in written) == found["right"]
    blind = json.loads(CliRunner().invoke(evaluate, [str(tmp_path), "--json", "--blind"]).stdout)
    assert blind["right"] < found["right"] and blind["blind"]


@pytest.mark.bundle
def test_likelihood_is_the_sum_over_single_steps(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against evaluating one token after the other; and a model's own greedy answer is all its first choice."""
    import numpy as np

    from dclocal import llama_kernels
    from dclocal.llm import LLM
    from dclocal.prompt import Tokens

    monkeypatch.setattr(llama_kernels, "load", lambda: False)  # flash attention rounds one entry and many apart
    with LLM(bundle.llm_path, n_ctx=512, settled=True) as llm:
        answer = answer_of(llm, bundle, "Name three fruits.")
        before = _segments(llm, bundle, "Name three fruits.")
        llm.forget()
        found = likelihood(llm, before, answer.ids)
        llm.forget()
        expected = 0.0
        for count, token in enumerate(answer.ids):
            llm.prefill([*before, Tokens(answer.ids[:count])])
            logits = llm.logits().astype(np.float64)
            expected -= logits[token] - np.logaddexp.reduce(logits)
    assert found.nll == pytest.approx(expected, rel=0.02, abs=0.02)
    assert found.first_choices >= 0.95 * len(answer.ids)


@pytest.mark.bundle
def test_text_alone_is_answered_by_the_base_model(bundle: Bundle) -> None:
    """Its own answers are no less likely to it; to the model for pictures they are."""
    records: list[Mapping[str, Any]] = []
    alone, after = run_chat(bundle, bundle.text_llm_path, read_prompts(3), silent, records.append)
    assert alone.ratio == pytest.approx(1, abs=1e-6) and alone.first_choice > 0.95
    assert 1.01 < after.ratio < 1.5 and after.tokens == alone.tokens
    assert [one["model"] for one in records] == [alone.model] * 3 + [after.model] * 3
    assert after.model == "dc-tiny, once a picture was shown"
