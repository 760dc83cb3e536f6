"""What drawings are of: their names, which names could be taken for one another, and what is not in a picture."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dclocal_train.synthetic.colours import NAMED
from dclocal_train.synthetic.english import LINKS
from dclocal_train.synthetic.things import Thing

# Of two names with words in one line, it is never asked whether the one is there where the other is: a tiger is a
# cat to some, and a taxi is a car.
_ALIKE = Path(__file__).with_name("alike.txt").read_text(encoding="utf-8").splitlines()
_GROUPS: dict[str, set[str]] = defaultdict(set)
for _line in filter(None, _ALIKE):
    for _word in _line.split():
        _GROUPS[_word].add(f"#{_line.split()[0]}")
# Parts of other things, and what a background may show: never said to be absent.
_PARTS = frozenset(
    "eye ear nose mouth tongue tooth teeth leg foot arm hand hair face head wheel tail bone rock stone sky cloud "
    "shadow wing feather horn wood leaf line symbol sign button mark object dot paw claw fur skin".split()
)
_LITTLE = frozenset((*LINKS, *NAMED, "the", "a", "an", "small", "large", "big", "little", "grey", "old", "new", "hot"))


@dataclass(frozen=True)
class Concepts:
    """The names of things, each with its drawings; build it with `concepts_of`.

    `words`: what a name shares with names that could be taken for it.  `everyday`: the names most often drawn.
    """

    names: tuple[str, ...]
    things: dict[str, tuple[Thing, ...]]
    categories: dict[str, tuple[str, ...]]
    words: dict[str, frozenset[str]]
    everyday: tuple[str, ...]

    def category(self, name: str) -> str:
        """The name's category, "" where none is known."""
        return self.things[name][0].category if name in self.things else ""

    def alike(self, one: str, other: str) -> bool:
        """Whether people could call the one by the other's name."""
        return not self._words(one).isdisjoint(self._words(other))

    def absent(
        self,
        present: Sequence[str],
        contents: Sequence[str],
        random_source: random.Random,
        *,
        among: Sequence[str] = (),
    ) -> str | None:
        """A name of `among` (default: any) that nothing `present` could be taken for, or None after 40 tries."""
        seen = frozenset[str]().union(*(self._words(name) for name in (*present, *contents)))
        for _ in range(40):
            name = random_source.choice(among or self.names)
            words = self._words(name)
            if words.isdisjoint(seen) and words.isdisjoint(_PARTS):
                return name
        return None

    def _words(self, name: str) -> frozenset[str]:
        return self.words[name] if name in self.words else words_of((name,))


def concepts_of(things: Iterable[Thing]) -> Concepts:
    """The concepts of those drawings, things of one name taken together.  Raises ValueError where there are none."""
    by_name: dict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        by_name[thing.name].append(thing)
    if not by_name:
        raise ValueError("no drawings")
    names = tuple(sorted(by_name))
    aliases = {name: {alias for thing in by_name[name] for alias in thing.names} for name in names}
    frequent = Counter(word for name in names for word in words_of(tuple(aliases[name])))
    broad = {word for word, count in frequent.items() if count > 8 and word not in by_name}  # "fruit", "animal"
    words = {name: words_of((name,)) | (words_of(tuple(aliases[name])) - broad) for name in names}
    categories: dict[str, list[str]] = defaultdict(list)
    for name in names:
        categories[by_name[name][0].category].append(name)
    often = sorted(names, key=lambda name: (-len(by_name[name]), len(name), name))
    return Concepts(
        names,
        {name: tuple(found) for name, found in by_name.items()},
        {category: tuple(members) for category, members in categories.items() if category},
        words,
        tuple(often[:80]),
    )


def words_of(names: tuple[str, ...]) -> frozenset[str]:
    """The words of names that could be mistaken, singular, with a mark for each group of things alike."""
    words = {_single(word) for name in names for word in re.findall(r"[a-z]+", name.lower())} - _LITTLE
    return frozenset(words.union(*(_GROUPS.get(word, set()) for word in words)) if words else names)


def _single(word: str) -> str:
    if len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]
