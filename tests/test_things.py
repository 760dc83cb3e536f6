"""Drawings of named things: a wrong name teaches a wrong name, a drawing in both splits makes a test worthless."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from dclocal_train.sources import SOURCES, SourceError, fetch_sources
from dclocal_train.synthetic import things as building
from dclocal_train.synthetic.clipart import Drawing, Rasteriser, read_clipart
from dclocal_train.synthetic.clipart_names import clipart_concept, read_vocabulary
from dclocal_train.synthetic.drawings import Concept, trimmed
from dclocal_train.synthetic.emoji_concepts import read_concepts
from dclocal_train.synthetic.naming_tests import emoji_test, is_right, read_questions
from dclocal_train.synthetic.things import build_things, clipart_things, load_things

CIRCLE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="35mm" height="70mm" viewBox="0 0 100 200">'
    b'<circle cx="50" cy="50" r="40" fill="red"/></svg>'
)
MESSAGES = {"subgroups": [{"order": 42, "key": "food-fruit"}, {"order": 34, "key": "animal-mammal"}]}
EMOJI = [
    {"hexcode": "1F34E", "label": "red apple", "group": 4, "subgroup": 42},
    {"hexcode": "1F436", "label": "dog face", "group": 3, "subgroup": 34},
    {"hexcode": "1F415", "label": "dog", "group": 3, "subgroup": 34},
    {"hexcode": "1F1EA-1F1EC", "label": "flag: Egypt", "group": 9, "subgroup": 42},
]


def tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def png(colour: str) -> bytes:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste(colour, (10, 20, 50, 40))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Packages of four emoji, one of them a flag, by four training vendors and the test vendor."""
    listing = {"en/data.json": json.dumps(EMOJI).encode(), "en/messages.json": json.dumps(MESSAGES).encode()}
    found = {"emojibase": tarball(tmp_path / "base.tgz", listing)}
    for vendor in ("google", "apple", "facebook", "twitter", "fluent"):
        folder = "assets" if vendor == "fluent" else f"img/{vendor}/64"
        members = {f"{folder}/{entry['hexcode'].lower()}.png": png("red") for entry in EMOJI}
        found[f"emoji_{vendor}"] = tarball(tmp_path / f"{vendor}.tgz", members)
    return found


def test_emoji_of_one_name_are_one_concept_and_the_test_vendor_is_held_out(
    files: dict[str, Path], tmp_path: Path
) -> None:
    things = build_things(files, tmp_path / "out")
    assert {(thing.concept, thing.name) for thing in things} == {("emoji:1f34e", "apple"), ("emoji:1f436", "dog")}
    assert len(things) == 3 * 5
    assert {thing.style for thing in things if thing.split == "test"} == {"twitter"}
    assert all(thing.picture().size == (40, 20) for thing in things)
    apple = next(thing for thing in things if thing.name == "apple")
    assert (apple.category, apple.names) == ("food", ("red apple",))
    (tmp_path / "out" / "google" / "1f34e.png").unlink()
    assert build_things({}, tmp_path / "out") == things  # it is read, not built
    assert not (tmp_path / "out" / "google" / "1f34e.png").exists()


def test_a_folder_half_built_is_not_read(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "_write_index", broken)
    with pytest.raises(KeyboardInterrupt):
        build_things(files, tmp_path / "out")
    with pytest.raises(building.ThingsError):
        load_things(tmp_path / "out")


def test_the_naming_test_asks_of_the_test_vendors_drawings(files: dict[str, Path], tmp_path: Path) -> None:
    asked = emoji_test(build_things(files, tmp_path / "out"), tmp_path / "asked")
    assert [thing.style for thing in asked] == ["twitter", "twitter"]
    rows = read_questions(tmp_path / "asked")
    assert [row["answers"][0] for row in rows] == ["apple", "dog"]  # type: ignore[index]
    with Image.open(tmp_path / "asked" / str(rows[0]["image"])) as picture:
        assert picture.size == (336, 336) and picture.getpixel((168, 168)) == (255, 0, 0)
        assert picture.getpixel((40, 168)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("A red Apple.", True), ("a pineapple", False), ("It's a hot dog!", True), ("hot, a dog", True)],
)
def test_right_answers_are_whole_words(answer: str, right: bool) -> None:
    assert is_right(answer, ["apple", "hot dog", "dog"]) is right


