"""Every sentence that `pocket` learns from, besides the captions: written by rule, seeded.

Two kinds. Sentences *about photos* (captions, label sentences, shortened captions) are paired with
pictures. Sentences *about the world* (WordNet's nouns in scenes, glosses, captions with another
noun put in, the tokenizer's own words) have no picture: the text tower learns from the sentence
encoder where they lie, so that it knows the words that strangers use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from benchmarks.pocket.wordnet import VISIBLE_KINDS, Nouns, Synset

LABEL_TEMPLATES = (
    "{}",
    "a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "a close-up photo of a {}",
    "a photo of a small {}",
    "a photo of a large {}",
    "a blurry photo of a {}",
    "a bright photo of a {}",
    "a dark photo of a {}",
    "a low resolution photo of a {}",
    "a cropped photo of a {}",
    "a good photo of one {}",
    "photos of {}",
    "many {}",
    "there is a {} here",
    "a {} seen from the side",
    "a beautiful {}",
    "{} on a plain background",
    "a drawing of a {}",
    "an image of a {} in the middle",
    "looking at a {}",
    "{} photo",
)

SCENES = (
    "a {} on the beach",
    "a {} in the snow",
    "a {} in the grass",
    "a {} on a street",
    "a {} on a table",
    "a {} in a field",
    "a {} near the water",
    "a {} at night",
    "a {} in the city",
    "a {} under a blue sky",
    "a man with a {}",
    "a woman holding a {}",
    "a child next to a {}",
    "a dog and a {}",
    "two {}s",
    "a group of {}s",
    "a red {}",
    "a black and white {}",
    "a wooden {}",
    "an old {}",
    "people looking at a {}",
    "a {} at sunset",
    "a {} in the mountains",
    "a {} in a forest",
    "inside a {}",
    "{} in the background",
    "{} and sky",
    "a {} behind a fence",
)

_SMALL_WORDS = """
a an the is are was were be been being of in on at to with and or by for from as it its his her
their there that this while who which has have into onto over up down out off through another other
some one two three near next behind front around
"""


@cache
def _small_words() -> frozenset[str]:
    return frozenset(_SMALL_WORDS.split())


def article(text: str) -> str:
    """'a apple' becomes 'an apple'."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def fill(template: str, name: str) -> str:
    """A template with a name in it, with the right article."""
    return article(template.format(name))


def without_articles(caption: str) -> str:
    """'A dog is in the snow' -> 'dog in snow': how people type."""
    dropped = {"a", "an", "the", "is", "are"}
    return " ".join(word for word in caption.lower().split() if word not in dropped)


def keywords(caption: str, rng: np.random.Generator, most: int = 5) -> str:
    """Two to `most` of a caption's own words, sometimes in another order: 'snow dog'."""
    words = re.findall(r"[a-z'-]+", caption.lower())
    words = [word for word in dict.fromkeys(words) if word not in _small_words()]
    if len(words) <= 2:
        return " ".join(words) or caption
    count = int(rng.integers(2, min(most, len(words)) + 1))
    chosen = sorted(rng.choice(len(words), count, replace=False))
    if rng.random() < 0.3:
        rng.shuffle(chosen)
    return " ".join(words[i] for i in chosen)


def with_another_noun(
    caption: str, known: frozenset[str], nouns: Sequence[str], rng: np.random.Generator
) -> str:
    """One noun of the caption replaced by a random one: a sentence nobody took a photo of."""
    words = caption.split()
    places = [i for i, word in enumerate(words) if word.lower().strip(",.") in known]
    if not places:
        return caption
    words[int(rng.choice(places))] = nouns[int(rng.integers(len(nouns)))]
    return article(" ".join(words))


def first_clause(gloss: str) -> str:
    """A gloss without its examples and afterthoughts, at most 20 words."""
    return " ".join(re.split(r'[;"]', gloss)[0].strip().split()[:20])


def about(synset: Synset, nouns: Nouns) -> list[str]:
    """What WordNet says of one meaning: its words, its gloss, what it is a kind of."""
    name = synset.lemmas[0]
    sentences = [*synset.lemmas[:3], f"{name}: {first_clause(synset.gloss)}"]
    parents = nouns.ancestors(synset, 2)
    sentences += [article(f"a {name}, a kind of {parent}") for parent in parents[:1]]
    return sentences


def taught_nouns(
    nouns: Nouns,
) -> tuple[list[tuple[str, Synset, int]], list[tuple[str, Synset, int]]]:
    """(lemma, synset, count) of nouns that a photo can show, and of all things and beings."""
    return (
        nouns.commonest(kinds=set(VISIBLE_KINDS)),
        nouns.commonest(kinds={5, 6, 8, 13, 17, 18, 20}, least=0),
    )


def world_sentences(
    nouns: Nouns, captions: Sequence[str], tokens: Iterable[str], *, seed: int
) -> list[str]:
    """Some 230,000 different sentences without a picture, in a fixed order."""
    rng = np.random.default_rng(seed)
    visible, things = taught_nouns(nouns)
    common = [lemma for lemma, _, _ in visible]
    sentences = [lemma for lemma, _, _ in visible + things if len(lemma) > 1]
    for lemma, synset, count in visible:
        templates = LABEL_TEMPLATES + SCENES
        chosen = rng.choice(len(templates), 6 if count > 2 else 3, replace=False)
        sentences += [fill(templates[choice], lemma) for choice in chosen]
        sentences += about(synset, nouns)
    for lemma, synset, _ in things:
        if rng.random() < 0.35:
            sentences.append(f"{lemma}: {first_clause(synset.gloss)}")
        if rng.random() < 0.25:
            sentences.append(fill(SCENES[int(rng.integers(len(SCENES)))], lemma))
    sentences += [token for token in tokens if len(token) > 2 and token.isalpha()]
    known = frozenset(common) - _small_words()
    for caption in captions:
        sentences += [with_another_noun(caption, known, common, rng) for _ in range(2)]
    pairs = rng.integers(len(common), size=(20_000, 2))
    sentences += [f"{common[i]} {common[j]}" for i, j in pairs[:10_000]]
    sentences += [article(f"a {common[i]} and a {common[j]}") for i, j in pairs[10_000:]]
    return list(dict.fromkeys(sentences))
