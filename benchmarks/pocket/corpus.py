"""Photos, sentences and their vectors, gathered once and cached, as the trainers want them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.pocket.files import whole
from benchmarks.pocket.image_tower import FeatureReader, cache_features, load_lite
from benchmarks.pocket.photos import MIXED, Photo, mixed_with, read_rendered, read_tars
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
class Activations:
    """All pictures behind one tower's frozen stages: one (N, C, H, W) a view of each kind."""

    captioned: list[Float16Array]
    labelled: list[Float16Array]
    mixed: list[Float16Array]
    dev: Float16Array


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that `pocket` learns from.

    Pictures are (views, N, 1280 for each tower): pooled features, the shipped tower's first.

    Attributes:
        captioned: photos with captions; `owner` maps each caption to its photo.
        captions: one group a caption: as it is, and shortened in three ways.
        labelled: photos with labels; `label` maps each to its group of `labels`, and `source` to
            a number for the collection that it comes from.
        mixed: all of these photos once more, each with another in the same picture.
        labels, imagenet: one group a name, said in every template.
        classifiers: (1000, 1280) and (1000,) for each tower: ImageNet's, over pooled features.
        world: sentences without pictures, and their (S, 384) float16 vectors.
        dev: photos to choose by, view 0 only, and their five captions each.
        caches: each tower's folder of pooled features and activations.
        parts: what captioned photos are cached as.
        seed: of the random views.
        kept, kept_mixed: which rows of the caches `labelled` and `mixed` are; None for all.
    """

    captioned: Float32Array
    owner: np.ndarray
    captions: Sentences
    labelled: Float32Array
    label: np.ndarray
    source: np.ndarray
    mixed: Float32Array
    labels: Sentences
    imagenet: Sentences
    classifiers: list[tuple[Float32Array, Float32Array]]
    world: list[str]
    world_vectors: np.ndarray
    dev: Float32Array
    dev_captions: Sentences
    caches: list[Path]
    parts: list[str]
    seed: int
    kept: np.ndarray | None = None
    kept_mixed: np.ndarray | None = None

    def without(self, names: Set[str]) -> Corpus:
        """As if nobody had ever labelled a photo so: neither these names nor their photos.

        A picture that shows one of these photos beside another is left out too. Only of a whole
        corpus.
        """
        stays = np.array([group[0] not in names for group in self.labels.texts])
        kept = np.flatnonzero(stays[self.label])
        count, captioned = len(self.label), self.captioned.shape[1]
        partner = np.array([mixed_with(i, count, self.seed)[1] for i in range(count)])
        both = np.flatnonzero(stays[self.label] & stays[self.label[partner]])
        kept_mixed = np.concatenate([np.arange(captioned), captioned + both])
        groups = np.flatnonzero(stays)
        return replace(
            self,
            labelled=self.labelled[:, kept],
            label=np.searchsorted(groups, self.label[kept]),
            source=self.source[kept],
            mixed=self.mixed[:, kept_mixed],
            labels=Sentences([self.labels.texts[g] for g in groups], self.labels.vectors[groups]),
            kept=kept,
            kept_mixed=kept_mixed,
        )

    def activations(self, tower: int) -> Activations:
        """Of one tower, the shipped one's number being 0: some 4 GB, from its cache."""
        folder, views = self.caches[tower], range(len(self.captioned))

        def read(parts: list[str], view: int, kept: np.ndarray | None = None) -> Float16Array:
            rows = np.concatenate([np.load(folder / f"{p}-v{view}.middle.npy") for p in parts])
            return rows if kept is None else rows[kept]

        return Activations(
            captioned=[read(self.parts, view) for view in views],
            labelled=[read(["labelled"], view, self.kept) for view in views],
            mixed=[read([*self.parts, "labelled"], MIXED, self.kept_mixed)],
            dev=read(["dev"], 0),
        )


