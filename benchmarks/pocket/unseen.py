"""Classes never seen: `python -m benchmarks.pocket.unseen --photos DIR --rendered DIR --work DIR`.

Caltech-101's 93 classes are split in five. Five times, a teacher is trained without the photos and
the names of one fifth, and asked for the evaluation photos of just these classes among all 93
names. ImageNet's classifier keeps its thousand names, some of which mean the same: they are words,
not photos. It measures the recipe of the teacher, with one member of each diet; the shipped towers,
which learn from the teacher, are not trained five times.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.pocket.corpus import Corpus, gather
from benchmarks.pocket.evaluate import RESULTS, setting
from benchmarks.pocket.heads import Teacher, join_heads, train_heads, with_coordinate
from benchmarks.pocket.image_tower import FeatureReader
from benchmarks.pocket.photos import read_tar
from benchmarks.pocket.sentences import LABEL_TEMPLATES, fill
from benchmarks.pocket.settings import Settings

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rendered", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="the folder of the training run")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    settings = Settings()
    corpus = gather(chosen.photos, chosen.rendered, chosen.work, settings)
    photos = read_tar(chosen.photos / "labelled-eval" / "caltech101-eval.tar")
    towers = ((settings.lite, settings.side_px), *settings.teacher_sees)
    readers = (FeatureReader(lite, side_px) for lite, side_px in towers)
    pooled = np.concatenate([r.pooled(photos, view=0, seed=settings.seed) for r in readers], axis=1)
    classes = sorted({str(photo.label) for photo in photos})
    truth = np.array([classes.index(str(photo.label)) for photo in photos])

    known = [group[LABEL_TEMPLATES.index("{}")] for group in corpus.labels.texts]
    template = LABEL_TEMPLATES.index("a photo of a {}")
    rows = [known.index(name) for name in classes]
    asked = corpus.labels.vectors[rows, template]
    if corpus.labels.texts[rows[0]][template] != fill("a photo of a {}", classes[0]):
        raise ValueError("the cached label sentences are not those of this version")

    right: dict[str, list[bool]] = {}
    for fold in range(FOLDS):
        left_out = np.arange(len(classes))[fold::FOLDS]
        without = frozenset(rows[i] for i in left_out)
        teacher = _teacher(corpus, settings, seed=100 + fold, without=without)
        named = teacher.hold_back(teacher.texts(asked))
        guesses = (with_coordinate(teacher.images(pooled)) @ named.T).argmax(1)
        for photo in np.flatnonzero(np.isin(truth, left_out)):
            name = classes[truth[photo]]
            right.setdefault(name, []).append(bool(guesses[photo] == truth[photo]))
        print(fold, np.mean([hit for hits in right.values() for hit in hits]), flush=True)

    hits = [hit for each in right.values() for hit in each]
    report = {
        **setting(),
        "classes": len(classes),
        "photos": len(hits),
        "folds": FOLDS,
        "teacher_steps": settings.teacher_steps,
        "top1_on_classes_left_out": float(np.mean(hits)),
        "by_class": {name: float(np.mean(each)) for name, each in sorted(right.items())},
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / "pocket-unseen.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(path)


def _teacher(corpus: Corpus, settings: Settings, *, seed: int, without: frozenset[int]) -> Teacher:
    """One member of each diet."""
    members = [
        train_heads(corpus, settings, diet, seed=seed + 10 * number, without=without)
        for number, diet in enumerate(settings.diets)
    ]
    shares = [diet.share for diet in settings.diets]
    return join_heads(members, shares, corpus, settings, without=without)


if __name__ == "__main__":
    main()
