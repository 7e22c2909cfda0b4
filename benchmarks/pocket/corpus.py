"""Photos, sentences and their vectors, gathered once and cached, as the trainers want them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.pocket.image_tower import FeatureReader, cache_features, load_lite
from benchmarks.pocket.photos import MIXED, Photo, read_rendered, read_tars
from benchmarks.pocket.sentence_encoder import DIM, SentenceEncoder
from benchmarks.pocket.sentences import (
    LABEL_TEMPLATES,
    about,
    fill,
    keywords,
    without_articles,
    world_sentences,
)
from benchmarks.pocket.settings import Settings
from benchmarks.pocket.wordnet import read_nouns
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float16Array, Float32Array

WAYS_TO_SAY = 4  # a caption, without articles, and twice as key words


@dataclass(frozen=True, slots=True)
class Sentences:
    """Sentences in groups of equal size, with the sentence encoder's vectors.

    Attributes:
        texts: G groups of V sentences that mean one thing.
        vectors: (G, V, 384) unit rows.
    """

    texts: list[list[str]]
    vectors: Float32Array


@dataclass(frozen=True, slots=True)
class Pictures:
    """Photos as the frozen stages left them, several views of each.

    Attributes:
        pooled: (views, N, 1280 for each tower); the tower that is shipped comes first.
        middle: one (N, C, H, W) a view, of the tower that is shipped.
    """

    pooled: Float32Array
    middle: list[Float16Array]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that `pocket` learns from.

    Attributes:
        captioned: photos with captions; `owner` maps each caption to its photo.
        captions: one group a caption: as it is, and shortened in three ways.
        labelled: photos with labels; `label` maps each to its group of `labels`, and `source` to
            a number for the collection that it comes from.
        mixed: all of these photos once more, each with another in the same picture.
        labels, imagenet: one group a name, said in every template.
        classifiers: (1000, 1280) and (1000,) for each tower: ImageNet's, over pooled features.
        world: sentences without pictures, and their (S, 384) float16 vectors.
        dev, dev_middle: photos to choose by, view 0 only, and their five captions each.
    """

    captioned: Pictures
    owner: np.ndarray
    captions: Sentences
    labelled: Pictures
    label: np.ndarray
    source: np.ndarray
    mixed: Pictures
    labels: Sentences
    imagenet: Sentences
    classifiers: list[tuple[Float32Array, Float32Array]]
    world: list[str]
    world_vectors: np.ndarray
    dev: Float32Array
    dev_middle: Float16Array
    dev_captions: Sentences


def gather(photos: Path, rendered: Path | None, work: Path, settings: Settings) -> Corpus:
    """Make or reopen the corpus. What `work` already holds is not computed again."""
    work.mkdir(parents=True, exist_ok=True)
    flickr = read_tars(photos / "train", "flickr8k-train-*.tar")
    labelled = read_tars(photos / "train", "labelled-*.tar")
    dev = read_tars(photos / "dev", "*.tar")
    scenes = read_rendered(rendered) if rendered else []
    features = work / "features"
    _read_features(features, settings, flickr=flickr, labelled=labelled, dev=dev, scenes=scenes)

    captioned = [*flickr, *scenes]
    caption_list = [caption for photo in captioned for caption in photo.captions]
    owner = np.repeat(np.arange(len(captioned)), [len(photo.captions) for photo in captioned])
    label_names = sorted({str(photo.label) for photo in labelled})
    label = np.array([label_names.index(str(photo.label)) for photo in labelled])
    sources = sorted({photo.source for photo in labelled})
    source = np.array([sources.index(photo.source) for photo in labelled])
    groups = _sentences(caption_list, label_names, settings)
    groups["dev"] = [[caption] for photo in dev for caption in photo.captions]
    vectors = _encode(work / f"vectors-{len(captioned)}", groups)
    parts = ["flickr", "scenes"] if scenes else ["flickr"]
    views = range(settings.views)
    lites = [lite for lite, _ in settings.teacher_sees]
    return Corpus(
        captioned=_pictures(features, lites, parts, views),
        owner=owner,
        captions=Sentences(groups["captions"], vectors["captions"]),
        labelled=_pictures(features, lites, ["labelled"], views),
        label=label,
        source=source,
        mixed=_pictures(features, lites, [*parts, "labelled"], [MIXED]),
        labels=Sentences(groups["labels"], vectors["labels"]),
        imagenet=Sentences(groups["imagenet"], vectors["imagenet"]),
        classifiers=[_classifier(lite) for lite in (settings.lite, *lites)],
        world=[group[0] for group in groups["world"]],
        world_vectors=vectors["world"][:, 0],
        dev=_pooled(features, lites, "dev", 0),
        dev_middle=np.load(features / "dev-v0.middle.npy"),
        dev_captions=Sentences(groups["dev"], vectors["dev"]),
    )


