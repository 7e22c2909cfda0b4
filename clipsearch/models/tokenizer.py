"""CLIP's byte-pair tokenizer: open_clip's `SimpleTokenizer` to the token, without its start-up.

open_clip builds dictionaries of 49,408 strings and imports ftfy, regex and torch before the first
word. Here merges are pairs of token ids, kept sorted in a small file under the cache folder (made
from open_clip's vocabulary on first use), and ftfy and regex are imported only for text that they
could treat differently from plain ASCII rules.

Source: Sennrich et al. 2016; vocabulary of Radford et al. 2021 (MIT), shipped with open_clip.
"""

from __future__ import annotations

import importlib.util
import re
import string
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelError
from clipsearch.models.cache import keep

START_TOKEN = 49406
END_TOKEN = 49407
VOCABULARY_SIZE = 49408
_MERGES = VOCABULARY_SIZE - 2 * 256 - 2
_WORD_END = 256  # byte token b at the end of a word is b + 256
_TABLE_VERSION = 2

# ASCII characters that ftfy leaves alone and that cannot start an HTML entity. Everything else is
# cleaned by ftfy and html.unescape, as open_clip does for every text.
_NEEDS_CLEANING = re.compile(r"[^\t\n\r -%'-~]")
_SPECIAL = "<start_of_text>|<end_of_text>|"
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d|"
# \p{L} and \p{N} for text that is ASCII: the same pattern as open_clip's, without `regex`.
_ASCII_WORDS = re.compile(
    _SPECIAL + _CONTRACTIONS + r"[a-z]+|[0-9]|[^\sa-z0-9]+", re.IGNORECASE | re.ASCII
)
_SPECIAL_IDS = {"<start_of_text>": START_TOKEN, "<end_of_text>": END_TOKEN}
_REMOVE_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Merges(NamedTuple):
    """Two arrays side by side, sorted by `pairs`: a search beats filling a dictionary by 10 ms.

    The smallest of the `results` that a word's pairs have is the merge to do next.
    """

    pairs: npt.NDArray[np.uint32]  # left id << 16 | right id
    results: npt.NDArray[np.uint32]  # rank << 16 | merged id


