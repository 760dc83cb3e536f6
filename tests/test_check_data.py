"""The check before a run: if these fail, a run of days stops at a bad row, or learns from answers that are none, or a
user is sent to the wrong line."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dclocal_train.check import check_data, run_check
from dclocal_train.pictures import open_pictures
from dclocal_train.report import KINDS, Report, format_report
from dclocal_train.rows import open_rows

pytestmark = pytest.mark.usefixtures("own_home")

MARK = "<image>"


def turns(*values: object, speakers: str = "hg") -> list[dict[str, object]]:
    names = {"h": "human", "g": "gpt", "s": "system"}
    return [{"from": names[speakers[index % len(speakers)]], "value": value} for index, value in enumerate(values)]


def with_image(*values: object, image: object = "good.png", **more: Any) -> dict[str, Any]:
    return {"image": image, "conversations": turns(*values), **more}


GOOD: list[dict[str, Any]] = [
    {"id": "a", "image": "good.png", "conversations": turns(f"{MARK}\nWhat?", "That.", "And?", "This.")},
    {"id": "b", "image": "sub/good.png", "conversations": turns(f"What? {MARK}", "That.")},
    {"id": 3, "conversations": turns("Hello", "Hello!")},
    {"id": "3", "conversations": turns("", "An answer to nothing.")},
    {"conversations": turns("no id", "is fine"), "model": {"any": ["thing"]}},
]

WORDS = 2000  # estimated as 2,600 tokens

CASES: dict[str, list[object]] = {
    "not_an_object": [3, "text", None, [], [{"id": 1}], True],
    "no_turns": [{}, {"conversations": []}, {"conversations": None}, {"conversations": "text"}, {"id": [1, {}]}],
    "starts_with_gpt": [
        {"conversations": turns("a", "b", speakers="gh")},
        {"conversations": turns("a", speakers="g")},
        {"conversations": turns("a", "b", "c", speakers="ghg")},
    ],
    "not_alternating": [
        {"conversations": turns("a", "b", speakers="hh")},
        {"conversations": turns("a", "b", "c", "d", speakers="hggh")},
        {"conversations": turns("a", "b", "c", speakers="shg")},
        {"conversations": [{"value": "a"}, {"from": ["gpt"], "value": "b"}]},
    ],
    "odd_turns": [{"conversations": turns("a")}, {"conversations": turns("a", "b", "c")}],
    "not_text": [
        {"conversations": turns("a", 3)},
        {"conversations": turns(None, "b")},
        {"conversations": turns("a", ["b"])},
        {"conversations": turns("a", {"b": "c"})},
        {"conversations": [{"from": "human"}, {"from": "gpt", "value": "b"}]},
        {"conversations": turns("half a character \ud83d", "b")},
    ],
    "empty_answer": [{"conversations": turns("a", "")}, {"conversations": turns("a", "b", "c", " \n")}],
    "no_mark": [with_image("What?", "That."), with_image("What?", "That.", "<Image> <image", "b")],
    "many_marks": [with_image(f"{MARK}{MARK}", "b"), with_image(f"{MARK} a", "b", f"{MARK} c", "d")],
    "mark_misplaced": [with_image("a", "b", f"{MARK} c", "d"), with_image("a", f"{MARK} b")],
    "mark_without_image": [
        {"conversations": turns(f"{MARK}\nWhat?", "That.")},
        {"conversations": turns("a", f"b {MARK}")},
    ],
    "bad_image_name": [
        with_image(MARK, "b", image=image)
        for image in (None, 3, "", ["good.png"], {}, "../good.png", "/etc/passwd", "C:\\a.png", "\ud800.png", "a\0")
    ],
    "missing_image": [with_image(MARK, "b", image=image) for image in ("none.png", "sub", "x" * 9000)],
    "broken_image": [with_image(MARK, "b", image=image) for image in ("text.png", "cut.png", "empty.png")],
    "maybe_too_long": [
        {"conversations": turns("word " * WORDS, "b")},
        {"conversations": turns("a", "b", "word " * (WORDS // 2), "word " * (WORDS // 2))},
    ],
    "duplicate_id": [
        {"id": "a", "conversations": turns("a", "b")},
        {"id": 3, "conversations": turns("a", "b")},
        {"id": "a", "conversations": turns("a", "b")},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good pictures, and some that are none."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    buffer = io.BytesIO()
    Image.effect_noise((60, 40), 50).save(buffer, "PNG")
    whole = buffer.getvalue()
    for name, data in {"good.png": whole, "sub/good.png": whole, "text.png": b"none", "empty.png": b""}.items():
        (folder / name).write_bytes(data)
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


def written(path: Path, rows: list[Any]) -> Path:
    """A row a line, from line 1 on in JSON lines and from line 3 on in a list."""
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else "\n[\n" + ",\n".join(lines) + "\n]")
    return path


def checked(path: Path, folder: Path | None, **options: Any) -> Report:
    pictures = open_pictures(folder) if folder else None
    return check_data(open_rows(path), pictures, **{"count_tokens": None, "max_length": 2048, **options})


def found(report: Report) -> dict[str, tuple[int, ...]]:
    for finding in report.findings:
        assert (finding.severity, finding.meaning) == KINDS[finding.kind]
    return {finding.kind: finding.lines for finding in report.findings}


def test_every_kind_is_tried() -> None:
    assert set(CASES) | {"too_long"} == set(KINDS)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("kind", CASES)
def test_each_kind_is_found_on_its_lines_and_nothing_else(tmp_path: Path, folder: Path, kind: str, ending: str) -> None:
    """Bad rows stand between good ones; each is reported once, as what it is."""
    rows: list[Any] = list(GOOD)
    expected = []
    for bad in CASES[kind]:
        rows += [bad, {"conversations": turns("good", "one")}]
        expected.append(len(rows) - 1 + (2 if ending == "json" else 0))
    report = checked(written(tmp_path / f"rows.{ending}", rows), folder)
    assert found(report) == {kind: tuple(expected)}
    assert report.rows == len(rows) and report.ok == (KINDS[kind][0] == "note")
    assert report.findings[0].count == len(CASES[kind])


def test_all_kinds_at_once(tmp_path: Path, folder: Path) -> None:
    rows = [*GOOD, *(row for bad in CASES.values() for row in bad)]
    report = checked(written(tmp_path / "rows.jsonl", rows), folder, max_examples=100)
    first, expected = len(GOOD) + 1, {}
    for kind, bad in CASES.items():
        expected[kind] = tuple(range(first, first + len(bad)))
        first += len(bad)
    assert found(report) == expected
    assert report.image_rows == sum(isinstance(row, dict) and "image" in row for row in rows)


def test_a_row_can_have_several_faults(tmp_path: Path) -> None:
    row = {"image": "../a.png", "conversations": turns("", "", speakers="hh")}
    assert found(checked(written(tmp_path / "rows.jsonl", [row]), None)) == {
        "not_alternating": (1,),
        "no_mark": (1,),
        "bad_image_name": (1,),
    }


def test_good_rows_have_no_findings(tmp_path: Path, folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    path = written(tmp_path / "rows.json", GOOD)
    report = checked(path, folder, progress=lambda step, done, total: steps.append((done, total)))
    assert report == Report(path, 5, 2, "decoded", "estimated from words", 2048, ())
    assert report.ok and "no problems" in format_report(report)
    assert steps[0] == (0, 5) and steps[-1] == (5, 5)


def test_a_tokenizer_counts_questions_with_their_answers(tmp_path: Path) -> None:
    """At the bound is fine; the image's mark is no text; a question alone counts too."""
    rows = [
        {"image": "a.png", "conversations": turns(f"{MARK}\n12345", "12345")},
        {"conversations": turns("12345", "123456")},
        {"conversations": turns("1", "2", "3", "4" * 10)},
        {"conversations": turns("1" * 11)},
        {"conversations": turns("1" * 6, "2", "3" * 6, "4")},
        {"conversations": turns("1", "2" * 6, "3" * 6, "4")},
    ]
    report = checked(written(tmp_path / "rows.jsonl", rows), None, count_tokens=len, max_length=10)
    assert found(report) == {"too_long": (2, 3, 4), "odd_turns": (4,)}
    assert report.lengths == "tokens" and report.images == "not looked at" and not report.ok


