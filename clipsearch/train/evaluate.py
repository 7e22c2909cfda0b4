"""Figures for a model as it is: retrieval, classification by words, probes on frozen features.

They go through the encoder that searches use, so they are the figures of the search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipsearch.errors import SkippedPhoto, TrainingDataError, count
from clipsearch.models.encoder import LocalEncoder
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array
from clipsearch.train.inputs import A_COPY, no_photo_can_be_read, read_picture
from clipsearch.train.metrics import IntArray, PairRetrieval, retrieval_metrics
from clipsearch.train.pairs import (
    LeftOut,
    PhotoSource,
    normalise_caption,
    read_labelled,
    read_pairs,
)
from clipsearch.train.taught import taught_photos

CaptionRule = Literal["all", "first"]
SHOTS = (1, 2, 4, 8, 16)
SINGLE_TEMPLATE = "a photo of a {}."
_FEW_SHOT_DRAWS = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RetrievalFigures:
    """How well captions and photos of a pairs file find each other.

    Attributes:
        taught_photos: how many of the photos the model learned from.
        rule: which captions took part, and when a photo counts as having found one.
    """

    model: str
    photos: int
    taught_photos: int
    rule: str
    metrics: PairRetrieval
    left_out: list[LeftOut]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self, *, per_class: bool = False) -> list[tuple[str, str]]:
        """(what, figure) for a table."""
        rows: list[tuple[str, str]] = []
        for direction, found in (
            ("text to image", self.metrics.text_to_image),
            ("image to text", self.metrics.image_to_text),
        ):
            rows += [(f"{direction} R@{k}", _percent(v)) for k, v in found.recall.items()]
            rows.append((f"{direction} median rank", f"{found.median_rank:g}"))
            rows.append((f"{direction} mean reciprocal rank", f"{found.mean_reciprocal_rank:.3f}"))
        return rows

    def basis(self) -> str:
        """What the figures rest on."""
        found = self.metrics.text_to_image
        of = f"{count(found.pool, 'photo')}, {count(found.queries, 'caption')}"
        return f"retrieval: {of}; {self.rule}"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares in 0..1 of the photos whose class came first, or among the first five."""

    top1: float
    top5: float
    per_class: dict[str, float]


@dataclass(frozen=True, slots=True)
class ZeroShotFigures:
    """Classification by words alone: one template against the mean of OpenAI's 80.

    Attributes:
        taught_photos: how many of the photos the model learned from.
    """

    model: str
    photos: int
    taught_photos: int
    classes: int
    single: Accuracy
    ensemble: Accuracy
    left_out: list[LeftOut]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self, *, per_class: bool = False) -> list[tuple[str, str]]:
        """(what, figure) for a table; with `per_class` a row for each class."""
        rows: list[tuple[str, str]] = []
        for words, accuracy in (("1 template", self.single), ("80 templates", self.ensemble)):
            rows.append((f"classes, {words}, top-1", _percent(accuracy.top1)))
            rows.append((f"classes, {words}, top-5", _percent(accuracy.top5)))
        if per_class:
            rows += [(f"class {name}", _percent(v)) for name, v in self.ensemble.per_class.items()]
        return rows

    def basis(self) -> str:
        """What the figures rest on."""
        return f"classes: {self.photos:,} photos of {self.classes:,} classes, named by words alone"


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """A linear classifier on frozen image vectors, tested on the half that taught nothing.

    Attributes:
        taught_photos: how many of the photos the model learned from.
        linear: accuracy after all photos of the teaching half.
        few_shot: accuracy after k photos a class, mean of three draws; only for k that all
            classes have.
    """

    model: str
    photos: int
    taught_photos: int
    classes: int
    linear: float
    few_shot: dict[int, float]
    left_out: list[LeftOut]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self, *, per_class: bool = False) -> list[tuple[str, str]]:
        """(what, figure) for a table."""
        few = [(f"probe, {k} a class", _percent(value)) for k, value in self.few_shot.items()]
        return [("probe, half of each class", _percent(self.linear)), *few]

    def basis(self) -> str:
        """What the figures rest on."""
        return (
            f"probe: {self.photos:,} photos of {self.classes:,} classes; half of each class teaches"
            " a linear classifier on image vectors, the other half tests it"
        )


