"""Classes never seen: `python -m benchmarks.pocket.unseen --photos DIR --work DIR`.

Caltech-101's 93 classes are split in five. Five times, everything is trained without the photos and
the names of one fifth, and asked for the evaluation photos of just these classes among all 93
names: first a teacher, then an image tower of the kind that ships, which learned from it, beside
the teacher's sentences. They go the way of `train.py` in short, from ImageNet's weights
(`settings.IN_SHORT`); what is left out are the later terms, in which the other towers teach as
well, the whole towers on a GPU, and the small text tower: one that learned for minutes only does
not know the names (trials.md). ImageNet's classifier keeps its thousand names, some of which mean
the same: they are words, not photos.

--training-photos asks for the training photos of the classes that are left out instead, to choose
by, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.pocket.corpus import Corpus, gather
from benchmarks.pocket.evaluate import RESULTS, setting
from benchmarks.pocket.files import whole
from benchmarks.pocket.heads import with_coordinate
from benchmarks.pocket.image_tower import FeatureReader
from benchmarks.pocket.photos import Photo, read_tar
from benchmarks.pocket.sentence_encoder import SentenceEncoder
from benchmarks.pocket.sentences import fill
from benchmarks.pocket.settings import IN_SHORT, Settings
from benchmarks.pocket.tail import embed_middle
from benchmarks.pocket.train import Run
from clipsearch.records import Float16Array, Float32Array

FOLDS = 5
TEMPLATE = "a photo of a {}"


@dataclass(frozen=True, slots=True)
class Exam:
    """Photos of Caltech's classes, and its names in a sentence.

    Attributes:
        middle: (N, C, H, W) behind the shipped tower's frozen stages.
        pooled: (N, 1280 for each tower), what the teacher looks at.
        truth: (N,) which of the names is right.
        vectors: (names, 384) the sentence encoder's.
    """

    middle: Float16Array
    pooled: Float32Array
    truth: np.ndarray
    names: list[str]
    vectors: Float32Array


@dataclass(slots=True)
class Marks:
    """Right or wrong, photo by photo, for classes left out and for those that were learned."""

    left_out: dict[str, list[bool]] = field(default_factory=dict)
    learned: list[bool] = field(default_factory=list)

    def add(self, exam: Exam, images: Float32Array, texts: Float32Array, without: set[str]) -> str:
        right = (images @ texts.T).argmax(1) == exam.truth
        for hit, number in zip(right.tolist(), exam.truth, strict=True):
            name = exam.names[number]
            if name in without:
                self.left_out.setdefault(name, []).append(hit)
            else:
                self.learned.append(hit)
        return f"left out {100 * self.top1:.1f}, learned {100 * np.mean(self.learned):.1f} so far"

    @property
    def top1(self) -> float:
        """Of photos of classes left out, all folds so far."""
        return float(np.mean([hit for hits in self.left_out.values() for hit in hits]))

    def facts(self) -> dict[str, object]:
        return {
            "top1_on_classes_left_out": self.top1,
            "top1_on_classes_learned": float(np.mean(self.learned)),
            "by_class": {n: float(np.mean(hits)) for n, hits in sorted(self.left_out.items())},
        }


def read_exam(photos: list[Photo], settings: Settings) -> Exam:
    """What towers as ImageNet left them see in the photos, and what the names are to MiniLM."""
    names = sorted({str(photo.label) for photo in photos})
    pooled: list[Float32Array] = []
    middle: list[Float16Array] = []
    for lite, side_px in ((settings.lite, settings.side_px), *settings.teacher_sees):
        features = []
        for activations, found in FeatureReader(lite, side_px).read(photos, view=0, seed=0):
            features.append(found.copy())
            if not pooled:
                middle.append(activations.astype(np.float16))
        pooled.append(np.concatenate(features))
    return Exam(
        np.concatenate(middle),
        np.concatenate(pooled, axis=1),
        np.array([names.index(str(photo.label)) for photo in photos]),
        names,
        SentenceEncoder().encode([fill(TEMPLATE, name) for name in names]),
    )


class Fold:
    """Everything trained without some names, in a folder of its own."""

    def __init__(self, corpus: Corpus, settings: Settings, work: Path, without: set[str]) -> None:
        self.run = Run(corpus.without(without), settings, work)

    def share_members(self, base: Fold) -> None:
        """Those that know no label at all need no training of their own."""
        for diet in self.run.settings.diets:
            for seed in () if diet.labelled else diet.seeds:
                base.run.member(diet, seed)
                name = f"member-{seed}.pt"
                with whole(self.run.work / name) as draft:
                    shutil.copyfile(base.run.work / name, draft)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="with train/ and labelled-eval/")
    parser.add_argument("--work", type=Path, required=True, help="for caches and checkpoints")
    parser.add_argument("--rendered", type=Path, help="painted scenes to learn from as well")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--training-photos", action="store_true", help="to choose by")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    corpus = gather(chosen.photos, chosen.rendered, chosen.work, IN_SHORT)
    exam_tar = (
        chosen.photos / "train" / "labelled-caltech-101.tar"
        if chosen.training_photos
        else chosen.photos / "labelled-eval" / "caltech101-eval.tar"
    )
    exam = read_exam(read_tar(exam_tar), IN_SHORT)

    base = Fold(corpus, IN_SHORT, chosen.work / "base", set(exam.names))
    taught, seen = Marks(), Marks()
    for number in chosen.folds:
        without = set(exam.names[number::FOLDS])
        fold = Fold(corpus, IN_SHORT, chosen.work / f"fold-{number}", without)
        fold.share_members(base)
        teacher = fold.run.teacher()
        images = with_coordinate(teacher.images(exam.pooled))
        texts = teacher.hold_back(teacher.texts(exam.vectors))
        fold.run.say(f"fold {number}, teacher: {taught.add(exam, images, texts, without)}")
        images = with_coordinate(embed_middle(*fold.run.tail(teacher), exam.middle))
        fold.run.say(f"fold {number}, image tower: {seen.add(exam, images, texts, without)}")
    if chosen.training_photos or len(chosen.folds) < FOLDS:
        return
    report = {
        **setting(),
        "classes": len(exam.names),
        "photos": len(exam.truth),
        "folds": FOLDS,
        "settings": asdict(IN_SHORT),
        "teacher": taught.facts(),
        "image_tower": seen.facts(),
    }
    chosen.results.mkdir(exist_ok=True)
    path = chosen.results / "pocket-unseen.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
