"""Common English words to draw: frequent, plain, without vulgar ones; every tenth is held out for tests."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from dclocal_train.sources import Source, fetch_pinned

WANTED, SHORTEST, LONGEST = 6000, 3, 8
KNOWN, LONGEST_KNOWN = 12_000, 10
SIGN_PHRASES = (
    "open daily", "no entry", "for sale", "stop", "exit", "open", "closed", "push", "pull", "sale", "free wifi",
    "one way", "keep left", "keep right", "no parking", "no smoking", "slow down", "road work", "bus stop", "wet floor",
    "please wait", "staff only", "keep out", "thank you", "welcome", "hot coffee", "fresh bread", "ice cream", "garden",
    "school zone", "car wash", "book shop", "happy birthday", "good morning", "sold out", "new", "taxi", "hotel",
    "menu", "bakery", "library", "museum", "police", "danger", "caution", "ticket office", "first aid",
    "lost and found", "coffee and tea", "buy one get one", "do not enter", "mind the gap", "way out", "pay here",
    "queue here", "toilets",
)  # fmt: skip
PACKAGES = {
    "frequent": Source(
        installer="pip",
        name="symspellpy",
        version="6.10.1",
        filename="symspellpy-6.10.1-py3-none-any.whl",
        sha256="a653a6c125839a21ada87c3e044d690fc3b39872efbd7b7270db3de9471315e1",
    ),
    "dictionary": Source(
        installer="npm",
        name="word-list",
        version="4.1.0",
        filename="word-list-4.1.0.tgz",
        sha256="c0cd6e2a112392204960e9998d79347a8ae1571dab5e3fdbfa685ef5977faedb",
    ),
    "safe": Source(
        installer="npm",
        name="@nkzw/safe-word-list",
        version="3.1.2",
        filename="nkzw-safe-word-list-3.1.2.tgz",
        sha256="9a0d35cdd4a32a9657fca3c59b0f668ba8bd1a722afb2472fc0521e47d003ff8",
    ),
    "vulgar": Source(
        installer="npm",
        name="cuss",
        version="2.2.0",
        filename="cuss-2.2.0.tgz",
        sha256="66b19c6086d3fb3eac3769daf97dd695290ecc24b0fddbc30688418c629b776f",
    ),
}


@dataclass(frozen=True)
class Vocabulary:
    """Lower-case words of 3 to 8 letters; no word of `test` is ever drawn in training.

    `lexicon`: the KNOWN most frequent plain words of up to LONGEST_KNOWN letters, drawn or not.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    lexicon: tuple[str, ...] = ()

    @cached_property
    def neighbours(self) -> dict[str, list[str]]:
        """Training words by each of their patterns with one letter left open ("o?en"): near misses share one."""
        found: dict[str, list[str]] = {}
        for word in self.train:
            for pattern in patterns(word):
                found.setdefault(pattern, []).append(word)
        return found

    @cached_property
    def held_out(self) -> frozenset[str]:
        """The words of `test`, to look up."""
        return frozenset(self.test)


def patterns(word: str) -> list[str]:
    """The word with each of its letters left open in turn."""
    return [f"{word[:index]}?{word[index + 1 :]}" for index in range(len(word))]


def build_vocabulary(source_folder: Path | None) -> Vocabulary:
    """The pinned packages' words, split.  Raises SourceError where a package cannot be had."""
    files = fetch_pinned(PACKAGES, source_folder)
    with zipfile.ZipFile(files["frequent"]) as wheel:
        lines = wheel.read("symspellpy/frequency_dictionary_en_82_765.txt").decode("utf-8-sig").splitlines()
    frequent = [line.split()[0] for line in lines if line.strip()]
    dictionary = set(_text(files["dictionary"], "package/words.txt").split())
    safe = re.findall(r"'([a-z]+)'", _text(files["safe"], "package/index.js"))
    vulgar = set(re.findall(r"^  '?([a-z]+)'?: \d", _text(files["vulgar"], "package/index.js"), re.MULTILINE))
    plain = [word for word in frequent if word in dictionary and word not in vulgar]
    known = dict.fromkeys(word for word in (*plain, *safe) if word.isascii() and 2 <= len(word) <= LONGEST_KNOWN)
    return replace(split_words([*safe, *plain]), lexicon=tuple(known)[:KNOWN])


def save_vocabulary(vocabulary: Vocabulary, file: Path) -> None:
    """Write the words as JSON, whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(asdict(vocabulary)), encoding="utf-8")
    part.replace(file)


def load_vocabulary(file: Path) -> Vocabulary:
    """What `save_vocabulary` wrote."""
    return Vocabulary(**{key: tuple(words) for key, words in json.loads(file.read_text(encoding="utf-8")).items()})


def split_words(words: Iterable[str]) -> Vocabulary:
    """The first WANTED fitting words, a tenth of them held out by their hash; words of signs are never held out."""
    fitting = dict.fromkeys(word for word in words if SHORTEST <= len(word) <= LONGEST and word.isalpha())
    chosen = list(fitting)[:WANTED]
    of_signs = {word for phrase in SIGN_PHRASES for word in phrase.split()}
    test = {word for word in chosen if word not in of_signs and _held_out(word)}
    return Vocabulary(tuple(word for word in chosen if word not in test), tuple(sorted(test)))


def _held_out(word: str) -> bool:
    return hashlib.sha256(word.encode()).digest()[0] < 26


def _text(package: Path, member: str) -> str:
    with tarfile.open(package) as archive:
        packed = archive.extractfile(member)
        assert packed is not None
        return packed.read().decode()
