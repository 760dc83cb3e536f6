"""Names of things as English says them: articles, plurals, lists and numbers in words.

Plurals and articles come from `inflect`; what it cannot know (which names cannot be counted, which are plural
already) is listed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MASS_NOUNS = frozenset(
    "money bread rice cheese bacon broccoli popcorn spaghetti pasta honey ice butter salt water meat milk tofu sushi "
    "garlic ginger corn wine beer coffee tea juice soup curry stew sand snow rain fog wind fire smoke lightning wood "
    "grass hay paper furniture luggage baggage music clothing jewelry cream chocolate candy pepper lettuce seaweed "
    "asparagus tennis golf baseball basketball football soccer volleyball badminton cricket hockey lacrosse boxing "
    "karate judo skiing fishing rugby wheat bamboo cotton toast oil gold silver cash yarn thread soap toothpaste "
    "shrubbery sugar flour tape makeup coral".split()
)
NOT_PLURAL = frozenset(("lens", "canvas", "mars", "gas", "christmas", "rhinoceros", "news", "series", "atlas"))
PLURAL = frozenset(("scissors", "binoculars", "trousers", "pyjamas", "people", "teeth", "feet", "mice", "geese"))
LINKS = ("of", "with", "in", "on", "without", "and", "at", "for", "behind", "from", "over")


@lru_cache(1)
def _engine() -> Any:
    import inflect  # takes 0.1 s to import

    return inflect.engine()


def head(name: str) -> str:
    """The word that a name is about: "slice" of "slice of pizza", "dog" of "hot dog"."""
    words = name.split()
    for index, word in enumerate(words):
        if word in LINKS and index:
            return words[index - 1]
    return words[-1]


@lru_cache(None)
def is_plural(name: str) -> bool:
    """Whether the name is a plural already: "scissors", "grapes"."""
    word = head(name)
    if word in PLURAL:
        return True
    if word in NOT_PLURAL or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return False
    single = _engine().singular_noun(word)
    return bool(single) and _engine().plural_noun(single) == word


def is_mass(name: str) -> bool:
    """Whether the name has no plural and takes no article: "bread"."""
    return head(name) in MASS_NOUNS


def countable(name: str) -> bool:
    """Whether "two …" can be said of it."""
    return not is_plural(name) and not is_mass(name)


@lru_cache(None)
def article(name: str) -> str:
    """ "a dog", "an hourglass", "scissors", "bread"."""
    return _engine().a(name) if countable(name) else name


@lru_cache(None)
def plural(name: str) -> str:
    """ "dogs", "slices of pizza", "knives"; a plural or a mass noun stays as it is."""
    if not countable(name):
        return name
    words = name.split()
    at = next((index - 1 for index, word in enumerate(words) if word in LINKS and index), len(words) - 1)
    words[at] = _engine().plural_noun(words[at])
    return " ".join(words)


@lru_cache(None)
def number(count: int) -> str:
    """ "three"."""
    return str(_engine().number_to_words(count))


def counted(name: str, count: int) -> str:
    """ "a dog", "three dogs"."""
    return article(name) if count == 1 else f"{number(count)} {plural(name)}"


def be(name: str, count: int = 1) -> str:
    """ "is" or "are"."""
    return "are" if count != 1 or is_plural(name) else "is"


def joined(phrases: Sequence[str]) -> str:
    """ "a dog, an apple and a car"."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def sentence(text: str) -> str:
    """Capital first, full stop last."""
    return f"{text[0].upper()}{text[1:]}."
