"""Which emoji are things that a person would name, what they are called, and each vendor's drawings of them.

Labels come from emojibase; `names/*.tsv` mends them.  A line of it: code points of one concept, the name (or "-":
left out), other right names separated by "|", and the category where the emoji's own subgroup says it wrongly.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dclocal_train.synthetic.drawings import Concept

VENDORS = ("google", "apple", "facebook", "fluent", "twitter")
TEST_VENDOR = "twitter"
# Groups 1 (people) and 8 (symbols) hold hundreds of variants: of them only what names/*.tsv lists.
LISTED_ONLY, NEVER = (1, 8), (None, 2, 9)
LEFT_OUT = "-"

CATEGORIES = {
    "animal": "animal-mammal animal-bird animal-amphibian animal-reptile animal-marine animal-bug",
    "plant": "plant-flower plant-other",
    "food": "food-fruit food-vegetable food-prepared food-asian food-marine food-sweet",
    "drink": "drink",
    "tableware": "dishware",
    "building": "place-building place-religious",
    "landscape": "place-geographic",
    "place": "place-other",
    "vehicle": "transport-ground transport-water transport-air",
    "weather": "sky-weather",
    "sport": "sport",
    "toy": "game",
    "celebration": "event",
    "award": "award-medal",
    "clothing": "clothing",
    "instrument": "musical-instrument",
    "device": "phone computer light-video sound time music",
    "stationery": "book-paper writing office mail",
    "money": "money",
    "tool": "tool lock science",
    "medicine": "medical",
    "household": "household hotel",
    "object": "other-object place-map arts-crafts",
    "body part": "hand-fingers-open hand-fingers-partial hand-single-finger hand-fingers-closed hands hand-prop"
    " body-parts",
    "person": "person person-gesture person-role person-fantasy person-activity person-sport person-resting family"
    " person-symbol",
    "face": "face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat"
    " face-glasses face-concerned face-negative face-costume cat-face monkey-face",
    "sign": "heart emotion transport-sign warning religion math punctuation other-symbol gender av-symbol currency",
}
CATEGORY_OF = {subgroup: category for category, subgroups in CATEGORIES.items() for subgroup in subgroups.split()}


def read_concepts(emojibase: Path) -> dict[str, Concept]:
    """Code point sequence ("1f34e", without variation selectors) → concept, of every emoji that is kept.

    Emoji of one name are one concept, called after the first of them.
    """
    entries, subgroups = _read_emojibase(emojibase)
    table = _read_names()
    found: dict[str, tuple[str, list[str], str]] = {}
    for code, entry in entries.items():
        if entry.get("group") in NEVER or (entry["group"] in LISTED_ONLY and code not in table):
            continue
        label = entry["label"].lower().replace("’", "'")
        name, others, category = table.get(code, (label, (), ""))
        if name != LEFT_OUT:
            found[code] = (name, [*others, label], category or CATEGORY_OF[subgroups[entry["subgroup"]]])
    first: dict[str, str] = {}
    names: dict[str, dict[str, None]] = {}
    for code, (name, others, _) in found.items():
        first.setdefault(name, code)
        names.setdefault(name, {}).update(dict.fromkeys(other for other in others if other != name))
    return {
        code: Concept(f"emoji:{first[name]}", name, tuple(names[name]), found[first[name]][2])
        for code, (name, _, _) in found.items()
    }


def read_drawings(package: Path, vendor: str) -> Iterator[tuple[str, bytes]]:
    """(code point sequence, picture file) of every drawing in a vendor's npm tarball, in the tarball's order."""
    folder = "package/assets/" if vendor == "fluent" else f"package/img/{vendor}/64/"
    with tarfile.open(package) as archive:
        for member in archive:
            if member.name.startswith(folder) and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                yield _plain(Path(member.name).stem), content.read()


def _plain(code: str) -> str:
    """Sources differ in where they write the variation selector; it tells nothing of the picture."""
    return code.lower().replace("-fe0f", "")


def _read_emojibase(package: Path) -> tuple[dict[str, dict[str, Any]], dict[int, str]]:
    with tarfile.open(package) as archive:
        data, messages = (
            json.load(content)
            for name in ("data", "messages")
            if (content := archive.extractfile(f"package/en/{name}.json")) is not None
        )
    # Two subgroups share number 46 in release 17; both are food.
    subgroups = {subgroup["order"]: subgroup["key"] for subgroup in messages["subgroups"]}
    return {_plain(entry["hexcode"]): entry for entry in data}, subgroups


def _read_names() -> dict[str, tuple[str, tuple[str, ...], str]]:
    table = {}
    for path in sorted((Path(__file__).parent / "names").glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            codes, name, others, category = (*line.split("\t"), "", "")[:4]
            for code in codes.split():
                table[code] = (name, tuple(filter(None, others.split("|"))), category)
    return table
