"""Tokens equal open_clip's on ten thousand texts, odd ones included, and come quickly."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipsearch.errors import ModelError
from clipsearch.models import import_open_clip
from clipsearch.models.tokenizer import END_TOKEN, START_TOKEN, Tokenizer, load_merges

ODD = [
    "", " ", "don't", "I'LL we've O'CLOCK 'S 'tis",
    "&amp; &amp;lt;b&amp;gt; &eacute;&nbsp;x &#9731;",
    "<start_of_text>", "a <END_OF_TEXT> b", "schÃ¶n âœ” naïve ﬁne", "\x1b[31mred\x1b[0m", "’s “x”",
    "a\r\nb\x0bc\x0cd\x1ce\x85f\u2028g", "ſt Kelvin K İstanbul ß ẞ", "日本語の夕焼け",
    "서울의 밤", "夕日ＡＢＣ１２３",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 🇩🇪", "مرحبا بالعالم", "שלום", "नमस्ते दुनिया",
    "Привет, мир!", "x²+y²=z² ½ Ⅷ ٣",
    "e\u0301 vs é", "\ufeffbom", "a\u200bb\u00adc", "_snake_case_ #hash @at",
    "!!!???...", "3.14159",
    "antidisestablishmentarianism" * 4, "word " * 500, "🌅" * 200, "\ud800 lone", "tab\tnew\nline",
]  # fmt: skip


def texts(count: int) -> list[str]:
    rng = random.Random(20)
    words = import_open_clip().tokenizer._tokenizer.encoder
    vocabulary = [word.removesuffix("</w>") for word in list(words)[512:-2]]

    def part() -> str:
        kind = rng.randrange(9)
        if kind < 4:
            word = rng.choice(vocabulary)
            return word.upper() if kind == 3 else word
        if kind == 4:
            return rng.choice(ODD[:26])
        ranges = {
            5: [(0x20, 0x7E)],
            6: [(0x00, 0x2FFF)],
            7: [(0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0xAC00, 0xD7A3), (0xFF01, 0xFFEE)],
            8: [(0x27, 0x3B), (0x61, 0x6A)],
        }[kind]
        return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 10)))

    def text() -> str:
        parts = [part() for _ in range(rng.choice([1, 2, 4, 8, 30]))]
        return rng.choice([" ", " ", "", "  "]).join(parts)

    return ODD + [text() for _ in range(count - len(ODD) - 1)] + ["sunset over the sea " * 125]


@pytest.mark.parametrize(
    ("context_length", "clean", "count"),
    [(77, "lower", 10_000), (64, "canonicalize", 2_000), (32, "whitespace", 2_000)],
)
def test_tokens_equal_open_clips(context_length, clean, count):
    open_clip = import_open_clip()
    reference = open_clip.tokenizer.SimpleTokenizer(context_length=context_length, clean=clean)
    batch = texts(count)
    expected = reference(batch).numpy()
    tokens = Tokenizer(context_length, clean=clean).padded(batch)
    different = np.flatnonzero((tokens != expected).any(axis=1))
    assert not len(different), repr(batch[different[0]])


SHARED_TOKENIZER = Tokenizer()


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60))
def test_any_text_has_open_clips_tokens(text):
    expected = import_open_clip().tokenizer._tokenizer([text])[0].numpy()
    np.testing.assert_array_equal(SHARED_TOKENIZER.padded([text])[0], expected)


def test_plain_words_need_neither_ftfy_regex_nor_torch(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from clipsearch.models.tokenizer import Tokenizer;"
        f"Tokenizer(cache_folder=Path({str(tmp_path)!r})).tokens('A dog, 2 cats: it\\'s snowing!');"
        "loaded = {'ftfy', 'regex', 'torch', 'open_clip', 'html', 'PIL'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_table_of_merges_is_kept_and_a_damaged_one_is_made_again(tmp_path: Path):
    fresh = load_merges(tmp_path)
    (kept,) = tmp_path.iterdir()
    np.testing.assert_array_equal(load_merges(tmp_path), fresh)
    kept.write_bytes(kept.read_bytes()[:1000])
    np.testing.assert_array_equal(load_merges(tmp_path), fresh)
    assert kept.stat().st_size > 1000
    kept.write_bytes(b"\0" * kept.stat().st_size)
    np.testing.assert_array_equal(load_merges(tmp_path), fresh)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert Tokenizer(cache_folder=tmp_path / "file" / "cache").tokens("dog") == [
        START_TOKEN, 1929, END_TOKEN
    ]  # fmt: skip


def test_a_cut_text_says_what_is_read():
    tokenizer = Tokenizer(8)
    assert tokenizer.kept("one two three four five six") is None
    assert tokenizer.kept("One two  three four five six seven") == "one two three four five six"
    assert tokenizer.tokens("one two three four five six seven")[-1] == END_TOKEN


def test_an_unknown_cleaning_is_refused():
    with pytest.raises(ModelError):
        Tokenizer(clean="scrub")