def test_headers_alone_are_faster_and_see_less(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "rows.jsonl", [*CASES["missing_image"], *CASES["broken_image"]])
    pictures = open_pictures(folder)
    monkeypatch.setattr(pictures, "load", lambda name: pytest.fail("decoded"))
    report = check_data(open_rows(path), pictures, count_tokens=None, max_length=9, decode=False)
    assert found(report) == {"missing_image": (1, 2, 3), "broken_image": (4, 6)}  # cut.png has a header
    assert report.images == "headers read"


def test_a_picture_of_many_rows_is_decoded_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = open_pictures(folder)
    load, names = pictures.load, []
    monkeypatch.setattr(pictures, "load", lambda name: names.append(name) or load(name))
    rows = open_rows(written(tmp_path / "rows.jsonl", [with_image(MARK, "b", image="cut.png")] * 30))
    report = check_data(rows, pictures, count_tokens=None, max_length=9)
    assert names == ["cut.png"] and report.findings[0].count == 30


def test_only_the_first_lines_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.jsonl", [{"conversations": turns("a", "")}] * 1200)
    report = checked(path, None, max_examples=4)
    (finding,) = report.findings
    assert (finding.count, finding.lines) == (1200, (1, 2, 3, 4))
    assert "problem  1,200  an answer is empty  1, 2, 3, 4, …" in format_report(report).splitlines()


def test_run_check_prints_the_report_alone_on_stdout(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = written(tmp_path / "good.json", GOOD), written(tmp_path / "bad.json", [*GOOD, *CASES["no_turns"]])
    assert run_check(good, folder, as_json=False, fast=False) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{good}\n5 rows, 2 with an image; images decoded") and "checking" in captured.err
    assert run_check(bad, None, as_json=True, fast=True) == 2
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and report["rows"] == 10 and report["images"] == "not looked at"
    assert report["findings"] == [
        {
            "kind": "no_turns",
            "severity": "problem",
            "meaning": "no conversation",
            "count": 5,
            "lines": [8, 9, 10, 11, 12],
        }
    ]


def test_shards_are_their_own_pictures(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.tar"
    row = json.dumps({"conversations": turns(f"{MARK} What?", "That.")}).encode()
    whole = (folder / "good.png").read_bytes()
    with tarfile.open(path, "w") as tar:
        for name, data in {"1.json": row, "1.png": whole, "2.json": row, "2.png": whole[:900], "3.json": b"{"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert run_check(path, None, as_json=True, fast=False) == 2
    report = json.loads(capsys.readouterr().out)
    assert {finding["kind"]: finding["lines"] for finding in report["findings"]} == {
        "broken_image": [2],
        "not_an_object": [3],
    }


def test_the_last_of_many_ids_is_compared_with_the_first(tmp_path: Path) -> None:
    rows = [{"id": f"id{index % 5000}", "conversations": turns("a", "b")} for index in range(5003)]
    report = checked(written(tmp_path / "rows.jsonl", rows), None)
    assert found(report) == {"duplicate_id": (5001, 5002, 5003)}