def gather(photos: Path, rendered: Path | None, work: Path, settings: Settings) -> Corpus:
    """Make or reopen the corpus. What `work` already holds is not computed again."""
    work.mkdir(parents=True, exist_ok=True)
    flickr = read_tars(photos / "train", "flickr8k-train-*.tar")
    labelled = read_tars(photos / "train", "labelled-*.tar")
    dev = read_tars(photos / "dev", "*.tar")
    scenes = read_rendered(rendered) if rendered else []
    towers = [(settings.lite, settings.side_px), *settings.teacher_sees]
    caches = [work / "features" / f"lite{lite}" for lite, _ in towers]
    for (lite, side_px), cache in zip(towers, caches, strict=True):
        kinds = {"flickr": flickr, "labelled": labelled, "scenes": scenes}
        _read_features(cache, lite, side_px, settings, kinds, dev)

    captioned = [*flickr, *scenes]
    caption_list = [caption for photo in captioned for caption in photo.captions]
    owner = np.repeat(np.arange(len(captioned)), [len(photo.captions) for photo in captioned])
    label_names = sorted({str(photo.label) for photo in labelled})
    label = np.array([label_names.index(str(photo.label)) for photo in labelled])
    sources = sorted({photo.source for photo in labelled})
    source = np.array([sources.index(photo.source) for photo in labelled])
    groups = sentence_groups(caption_list, label_names, settings)
    groups["dev"] = [[caption] for photo in dev for caption in photo.captions]
    vectors = _encode(work / f"vectors-{len(captioned)}", groups)
    parts = ["flickr", "scenes"] if scenes else ["flickr"]
    views = range(settings.views)
    return Corpus(
        captioned=_pictures(caches, parts, views),
        owner=owner,
        captions=Sentences(groups["captions"], vectors["captions"]),
        labelled=_pictures(caches, ["labelled"], views),
        label=label,
        source=source,
        mixed=_pictures(caches, [*parts, "labelled"], [MIXED]),
        labels=Sentences(groups["labels"], vectors["labels"]),
        imagenet=Sentences(groups["imagenet"], vectors["imagenet"]),
        classifiers=[_classifier(lite) for lite, _ in towers],
        world=[group[0] for group in groups["world"]],
        world_vectors=vectors["world"][:, 0],
        dev=_pooled(caches, "dev", 0),
        dev_captions=Sentences(groups["dev"], vectors["dev"]),
        caches=caches,
        parts=parts,
        seed=settings.seed,
    )


def _read_features(
    cache: Path,
    lite: int,
    side_px: int,
    settings: Settings,
    kinds: dict[str, list[Photo]],
    dev: list[Photo],
) -> None:
    """What one tower makes of every view of every photo, unless its folder has it."""
    wanted = [("dev", dev, 0)]
    for view in (*range(settings.views), MIXED):
        wanted += [(kind, photos, view) for kind, photos in kinds.items() if photos]
    cache.mkdir(parents=True, exist_ok=True)
    missing = [w for w in wanted if not (cache / f"{w[0]}-v{w[2]}.pooled.npy").exists()]
    if not missing:
        return
    reader = FeatureReader(lite, side_px)
    for name, photos, view in missing:
        cache_features(cache, name, photos, reader, view=view, seed=settings.seed)
        print(f"lite{lite} on {name}, view {view}: {len(photos)} photos", flush=True)


def sentence_groups(
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
    world = world_sentences(nouns, captions[:26_420], words, seed=settings.seed)
    return {
        "captions": [
            [c, without_articles(c), keywords(c, rng), keywords(c, rng, 3)] for c in captions
        ],
        "labels": [[fill(t, name) for t in LABEL_TEMPLATES] for name in label_names],
        "imagenet": [
            [fill(t, name) for t in LABEL_TEMPLATES] + more
            for name, more in zip(open_clip.IMAGENET_CLASSNAMES, told, strict=True)
        ],
        "world": [[sentence] for sentence in _some(world, settings.most_world, rng)],
    }


def _some(sentences: list[str], most: int | None, rng: np.random.Generator) -> list[str]:
    if most is None or most >= len(sentences):
        return sentences
    return [sentences[i] for i in rng.choice(len(sentences), most, replace=False)]


def _encode(folder: Path, groups: dict[str, list[list[str]]]) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    encoder = None
    vectors = {}
    for kind, texts in groups.items():
        path, written = folder / f"{kind}.npy", folder / f"{kind}.json"
        if not written.exists() or json.loads(written.read_text(encoding="utf-8")) != texts:
            encoder = encoder or SentenceEncoder()
            flat = [text for group in texts for text in group]
            found = encoder.encode(flat).reshape(len(texts), -1, DIM)
            with whole(path) as draft:
                np.save(draft, found.astype(np.float16 if kind == "world" else np.float32))
            with whole(written) as draft:
                draft.write_text(json.dumps(texts), encoding="utf-8")
            print(f"sentence vectors of {kind}: {len(flat)}", flush=True)
        vectors[kind] = np.load(path)
    return vectors


def _pictures(caches: list[Path], parts: list[str], views: Iterable[int]) -> Float32Array:
    """(views, N, 1280 for each tower)."""
    return np.stack([np.concatenate([_pooled(caches, p, view) for p in parts]) for view in views])


def _pooled(caches: list[Path], name: str, view: int) -> Float32Array:
    """(N, 1280 for each tower)."""
    return np.concatenate([np.load(c / f"{name}-v{view}.pooled.npy") for c in caches], axis=1)


def _classifier(lite: int) -> tuple[Float32Array, Float32Array]:
    classifier = load_lite(lite).classifier
    weights: Float32Array = classifier.weight.detach().numpy().copy()
    bias: Float32Array = classifier.bias.detach().numpy().copy()
    return weights, bias