@pytest.mark.parametrize(
    ("path", "title", "name"),
    [
        ("food/fruit/apple_01_alan.svg", "Apple 1", "apple"),
        ("animals/libellula_architetto_fra_01.svg", "libellula", "dragonfly"),
        ("people/boy_with_apple.svg", "", "boy"),
        ("food/lemon.svg", "Apple", None),
        ("signs_and_symbols/flags/apple.svg", "", None),
        ("animals/mirjam_meijer_01.svg", "Mirjam Meijer", None),
    ],
)
def test_clip_art_is_named_where_its_names_agree(path: str, title: str, name: str | None) -> None:
    words = {"apple": "emoji:1f34e", "lemon": "emoji:1f34b", "boy": "emoji:1f466"}
    vocabulary = read_vocabulary([Concept(code, word, (), "") for word, code in words.items()])
    found = clipart_concept(path, title, vocabulary)
    assert (found.name if found else None) == name
    if name in words:
        assert found is not None and found.concept == words[str(name)]


def test_bad_clip_art_is_skipped_and_of_some_concepts_one_is_held_out(tmp_path: Path) -> None:
    words = ["apple", "lemon", "boat", "house", "dog", "cat", "bird", "tree", "bus", "pen", "key", "hat"]
    sizes = [str(20 + n).encode() for n in range(3 * len(words))]
    circles = [
        CIRCLE.replace(b'"40"', b'"' + size + b'" stroke="black" stroke-width="' + size + b'"') for size in sizes
    ]
    drawings = [Drawing(f"tools/{words[n // 3]}_{n % 3}.svg", "", circle) for n, circle in enumerate(circles)]
    bad = [Drawing("tools/pen_9.svg", "", circles[0])]  # there already
    bad += [Drawing("tools/ball.svg", "", b"<svg"), Drawing("tools/cup.svg", "", CIRCLE.replace(b"red", b"white"))]
    things = clipart_things(drawings + bad, [Concept(f"emoji:{word}", word, (), "") for word in words], tmp_path)
    assert len(things) == len(drawings)
    held_out = [thing.concept for thing in things if thing.split == "test"]
    assert len(set(held_out)) == len(held_out) and 1 <= len(held_out) <= 8


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dclocal_train.synthetic.clipart.LONGEST", 0.0)
    with Rasteriser() as rasteriser:
        assert rasteriser.draw(CIRCLE) is None
        monkeypatch.setattr("dclocal_train.synthetic.clipart.LONGEST", 20.0)
        assert rasteriser.draw(CIRCLE) is not None


def test_large_drawings_are_made_smaller_and_small_ones_stay() -> None:
    large, small = trimmed(Image.new("RGBA", (1000, 500), "red")), trimmed(Image.new("RGBA", (30, 20), "red"))
    assert large is not None and small is not None
    assert (large.size, small.size) == ((320, 160), (30, 20))
    assert trimmed(Image.new("RGBA", (30, 20), (0, 0, 0, 0))) is None


def test_apt_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCLOCAL_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get is needed"):
        fetch_sources(("openclipart",), None)


def _real(source: str) -> Path:
    folder = os.environ.get("DCLOCAL_TEST_WHEELS")
    path = Path(folder or "") / SOURCES[source].filename
    if folder is None or not path.is_file():
        pytest.skip(f"{SOURCES[source].filename} is not in DCLOCAL_TEST_WHEELS")
    return path


def test_the_real_names_are_everyday_ones() -> None:
    concepts = read_concepts(_real("emojibase"))
    wanted = {"1f34e": "apple", "1f436": "dog", "1f697": "car", "1f366": "ice cream", "2615": "cup of coffee"}
    assert {code: concepts[code].name for code in wanted} == wanted
    assert len(concepts) > 1000
    by_name: dict[str, set[str]] = {}
    for concept in concepts.values():
        by_name.setdefault(concept.name, set()).add(concept.concept)
    assert all(len(found) == 1 for found in by_name.values())
    assert not {"1f1ea-1f1ec", "2648", "1f44b-1f3fb"} & set(concepts)


@pytest.mark.slow
def test_the_real_clip_art_is_read() -> None:
    drawings = read_clipart(_real("openclipart"))
    assert len(drawings) > 7000
    apple = next(drawing for drawing in drawings if drawing.path.startswith("food/fruit/apple"))
    assert "apple" in apple.title.lower()
