"""Questions on what is written in a picture, with answers that are exactly true of it but for the case of letters.

Readings are in lower case: a language model of this size knows words so, and few of them in capitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

from dclocal_train.synthetic.english import joined, number
from dclocal_train.synthetic.words import Text, WordPicture

MOST_TURNS = 8
READ_ONE = {
    "word": (
        "What word is written here?",
        "Read the word.",
        "What does it say?",
        "what word is this",
        "Which word do you see?",
        "What is written in the picture?",
        "What is the word in the image?",
    ),
    "letters": (
        "Which letters are shown?",
        "Read the letters.",
        "What letters do you see?",
        "What does it say?",
        "What is written here?",
    ),
    "number": (
        "What number is shown?",
        "What is the number?",
        "Read the number.",
        "which number is written here",
        "What number do you see in the picture?",
    ),
    "price": (
        "What is the price?",
        "How much does it cost?",
        "What price is written here?",
        "What does the price tag say?",
        "Read the price.",
    ),
    "time": (
        "What time is written here?",
        "What time does it say?",
        "Read the time.",
        "Which time is shown?",
        "What is the time in the picture?",
    ),
    "phrase": (
        "What does it say?",
        "Read the text.",
        "What is written here?",
        "what is the text in the image",
        "What does the text say?",
    ),
}
ON_SIGN = ("What does the sign say?", "What is written on the sign?", "Read the sign.", "what's on the sign")
ANY_TEXT = (
    "What is the text in the image?",
    "Read the text in the picture.",
    "What does the text say?",
    "Transcribe the text.",
    "What is written in this image?",
)
SPELL = ("Spell the word.", "Spell it letter by letter.", "How is the word spelled?", "spell the word", "Spell it out.")
FIRST = ("What is the first letter?", "Which letter does it begin with?", "What letter does the word start with?")
LAST = ("What is the last letter?", "Which letter does it end with?", "What letter is at the end?")
LENGTH = (
    "How many letters does the word have?",
    "How many letters are there?",
    "How long is the word?",
    "Count the letters of the word.",
)
SAYS = (
    "Does it say '{}'?",
    "Is the text '{}'?",
    'Does the picture say "{}"?',
    "Is '{}' written here?",
    "Do you read '{}'?",
)
COLOUR = (
    "What color is the {}?",
    "What colour is the {}?",
    "Which color does the {} have?",
    "What is the color of the {}?",
)
IS_TEXT = (
    "Is there any text in the picture?",
    "Is there text in this image?",
    "Do you see any text?",
    "Is something written here?",
    "Does the picture contain writing?",
)
CASE = ("Is the text in capital letters?", "Is it written in upper case?", "Are the letters capitals?")
ALL = (
    "Read all the text from top to bottom.",
    "Read all words from top to bottom.",
    "List everything that is written, top to bottom.",
    "What is written in the picture, from top to bottom?",
    "Transcribe all the text.",
)
EDGE = {
    "top": ("What is written at the top?", "What does the top line say?", "Read the text at the top."),
    "bottom": ("What is written at the bottom?", "What does the bottom line say?", "Read the text at the bottom."),
}
HOW_MANY = (
    "How many texts are there?",
    "How many words or numbers are written here?",
    "How many lines of text are there?",
)
NO_TEXT = ("There is no text in the picture.", "No text can be seen.", "Nothing is written there.")
Turn = tuple[str, str]


def ask_words(picture: WordPicture, random: Random) -> list[Turn]:
    """Turns on what is written, at most MOST_TURNS, no question twice, in random order."""
    if not picture.texts:
        return _ask_nothing(random)
    read = replace(picture, texts=tuple(_lower(text) for text in picture.texts))
    turns = _ask_one(read, random) if len(read.texts) == 1 else _ask_several(read, random)
    seen = picture.texts[0].text
    if len(picture.texts) == 1 and len(seen) > 1 and seen.isalpha() and random.random() < 0.3:
        turns.append((random.choice(CASE), "yes" if seen.isupper() else "no"))
    turns.append((random.choice(IS_TEXT), "yes"))
    first, rest = turns[:2], turns[2:]
    random.shuffle(rest)
    kept = list(dict([*first, *rest]).items())[:MOST_TURNS]
    random.shuffle(kept)
    return kept


def words_caption(picture: WordPicture, random: Random) -> str:
    """What is written, in a few words: 'the word "open"', "the number 42", 'a sign that says "STOP"'."""
    if not picture.texts:
        return "an empty background"
    if len(picture.texts) == 1 and picture.sign:
        return f'{"a sign that says" if picture.sign != "plate" else "a plate that says"} "{picture.texts[0].text}"'
    if len(picture.texts) == 1:
        text = picture.texts[0]
        kind = {"phrase": "text", "letters": "letters"}.get(text.kind, text.kind)
        return f'the {kind} "{text.text}"'
    return "the words " + joined([f'"{text.text}"' for text in picture.texts])


def _lower(text: Text) -> Text:
    return replace(text, text=text.text.lower(), near_misses=tuple(miss.lower() for miss in text.near_misses))


def _ask_nothing(random: Random) -> list[Turn]:
    word = random.choice(("open", "stop", "hello", "exit", "sale"))
    return [
        (random.choice(IS_TEXT), "no"),
        (random.choice(ANY_TEXT), random.choice(NO_TEXT)),
        (random.choice(READ_ONE["word"]), random.choice(NO_TEXT)),
        (random.choice(SAYS).format(word), "no"),
    ]


def _ask_one(picture: WordPicture, random: Random) -> list[Turn]:
    """The reading first, twice: it is what matters."""
    (text,) = picture.texts
    named = READ_ONE[text.kind]
    ways = [*(ON_SIGN if picture.sign else ()), *named, *ANY_TEXT]
    turns = [(random.choice(named), text.text), (random.choice(ways), text.text), *_says(text, random)]
    noun = {"phrase": "text", "letters": "text"}.get(text.kind, text.kind)
    if random.random() < 0.6:
        turns.append((random.choice(COLOUR).format(noun), text.colour))
    if text.text.isalpha():
        turns += _ask_letters(text.text, random)
    if random.random() < 0.15:
        turns.append((f"{random.choice(named)} Answer in a full sentence.", f'It says "{text.text}".'))
    return turns


def _ask_letters(word: str, random: Random) -> list[Turn]:
    turns = []
    if len(word) > 1:
        turns.append((random.choice(SPELL), "-".join(word.upper())))
    if random.random() < 0.6:
        turns.append((random.choice(FIRST), word[0]))
    if random.random() < 0.3:
        turns.append((random.choice(LAST), word[-1]))
    if random.random() < 0.3:
        turns.append((random.choice(LENGTH), str(len(word))))
    return turns


def _says(text: Text, random: Random) -> list[Turn]:
    turns = [(random.choice(SAYS).format(text.text), "yes")]
    if text.near_misses:
        turns.append((random.choice(SAYS).format(random.choice(text.near_misses)), "no"))
    return turns


def _ask_several(picture: WordPicture, random: Random) -> list[Turn]:
    texts = picture.texts
    turns = [
        (random.choice(ALL), ", ".join(text.text for text in texts)),
        (random.choice(EDGE["top"]), texts[0].text),
        (random.choice(EDGE["bottom"]), texts[-1].text),
        (random.choice(HOW_MANY), str(len(texts))),
        *_says(random.choice(texts), random),
    ]
    above, below = random.choice(list(pairwise(texts)))
    turns.append((f'What is written below "{above.text}"?', below.text))
    turns.append((f'What is written above "{below.text}"?', above.text))
    turns += _of_one_colour(texts, random)
    if random.random() < 0.2:
        turns.append(
            ("Describe the picture.", f"{number(len(texts)).capitalize()} texts: {', '.join(t.text for t in texts)}.")
        )
    return turns


def _of_one_colour(texts: Sequence[Text], random: Random) -> list[Turn]:
    """The text of a colour that no other has."""
    alone = [text for text in texts if sum(other.colour == text.colour for other in texts) == 1]
    if not alone:
        return []
    text = random.choice(alone)
    noun = "number" if text.kind == "number" else "text"
    return [(f"What does the {text.colour} {noun} say?", text.text)]