def _read_features(
    folder: Path,
    settings: Settings,
    *,
    flickr: list[Photo],
    labelled: list[Photo],
    dev: list[Photo],
    scenes: list[Photo],
) -> None:
    wanted = [("dev", dev, 0)]
    for view in (*range(settings.views), MIXED):
        wanted += [("flickr", flickr, view), ("labelled", labelled, view)]
        wanted += [("scenes", scenes, view)] if scenes else []
    towers = [(settings.lite, settings.side_px, folder)]
    towers += [(lite, side, folder / f"lite{lite}") for lite, side in settings.teacher_sees]
    for lite, side_px, place in towers:
        place.mkdir(exist_ok=True)
        missing = [w for w in wanted if not (place / f"{w[0]}-v{w[2]}.pooled.npy").exists()]
        if not missing:
            continue
        reader, shipped = FeatureReader(lite, side_px), place == folder
        for name, photos, view in missing:
            cache_features(
                place, name, photos, reader, view=view, seed=settings.seed, middle_too=shipped
            )
            print(f"lite{lite} on {name}, view {view}: {len(photos)} photos", flush=True)


def _sentences(
    captions: list[str], label_names: list[str], settings: Settings
) -> dict[str, list[list[str]]]:
    """Groups of sentences by kind, in an order that depends on the seed alone."""
    rng = np.random.default_rng(settings.seed)
    open_clip = import_open_clip()
    from timm.data import ImageNetInfo

    nouns = read_nouns()
    synsets = [nouns.synsets[int(name[1:])] for name in ImageNetInfo().label_names()]
    told = [(about(synset, nouns) * 5)[:5] for synset in synsets]
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    words = [token[:-4] for token in tokenizer.encoder if token.endswith("</w>")]
    return {
        "captions": [
            [c, without_articles(c), keywords(c, rng), keywords(c, rng, 3)] for c in captions
        ],
        "labels": [[fill(t, name) for t in LABEL_TEMPLATES] for name in label_names],
        "imagenet": [
            [fill(t, name) for t in LABEL_TEMPLATES] + more
            for name, more in zip(open_clip.IMAGENET_CLASSNAMES, told, strict=True)
        ],
        "world": [
            [s] for s in world_sentences(nouns, captions[:26_420], words, seed=settings.seed)
        ],
    }


def _encode(folder: Path, groups: dict[str, list[list[str]]]) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    encoder = None
    vectors = {}
    for kind, texts in groups.items():
        path = folder / f"{kind}.npy"
        if not path.exists():
            encoder = encoder or SentenceEncoder()
            flat = [text for group in texts for text in group]
            found = encoder.encode(flat).reshape(len(texts), -1, DIM)
            np.save(path, found.astype(np.float16 if kind == "world" else np.float32))
            (folder / f"{kind}.json").write_text(json.dumps(texts), encoding="utf-8")
            print(f"sentence vectors of {kind}: {len(flat)}", flush=True)
        vectors[kind] = np.load(path)
    return vectors


def _pictures(
    folder: Path, lites: Sequence[int], parts: list[str], views: Iterable[int]
) -> Pictures:
    pooled = [np.concatenate([_pooled(folder, lites, p, view) for p in parts]) for view in views]
    middle = [
        np.concatenate([np.load(folder / f"{part}-v{view}.middle.npy") for part in parts])
        for view in views
    ]
    return Pictures(np.stack(pooled), middle)


def _pooled(folder: Path, lites: Sequence[int], name: str, view: int) -> Float32Array:
    """(N, 1280 for each tower)."""
    places = [folder, *(folder / f"lite{lite}" for lite in lites)]
    return np.concatenate([np.load(p / f"{name}-v{view}.pooled.npy") for p in places], axis=1)


def _classifier(lite: int) -> tuple[Float32Array, Float32Array]:
    classifier = load_lite(lite).classifier
    weights: Float32Array = classifier.weight.detach().numpy().copy()
    bias: Float32Array = classifier.bias.detach().numpy().copy()
    return weights, bias