def evaluate_retrieval(
    pairs: Path | str,
    encoder: LocalEncoder,
    *,
    captions: CaptionRule = "all",
    photos_folder: Path | str | None = None,
    progress: Progress | None = None,
) -> RetrievalFigures:
    """Recall@1, 5, 10, median rank and mean reciprocal rank on a pairs file, both directions.

    Args:
        captions: `all`: each caption is a search for its one photo, and a photo finds if any one
            of its captions is among the first k. `first`: only the first caption of each photo.
    Raises:
        TrainingDataError: no pairs, or none of their photos can be read.
    """
    described = read_pairs(pairs, photos_folder=photos_folder)
    left_out = list(described.left_out)
    vectors, rows, taught = embed_photos(
        [photo.source for photo in described.photos], encoder, left_out, progress
    )
    said: list[dict[str, str]] = [{} for _ in vectors]
    for number, row in rows.items():
        if said[row]:
            left_out.append(LeftOut(described.photos[number].source.name, A_COPY))
        for caption in described.photos[number].captions:
            said[row].setdefault(normalise_caption(caption), caption)
    last = None if captions == "all" else 1
    texts_of = [list(of_photo.values())[:last] for of_photo in said]
    texts = [text for of_photo in texts_of for text in of_photo]
    owners = [row for row, of_photo in enumerate(texts_of) for _ in of_photo]
    alike = np.unique([normalise_caption(text) for text in texts], return_inverse=True)[1]
    rule = (
        "all captions: each seeks its one photo; a photo finds if any one of its captions is found"
        if captions == "all"
        else "the first caption of each photo alone"
    )
    metrics = retrieval_metrics(vectors, encoder.texts(texts), owners, said=alike)
    return RetrievalFigures(encoder.name, len(vectors), taught, rule, metrics, left_out)


def evaluate_zero_shot(
    labelled: Path | str,
    encoder: LocalEncoder,
    *,
    photos_folder: Path | str | None = None,
    progress: Progress | None = None,
) -> ZeroShotFigures:
    """Accuracy of naming each photo's class by the nearest class name.

    Args:
        labelled: a folder of class folders, or a CSV, JSON lines or tar that names a `label`.
    Raises:
        TrainingDataError: fewer than two classes, or no photo can be read.
    """
    vectors, taught, labels, names, left_out = _labelled_vectors(
        labelled, encoder, photos_folder, progress
    )
    templates = import_open_clip().OPENAI_IMAGENET_TEMPLATES
    single = class_vectors(names, [SINGLE_TEMPLATE.format], encoder)
    ensemble = class_vectors(names, templates, encoder)
    return ZeroShotFigures(
        encoder.name,
        len(vectors),
        taught,
        len(names),
        accuracy(vectors @ single.T, labels, names),
        accuracy(vectors @ ensemble.T, labels, names),
        left_out,
    )


