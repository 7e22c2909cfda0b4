"""The words that a small model met in training: a list beside its weights.

A model of a few million parameters gives a vector to any string, and nothing in the vector says
that the word in it was never seen. So its directory may hold `words.txt`: lower-case words, one a
line, in the order of their UTF-8 bytes. The list is searched where it lies, as a query has but a
few words and the list has tens of thousands.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable
from pathlib import Path

WORDS_NAME = "words.txt"

# Letters only: numbers, signs and single letters are not worth a warning.
_WORD = re.compile(r"[^\W\d_]{2,}(?:'[^\W\d_]+)?")
_ENDINGS = (
    ("'s", ""), ("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"),
    ("ing", ""), ("ing", "e"), ("ly", ""), ("er", ""), ("er", "e"), ("est", ""), ("est", "e"),
    ("ier", "y"), ("iest", "y"), ("ily", "y"),
)  # fmt: skip


def words_of(text: str) -> list[str]:
    """The words of a text, lower-case, each once, in their order."""
    return list(dict.fromkeys(_WORD.findall(text.lower().replace("\u2019", "'"))))


def unknown_words(folder: Path, text: str) -> list[str]:
    """Words of `text` that neither are in the model's list nor are forms of words in it.

    A text with no word at all ('4x4', an emoji) is unknown as a whole. Empty where the model has
    no list.
    """
    words = words_of(text)
    whole = [text.strip()] if text.strip() and not words else []
    try:
        with (
            (folder / WORDS_NAME).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as known,
        ):
            return whole + [
                word for word in words if not any(_listed(known, form) for form in forms(word))
            ]
    except (OSError, ValueError):  # no list, or an empty one
        return []


def write_words(folder: Path, words: Iterable[str]) -> None:
    """Make these the model's list."""
    lines = sorted({word.encode() for word in words})
    (folder / WORDS_NAME).write_bytes(b"".join(line + b"\n" for line in lines))


def add_words(folder: Path, texts: Iterable[str]) -> None:
    """Put the words of texts that a model was taught into its list; without one it gets none."""
    try:
        known = (folder / WORDS_NAME).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return
    write_words(folder, [*known, *(word for text in texts for word in words_of(text))])


def forms(word: str) -> list[str]:
    """A word, and what it may be a form of: 'ponies' -> 'ponies', 'pony', 'poni', 'ponie'."""
    found = [word]
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word[: -len(ending)]
            found.append(stem + instead)
            if not instead and stem[-1] == stem[-2]:  # 'running'
                found.append(stem[:-1])
    return found


def _listed(known: mmap.mmap, word: str) -> bool:
    """Whether a line of the sorted list is the word."""
    wanted = word.encode()
    low, high = 0, len(known)
    while low < high:
        start = known.rfind(b"\n", 0, (low + high) // 2) + 1
        end = known.find(b"\n", start)
        line = known[start : end if end >= 0 else len(known)]
        if line == wanted:
            return True
        if line < wanted:
            low = start + len(line) + 1
        else:
            high = start
    return False
