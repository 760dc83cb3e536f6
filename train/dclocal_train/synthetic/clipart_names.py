"""What a piece of clip art shows, told from its file name, its title and a closed list of words.

Artists' names, numbers and adjectives are in no list and so fall away.  The list is the emoji's own names, and
`names/clipart/words.tsv`: name (or "-": words that tell nothing), words for it in any language, category.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dclocal_train.synthetic.drawings import Concept

# Icons of themes, abstract shapes, flags, maps, playing cards, signs and pictures with words in them.
SKIPPED_FOLDERS = (
    "computer/icons", "computer/buttons", "shapes", "special", "geography", "logos", "buttons",
    "transportation/aiga-symbols", "transportation/roadsigns", "recreation/games/cards", "people/stickmen",
    "people/smilies", "signs_and_symbols/flags", "signs_and_symbols/map_symbols", "signs_and_symbols/led",
    "signs_and_symbols/hazard",
)  # fmt: skip
FOLDER_CATEGORIES = {
    "animals": "animal", "food/beverages": "drink", "food": "food", "plants": "plant",
    "buildings/furniture": "furniture", "buildings": "building", "people/clothing": "clothing",
    "people/bodypart": "body part", "people": "person", "tools": "tool", "transportation": "vehicle",
    "recreation/music": "instrument", "recreation/sports": "sport", "recreation/toys": "toy",
    "computer": "device", "electronics": "device", "office": "stationery", "education": "stationery",
}  # fmt: skip
UNFIT = re.compile(r"nude|naked|sexy|stripper|gallows|corpse|flag|logo|diagram|kanji|border|background|texture")
LINKING = {"with", "on", "in", "under", "at", "from", "without", "for", "into", "by", "dell", "con"}
COLOURS = {"orange", "lime", "peach", "plum", "olive"}  # fruit in the folder of food, else colours
LONGEST_NAME = 4
LEFT_OUT = "-"


@dataclass(frozen=True)
class Vocabulary:
    """Phrase in lower case → (name, category or "" where the folder tells it); `concepts` are the emoji's, by name."""

    phrases: Mapping[str, tuple[str, str]]
    concepts: Mapping[str, Concept]


def read_vocabulary(emoji: Iterable[Concept]) -> Vocabulary:
    """The words that clip art is named by; a word that several emoji share ("hat") becomes a name of its own."""
    concepts = {concept.name: concept for concept in emoji}
    phrases = {_plain(name): (name, concept.category) for name, concept in concepts.items()}
    shared: dict[str, set[str]] = {}
    for concept in concepts.values():
        for other in concept.names:
            shared.setdefault(other, set()).add(concept.name)
    for other, owners in shared.items():
        owner = min(owners)
        phrases.setdefault(_plain(other), (owner if len(owners) == 1 else other, concepts[owner].category))
    table = Path(__file__).parent / "names" / "clipart" / "words.tsv"
    for line in table.read_text(encoding="utf-8").splitlines():
        name, words, category = (*line.split("\t"), "")[:3]
        for word in words.split("|"):
            phrases[_plain(word)] = (name, category)
    return Vocabulary(phrases, concepts)


def clipart_concept(path: str, title: str, vocabulary: Vocabulary) -> Concept | None:
    """The concept of the drawing at `path` ("food/fruit/apple_01.svg"); None where nothing sure can be said.

    A title that names another thing than the file name does is a reason to leave the drawing out.
    """
    if path.startswith(SKIPPED_FOLDERS) or UNFIT.search(f"{path} {title}".lower()):
        return None
    by_file = _find(PurePosixPath(path).stem, path, vocabulary)
    by_title = _find(title, path, vocabulary)
    if by_file is not None and by_title is not None and by_file[0] != by_title[0]:
        return None
    found = by_file or by_title
    if found is None or found[0] == LEFT_OUT:
        return None
    name, category = found
    if name == "mouse" and path.startswith("computer"):
        name, category = "computer mouse", "device"
    if name in vocabulary.concepts:
        return vocabulary.concepts[name]
    folders = (word for folder, word in FOLDER_CATEGORIES.items() if path.startswith(folder))
    return Concept(f"clipart:{name}", name, (), category or next(folders, "object"))


def _find(text: str, path: str, vocabulary: Vocabulary) -> tuple[str, str] | None:
    """The longest phrase of the list before the first linking word; of two, the later: the head of a noun phrase."""
    words = _plain(re.sub(r"([a-z])([A-Z])", r"\1 \2", text)).split()
    end = next((index for index, word in enumerate(words) if index and word in LINKING), len(words))
    words = words[:end]
    for length in range(LONGEST_NAME, 0, -1):
        for start in range(len(words) - length, -1, -1):
            phrase = " ".join(words[start : start + length])
            if phrase in COLOURS and not path.startswith("food"):
                continue
            for form in _singulars(phrase):
                if form in vocabulary.phrases:
                    return vocabulary.phrases[form]
    return None


def _plain(text: str) -> str:
    return " ".join(re.split(r"[^a-z]+", text.lower().replace("'s", "s"))).strip()


def _singulars(phrase: str) -> list[str]:
    forms = [phrase]
    for plural, singular in (("ies", "y"), ("ves", "f"), ("es", ""), ("s", "")):
        if phrase.endswith(plural):
            forms.append(phrase.removesuffix(plural) + singular)
    return [form for form in forms if form]