def evaluate_probe(
    labelled: Path | str,
    encoder: LocalEncoder,
    *,
    shots: Sequence[int] = SHOTS,
    seed: int = 0,
    photos_folder: Path | str | None = None,
    progress: Progress | None = None,
) -> ProbeFigures:
    """Accuracy of linear classifiers on frozen image vectors: half of each class teaches them.

    Raises:
        TrainingDataError: fewer than two classes, or a class with a single photo.
    """
    vectors, taught, labels, names, left_out = _labelled_vectors(
        labelled, encoder, photos_folder, progress
    )
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() < 2:
        raise TrainingDataError(
            f"{names[int(counts.argmin())]!r} has one photo: none is left to test with",
            hint="a probe needs at least two photos of each class",
        )
    generator = np.random.default_rng(seed)
    teaching = _draw(labels, [int(count) // 2 for count in counts], generator)
    testing = np.setdiff1d(np.arange(len(labels)), teaching)

    def score(rows: IntArray) -> float:
        weights = fit_linear(vectors[rows], labels[rows], len(names))
        right = np.argmax(_with_one(vectors[testing]) @ weights, axis=1) == labels[testing]
        return float(np.mean(right))

    few: dict[int, float] = {}
    for k in shots:
        if k <= counts.min() // 2:
            draws = [
                teaching[_draw(labels[teaching], [k] * len(names), generator)]
                for _ in range(_FEW_SHOT_DRAWS)
            ]
            few[k] = float(np.mean([score(rows) for rows in draws]))
    return ProbeFigures(
        encoder.name, len(vectors), taught, len(names), score(teaching), few, left_out
    )


def embed_photos(
    sources: Sequence[PhotoSource],
    encoder: LocalEncoder,
    left_out: list[LeftOut],
    progress: Progress | None = None,
) -> tuple[Float32Array, dict[int, int], int]:
    """Vectors of the photos that can be read, each once, and how many of them are not new.

    Not new are those that the model learned from.

    Returns:
        (N, D) vectors; for the places in `sources` of what can be read the row of each, which
        copies of a photo share; how many rows are not new.
    Raises:
        TrainingDataError: none can.
    """
    rows: dict[int, int] = {}
    seen: dict[bytes, int] = {}
    blocks: list[Float32Array] = []
    taught, known = 0, taught_photos(encoder.folder)
    size = encoder.batch_size
    for start in range(0, len(sources), size):
        pixels = []
        for number, source in enumerate(sources[start : start + size], start=start):
            try:
                with source.as_file() as path:
                    digest, image, _ = read_picture(path, encoder.preprocess.source_px)
            except SkippedPhoto as error:
                left_out.append(LeftOut(source.name, error.reason))
                continue
            if digest not in seen:
                seen[digest] = len(seen)
                pixels.append(encoder.preprocess.pixels(image))
                taught += digest in known
            rows[number] = seen[digest]
        if pixels:
            blocks.append(encoder.images(np.stack(pixels)))
        if progress:
            progress(min(start + size, len(sources)), len(sources))
    if not blocks:
        raise no_photo_can_be_read(len(sources), left_out[-1:])
    return np.concatenate(blocks), rows, taught


def class_vectors(
    names: Sequence[str], templates: Sequence[Callable[[str], str]], encoder: LocalEncoder
) -> Float32Array:
    """(C, D) unit rows: the mean over templates of each class name's vectors."""
    rows = []
    for name in names:
        mean = encoder.texts([template(name) for template in templates]).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows).astype(np.float32)


def accuracy(scores: Float32Array, labels: IntArray, names: Sequence[str]) -> Accuracy:
    """Top-1, top-5 and per-class top-1 of (N, C) scores; ties count against."""
    own = scores[np.arange(len(labels)), labels]
    ahead = (scores >= own[:, None]).sum(axis=1) - 1
    first = ahead == 0
    per_class = {name: float(np.mean(first[labels == number])) for number, name in enumerate(names)}
    return Accuracy(float(np.mean(first)), float(np.mean(ahead < 5)), per_class)


def fit_linear(
    vectors: Float32Array, labels: IntArray, classes: int, *, decay: float = 1e-4
) -> Float32Array:
    """(D + 1, C) weights of a logistic regression, the last row its bias, by L-BFGS.

    Args:
        decay: factor of the sum of squared weights in the mean loss; vectors are first scaled by
            sqrt(D), so that their entries are of order one.
    """
    import torch

    inputs = torch.from_numpy(_with_one(vectors))
    wanted = torch.from_numpy(labels)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs @ weights, wanted)
        loss = loss + decay * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    threads = torch.get_num_threads()
    if inputs.numel() < 1 << 20:
        # On a busy machine thousands of small products wait for their second thread far longer
        # than they work: 4.2 s instead of 0.03 for 24 vectors of 32 numbers.
        torch.set_num_threads(1)
    try:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    fitted: Float32Array = weights.detach().numpy()
    return fitted


def _with_one(vectors: Float32Array) -> Float32Array:
    scaled = vectors * np.float32(np.sqrt(vectors.shape[1]))
    return np.concatenate([scaled, np.ones((len(vectors), 1), np.float32)], axis=1)


def _draw(labels: IntArray, counts: Sequence[int], generator: np.random.Generator) -> IntArray:
    """Rows: so many of each class, at random."""
    rows = [
        generator.permutation(np.flatnonzero(labels == number))[:count]
        for number, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(rows)).astype(np.int64)


def _labelled_vectors(
    labelled: Path | str,
    encoder: LocalEncoder,
    photos_folder: Path | str | None,
    progress: Progress | None,
) -> tuple[Float32Array, int, IntArray, list[str], list[LeftOut]]:
    photos, left_out = read_labelled(labelled, photos_folder=photos_folder)
    sources = [source for source, _ in photos]
    vectors, rows, taught = embed_photos(sources, encoder, left_out, progress)
    # A copy must not test what the photo itself has taught, so each photo has one row and class.
    shown: dict[int, str] = {}
    for number, row in rows.items():
        label = photos[number][1]
        if row in shown:
            reason = A_COPY if shown[row] == label else f"it is {shown[row]!r} already"
            left_out.append(LeftOut(sources[number].name, reason))
        shown.setdefault(row, label)
    words = [shown[row] for row in range(len(vectors))]
    names = sorted(set(words))
    if len(names) < 2:
        raise TrainingDataError(
            f"{labelled} shows one class only ({names[0]!r})",
            hint="name a folder with a folder for each class, or a CSV with filepath,label",
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[word] for word in words], dtype=np.int64)
    return vectors, taught, labels, names, left_out


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