class Tokenizer:
    """Texts to token ids, as `open_clip.get_tokenizer` would.

    Args:
        context_length: tokens at most, the start and end marks included.
        clean: `lower` (CLIP), `canonicalize` (also drops punctuation) or `whitespace`.
        cache_folder: where the table of merges is kept; None builds it anew (some 50 ms).
    """

    def __init__(
        self,
        context_length: int = 77,
        *,
        clean: str = "lower",
        cache_folder: Path | None = None,
    ) -> None:
        if clean not in _CLEANERS:
            raise ModelError(f"the model wants its text cleaned in an unknown way: {clean!r}")
        self.context_length = context_length
        self._clean: Callable[[str], str] = _CLEANERS[clean]
        self._cache_folder = cache_folder
        self._merges: Merges | None = None
        self._known: dict[str, list[int]] = {}

    def tokens(self, text: str) -> list[int]:
        """The real tokens of one text, marks included, cut to the context: no padding.

        Where the text is cut, the last token is the end mark all the same.
        """
        tokens = [START_TOKEN]
        for word in _words(self._clean(text)):
            tokens += self._word_tokens(word)
            if len(tokens) >= self.context_length:
                break
        tokens = tokens[: self.context_length - 1]
        tokens.append(END_TOKEN)
        return tokens

    def padded(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """(B, context_length) int64, padded with 0: what open_clip's tokenizer returns."""
        table = np.zeros((len(texts), self.context_length), np.int64)
        for row, text in zip(table, texts, strict=True):
            tokens = self.tokens(text)
            row[: len(tokens)] = tokens
        return table

    def kept(self, text: str) -> str | None:
        """The words of a text that the model reads, or None where it reads them all."""
        cleaned = self._clean(text)
        room = self.context_length - 2
        end = 0
        for match in _word_matches(cleaned):
            room -= len(self._word_tokens(match[0]))
            if room < 0:
                return cleaned[:end]
            end = match.end()
        return None

    def _word_tokens(self, word: str) -> list[int]:
        known = self._known.get(word)
        if known is None:
            if self._merges is None:
                self._merges = load_merges(self._cache_folder)
            known = _merge(word, self._merges)
            if len(self._known) < 100_000:  # a training run meets few more words than this
                self._known[word] = known
        return known


def _merge(word: str, merges: Merges) -> list[int]:
    if word in _SPECIAL_IDS:
        return [_SPECIAL_IDS[word]]
    byte_ids = _byte_ids()
    tokens = [byte_ids[byte] for byte in word.encode("utf-8")]
    tokens[-1] += _WORD_END
    while len(tokens) > 1:
        pairs = [left << 16 | right for left, right in pairwise(tokens)]
        wanted = np.array(pairs, np.uint32)
        places = merges.pairs.searchsorted(wanted)
        places[places == len(merges.pairs)] = 0
        results = merges.results[places][merges.pairs[places] == wanted]
        if not len(results):
            break
        result = int(results.min())
        best_pair = int(merges.pairs[places[merges.results[places] == result][0]])
        merged: list[int] = []
        at = 0
        while at < len(tokens):
            if at < len(pairs) and pairs[at] == best_pair:
                merged.append(result & 0xFFFF)
                at += 2
            else:
                merged.append(tokens[at])
                at += 1
        tokens = merged
    return tokens


@lru_cache(maxsize=1)
def _byte_ids() -> list[int]:
    """byte -> token id: printable bytes first, in the order of GPT-2's `bytes_to_unicode`."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    order = printable + [byte for byte in range(256) if byte not in set(printable)]
    ids = [0] * 256
    for token, byte in enumerate(order):
        ids[byte] = token
    return ids


def _words(text: str) -> list[str]:
    pattern: Any = _ASCII_WORDS if text.isascii() else _unicode_words()
    found: list[str] = pattern.findall(text)
    return found


def _word_matches(text: str) -> Iterable[re.Match[str]]:
    pattern: Any = _ASCII_WORDS if text.isascii() else _unicode_words()
    matches: Iterable[re.Match[str]] = pattern.finditer(text)
    return matches


@lru_cache(maxsize=1)
def _unicode_words() -> Any:
    import regex  # type: ignore[import-untyped]

    return regex.compile(
        _SPECIAL + _CONTRACTIONS + r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
    )


def _repair(text: str) -> str:
    if not _NEEDS_CLEANING.search(text):
        return text
    import html

    import ftfy

    # Twice, as open_clip does: captions from the web are often escaped twice over.
    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _clean_whitespace(text: str) -> str:
    return " ".join(_repair(text).split())


def _clean_lower(text: str) -> str:
    return _clean_whitespace(text).lower()


def _clean_canonicalize(text: str) -> str:
    bare = _repair(text).strip().replace("_", " ").translate(_REMOVE_PUNCTUATION)
    return " ".join(bare.lower().split())


_CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _clean_lower,
    "canonicalize": _clean_canonicalize,
    "whitespace": _clean_whitespace,
}


def load_merges(cache_folder: Path | None) -> Merges:
    """The merge table, from the cache folder if it is there and fits open_clip's vocabulary.

    Raises:
        ModelError: open_clip is not installed, so there is no vocabulary.
    """
    source = _vocabulary_path()
    stat = source.stat()
    stamp = np.array([_TABLE_VERSION, stat.st_size, stat.st_mtime_ns, _MERGES], "<i8").tobytes()
    cached = None if cache_folder is None else cache_folder / "clip-merges.bin"
    table = None if cached is None else _read_table(cached, stamp)
    if table is None:
        table = _build_table(source)
        if cached is not None:
            keep(cached, stamp + b"".join(part.astype("<u4").tobytes() for part in table))
    return table


def _vocabulary_path() -> Path:
    spec = importlib.util.find_spec("open_clip")  # finds the package without running it
    if spec is None or spec.origin is None:
        raise ModelError(
            "open_clip is not installed, and with it CLIP's vocabulary",
            hint="install it with `pip install open_clip_torch`",
        )
    return Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")


def _build_table(source: Path) -> Merges:
    import gzip

    lines = gzip.decompress(source.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    letters = _byte_letters()
    ids = dict(letters)
    ids |= {letter + "</w>": token + _WORD_END for letter, token in letters.items()}
    merges = [tuple(line.split()) for line in lines]
    # Two merges can give the same string; open_clip's dictionary then keeps the later id.
    ids |= {left + right: 2 * 256 + rank for rank, (left, right) in enumerate(merges)}
    table = sorted(
        (ids[left] << 16 | ids[right], rank << 16 | ids[left + right])
        for rank, (left, right) in enumerate(merges)
    )
    pairs, results = np.array(table, np.uint32).T
    return Merges(np.ascontiguousarray(pairs), np.ascontiguousarray(results))


def _byte_letters() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, as the vocabulary file writes it -> token id."""
    ids = _byte_ids()
    letters: dict[str, int] = {}
    spare = 256
    for byte in range(256):
        if 0x21 <= byte < 0x7F or 0xA1 <= byte < 0xAD or byte >= 0xAE:
            letters[chr(byte)] = ids[byte]
        else:
            letters[chr(spare)] = ids[byte]
            spare += 1
    return letters


def _read_table(path: Path, stamp: bytes) -> Merges | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.startswith(stamp) or len(content) != len(stamp) + 8 * _MERGES:
        return None
    start = len(stamp)
    pairs = np.frombuffer(content, "<u4", _MERGES, start)
    return Merges(pairs, np.frombuffer(content, "<u4", _MERGES, start + 4 * _MERGES))
