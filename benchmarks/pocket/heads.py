"""Both towers frozen: small heads over pooled features and sentence vectors, in one space.

Three kinds of pairs share every batch: photos with captions, photos with labels in sentences drawn
afresh, and the rows of ImageNet's classifier (each the direction of one class among the pooled
features) with what is said of their names. A fourth signal needs no pairs: what the classifier
itself sees in a photo, as probabilities over its thousand names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pocket.corpus import WAYS_TO_SAY, Corpus
from benchmarks.pocket.sentence_encoder import DIM
from benchmarks.pocket.settings import Settings
from clipsearch.records import Float32Array
from clipsearch.train.loss import LOGIT_SCALE_CAP, LOGIT_SCALE_FROM_SCRATCH, info_nce_loss
from clipsearch.train.metrics import PairRetrieval, retrieval_metrics

FEATURES = 1280
_SAME_MEANING = 0.95  # sentences this near are no negatives of each other


class ImageHead(nn.Module):
    """Pooled features -> the joint space: timm's `Mlp`, which open_clip calls 'mlp'."""

    def __init__(self, mean: Tensor, deviation: Tensor, dim: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.fc1 = nn.Linear(FEATURES, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        standard = self.dropout((pooled - self.mean) / self.deviation)
        return self.fc2(self.dropout(functional.gelu(self.fc1(standard))))  # type: ignore[no-any-return]


class TextHead(nn.Module):
    """The sentence encoder's vectors -> the joint space."""

    def __init__(self, mean: Tensor, dim: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.straight = nn.Linear(DIM, dim)
        self.bent = nn.Sequential(
            nn.Linear(DIM, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        centred = self.dropout((vectors - self.mean) * math.sqrt(DIM))
        return self.straight(centred) + self.bent(centred)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs of pooled features (B, 1280) and sentence vectors (B, 384), with who is whose."""

    pooled: Tensor
    vectors: Tensor
    targets: Tensor


class PairSampler:
    """Draws mixed batches; every draw takes a random view and a random way to say it."""

    def __init__(
        self, corpus: Corpus, settings: Settings, rng: np.random.Generator, without: frozenset[int]
    ) -> None:
        self._corpus, self._settings, self._rng = corpus, settings, rng
        self._labelled = np.flatnonzero(~np.isin(corpus.label, list(without)))
        pooled = corpus.captioned.pooled[0], corpus.labelled.pooled[0]
        everything = np.concatenate(pooled)
        self.mean = everything.mean(0)
        self.deviation = everything.std(0) + 0.01
        rows = corpus.classifier[0]
        rows = (rows - rows.mean(0)) * self.deviation
        self._rows = rows / rows.std(axis=1, keepdims=True)

    def draw(self) -> Batch:
        corpus, settings, rng = self._corpus, self._settings, self._rng
        captions = rng.choice(len(corpus.owner), settings.captioned_batch, replace=False)
        ways = np.where(
            rng.random(len(captions)) < 0.65, 0, rng.integers(WAYS_TO_SAY, size=len(captions))
        )
        photos = corpus.owner[captions]
        labelled = rng.choice(self._labelled, settings.labelled_batch, replace=False)
        labels = corpus.label[labelled]
        classes = rng.choice(1000, settings.imagenet_batch, replace=False)
        pooled = np.concatenate(
            [
                self._view(corpus.captioned.pooled, photos),
                self._view(corpus.labelled.pooled, labelled),
                self._prototypes(classes),
            ]
        )
        vectors = np.concatenate(
            [
                corpus.captions.vectors[captions, ways],
                _any_way(corpus.labels.vectors, labels, rng),
                _any_way(corpus.imagenet.vectors, classes, rng),
            ]
        )
        identity = np.concatenate([photos, 10**6 + labels, 2 * 10**6 + classes])
        same = identity[:, None] == identity
        same |= vectors @ vectors.T > _SAME_MEANING
        return Batch(*(torch.from_numpy(part) for part in (pooled, vectors, same)))

    def _view(self, pooled: Float32Array, rows: np.ndarray) -> Float32Array:
        view: Float32Array = pooled[self._rng.integers(len(pooled), size=len(rows)), rows]
        return view

    def _prototypes(self, classes: np.ndarray) -> Float32Array:
        """Classifier rows as if they were features: standardised, with noise, put in place."""
        noise = self._rng.standard_normal((len(classes), FEATURES), dtype=np.float32)
        features: Float32Array = self.mean + self.deviation * (self._rows[classes] + 0.5 * noise)
        return features


def _any_way(vectors: Float32Array, groups: np.ndarray, rng: np.random.Generator) -> Float32Array:
    chosen: Float32Array = vectors[groups, rng.integers(vectors.shape[1], size=len(groups))]
    return chosen


@dataclass(frozen=True, slots=True)
class Heads:
    """A trained pair of heads."""

    image: ImageHead
    text: TextHead
    logit_scale: float


@dataclass(frozen=True, slots=True)
class Teacher:
    """Several pairs of heads as one: similarities are their mean, in fewer dimensions.

    The members' unit vectors, side by side, have the mean similarity as their product; the
    leading principal axes of photos and sentences together keep most of it.

    Attributes:
        members: heads, each of its own seed.
        axes: (members x D, D) orthonormal columns.
    """

    members: list[Heads]
    axes: Float32Array

    @property
    def logit_scale(self) -> float:
        return float(np.mean([member.logit_scale for member in self.members]))

    def texts(self, vectors: np.ndarray) -> Float32Array:
        """(..., 384) sentence vectors -> (..., D) unit rows."""
        flat = vectors.reshape(-1, DIM)
        rows = self._project([embed(member.text, flat) for member in self.members])
        return rows.reshape(*vectors.shape[:-1], -1)

    def images(self, pooled: np.ndarray) -> Float32Array:
        """(N, 1280) pooled features -> (N, D) unit rows."""
        return self._project([embed(member.image, pooled) for member in self.members])

    def _project(self, parts: list[Float32Array]) -> Float32Array:
        rows = np.concatenate(parts, axis=1) @ self.axes
        found: Float32Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return found


def join_heads(members: list[Heads], corpus: Corpus, settings: Settings) -> Teacher:
    """The members' common teacher; axes from the training photos and what is said of them."""
    texts = [
        corpus.captions.vectors[:, 0],
        corpus.labels.vectors[:, 2],
        corpus.imagenet.vectors[:, 2],
    ]
    said, seen = (
        np.concatenate(texts),
        np.concatenate([corpus.captioned.pooled[0], corpus.labelled.pooled[0]]),
    )
    sides = [
        np.concatenate([embed(member.text, said) for member in members], axis=1),
        np.concatenate([embed(member.image, seen) for member in members], axis=1),
    ]
    moments = sum(side.T @ side / len(side) for side in sides)
    _, axes = np.linalg.eigh(moments)
    return Teacher(members, np.ascontiguousarray(axes[:, ::-1][:, : settings.dim]))


def distil_image_head(teacher: Teacher, corpus: Corpus, settings: Settings) -> ImageHead:
    """One image head that says what the teacher's members say together."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    pooled = np.concatenate([corpus.captioned.pooled, corpus.labelled.pooled], axis=1)
    taught = np.stack([teacher.images(view) for view in pooled])
    first = teacher.members[0].image
    head = ImageHead(first.mean, first.deviation, settings.dim, dropout=0.1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=settings.distil_steps
    )
    for _ in range(settings.distil_steps):
        views = rng.integers(len(pooled), size=1024)
        rows = rng.integers(pooled.shape[1], size=1024)
        with torch.autocast("cpu", torch.bfloat16):
            images = head(torch.from_numpy(pooled[views, rows]))
        loss = 1 - (unit(images) * torch.from_numpy(taught[views, rows])).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def train_heads(
    corpus: Corpus, settings: Settings, *, seed: int, without: frozenset[int] = frozenset()
) -> Heads:
    """One pair of heads. `without` leaves out the photos and names of these labels."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sampler = PairSampler(corpus, settings, rng, without)
    image = ImageHead(
        torch.from_numpy(sampler.mean), torch.from_numpy(sampler.deviation), settings.dim
    )
    centre = torch.from_numpy(corpus.captions.vectors[:, 0].mean(0))
    text = TextHead(centre, settings.dim, settings.teacher_hidden)
    logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_FROM_SCRATCH))
    optimizer = torch.optim.AdamW(
        [
            {"params": [*image.parameters(), *text.parameters()]},
            {"params": [logit_scale], "weight_decay": 0.0},
        ],
        lr=settings.teacher_rate,
        weight_decay=settings.teacher_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.teacher_rate, total_steps=settings.teacher_steps, pct_start=0.15
    )
    classifier = [torch.from_numpy(part) for part in corpus.classifier]
    for _ in range(settings.teacher_steps):
        batch = sampler.draw()
        names = torch.from_numpy(_any_way(corpus.imagenet.vectors, np.arange(1000), rng))
        with torch.autocast("cpu", torch.bfloat16):
            images, texts, classes = image(batch.pooled), text(batch.vectors), text(names)
        images, texts, classes = (unit(rows) for rows in (images, texts, classes))
        scale = logit_scale.exp()
        loss = info_nce_loss(images, texts, scale, targets=batch.targets)
        real = slice(0, settings.captioned_batch + settings.labelled_batch)
        loss = loss + 0.3 * classifier_loss(images[real], batch.pooled[real], classes, classifier)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            logit_scale.clamp_(0, LOGIT_SCALE_CAP)
    return Heads(image.eval(), text.eval(), float(logit_scale.exp()))


def classifier_loss(
    images: Tensor, pooled: Tensor, classes: Tensor, classifier: list[Tensor], scale: float = 20.0
) -> Tensor:
    """Cross-entropy to what ImageNet's classifier sees in the same photos.

    Args:
        images: (B, D) unit rows; pooled: (B, 1280); classes: (1000, D) unit rows of its names.
    """
    with torch.no_grad():
        seen = functional.softmax(pooled @ classifier[0].T + classifier[1], dim=1)
    return functional.cross_entropy(scale * images @ classes.T, seen)


def unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows.float(), dim=1)


@torch.no_grad()
def embed(head: nn.Module, rows: np.ndarray) -> Float32Array:
    """Unit vectors of many rows through one head."""
    parts: list[Any] = [
        unit(head(torch.from_numpy(rows[start : start + 8192].astype(np.float32)))).numpy()
        for start in range(0, len(rows), 8192)
    ]
    return np.concatenate(parts)


def dev_recall(images: Float32Array, texts: Float32Array) -> PairRetrieval:
    """Retrieval among the dev photos, five captions each."""
    return retrieval_metrics(images, texts, np.arange(len(texts)) // 5)


def in_words(found: PairRetrieval) -> str:
    """'t2i 22.1 49.8 63.1, i2t 28.0 55.6 68.1': recall@1, 5 and 10 in percent."""
    parts = []
    for name, way in (("t2i", found.text_to_image), ("i2t", found.image_to_text)):
        parts.append(name + "".join(f" {100 * way.recall[k]:.1f}" for k in (1, 5, 10)))
    return ", ".join(parts)
