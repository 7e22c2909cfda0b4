"""Both towers frozen: small heads over pooled features and sentence vectors, in one space.

Three kinds of pairs share every batch: photos with captions, photos with labels in sentences drawn
afresh, and the rows of ImageNet's classifier (each the direction of one class among the pooled
features) with what is said of their names. A fourth signal needs no pairs: what the classifier
itself sees in a photo, as probabilities over its thousand names. A fifth needs no sentences: photos
of one label are alike.
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
from benchmarks.pocket.half import HALF_IS_QUICK, half_where_quick
from benchmarks.pocket.sentence_encoder import DIM
from benchmarks.pocket.settings import Diet, Settings
from clipsearch.records import Float32Array
from clipsearch.train.loss import LOGIT_SCALE_CAP, LOGIT_SCALE_FROM_SCRATCH, info_nce_loss
from clipsearch.train.metrics import PairRetrieval, retrieval_metrics

FEATURES = 1280  # of each tower
_SAME_MEANING = 0.95  # sentences this near are no negatives of each other
_RARE = 0.3  # one noun in four of WordNet's is no nearer than this to its ten nearest photos


class ImageHead(nn.Module):
    """Pooled features -> the joint space, by one linear map.

    It takes in as many features as it has means for. Half of them are dropped in training: that
    taught more than a layer between, which learned the training photos by heart.
    """

    def __init__(self, mean: Tensor, deviation: Tensor, dim: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.map = nn.Linear(len(mean), dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.map(self.dropout((pooled - self.mean) / self.deviation))  # type: ignore[no-any-return]


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
    """Pairs of pooled features (B, F) and sentence vectors (B, 384), with who is whose.

    Attributes:
        targets: (B, B) bool: which sentences (columns) are right for which photos (rows).
        labelled: which rows are photos with labels.
        alike, comparable: (L, L) bool among these: of one label; of one collection, and not the
            same. Photos of two collections can be told apart without a look at what they show.
    """

    pooled: Tensor
    vectors: Tensor
    targets: Tensor
    labelled: slice
    alike: Tensor
    comparable: Tensor


class PairSampler:
    """Draws mixed batches; every draw takes a random view and a random way to say it."""

    def __init__(self, corpus: Corpus, diet: Diet, rng: np.random.Generator) -> None:
        self._corpus, self._diet, self._rng = corpus, diet, rng
        everything = np.concatenate([corpus.captioned[0], corpus.labelled[0]])
        self.mean = everything.mean(0)
        self.deviation = everything.std(0) + 0.01
        towers = np.split(self.deviation, len(corpus.classifiers))
        self._rows = np.concatenate(
            [
                _standard(rows, own)
                for (rows, _), own in zip(corpus.classifiers, towers, strict=True)
            ],
            axis=1,
        )

    def draw(self) -> Batch:
        corpus, diet, rng = self._corpus, self._diet, self._rng
        captions = rng.choice(len(corpus.owner), diet.captioned, replace=False)
        ways = np.where(
            rng.random(len(captions)) < 0.65, 0, rng.integers(WAYS_TO_SAY, size=len(captions))
        )
        photos = corpus.owner[captions]
        labelled = rng.choice(len(corpus.label), diet.labelled, replace=False)
        labels = corpus.label[labelled]
        classes = rng.choice(1000, diet.imagenet, replace=False)
        pooled = np.concatenate(
            [
                self._view(corpus.captioned, photos),
                self._view(corpus.labelled, labelled),
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
        source = corpus.source[labelled]
        return Batch(
            *(torch.from_numpy(part) for part in (pooled, vectors, same)),
            slice(len(photos), len(photos) + len(labelled)),
            torch.from_numpy(labels[:, None] == labels),
            torch.from_numpy((source[:, None] == source) & ~np.eye(len(source), dtype=bool)),
        )

    def _view(self, pooled: Float32Array, rows: np.ndarray) -> Float32Array:
        view: Float32Array = pooled[self._rng.integers(len(pooled), size=len(rows)), rows]
        return view

    def _prototypes(self, classes: np.ndarray) -> Float32Array:
        """Classifier rows as if they were features: standardised, with noise, put in place."""
        noise = self._rng.standard_normal((len(classes), len(self.mean)), dtype=np.float32)
        features: Float32Array = self.mean + self.deviation * (self._rows[classes] + 0.5 * noise)
        return features


def _standard(rows: Float32Array, deviation: Float32Array) -> Float32Array:
    """A classifier's rows as directions of standardised features, each of unit variance."""
    centred = (rows - rows.mean(0)) * deviation
    standard: Float32Array = centred / centred.std(axis=1, keepdims=True)
    return standard


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
    """Several pairs of heads as one: similarities are their weighted mean, in fewer dimensions.

    The members' unit vectors, side by side, have the mean similarity as their product; the
    leading principal axes of photos and sentences together keep most of it.

    Attributes:
        members: heads, each of its own seed.
        shares: of each member in the similarities; they add up to 1.
        axes: (members x D, D - 1) orthonormal columns.
        photos: (P, D - 1) unit rows: training photos, to find out how far a sentence reaches.
        power, neighbours: see `hold_back`.
    """

    members: list[Heads]
    shares: list[float]
    axes: Float32Array
    photos: Float32Array
    power: float
    neighbours: int

    @property
    def logit_scale(self) -> float:
        return float(np.mean([member.logit_scale for member in self.members]))

    def texts(self, vectors: np.ndarray) -> Float32Array:
        """(..., 384) sentence vectors -> (..., D - 1) unit rows, all reaching equally far."""
        flat = vectors.reshape(-1, DIM)
        rows = self._project([embed(member.text, flat) for member in self.members])
        return rows.reshape(*vectors.shape[:-1], -1)

    def images(self, pooled: np.ndarray) -> Float32Array:
        """(N, F) pooled features of all towers -> (N, D - 1) unit rows."""
        return self._project([embed(member.image, pooled) for member in self.members])

    def views(self, pictures: Float32Array) -> Float32Array:
        """(views, N, F) pooled features of all towers -> (views, N, D - 1) unit rows."""
        return np.stack([self.images(view) for view in pictures])

    def hold_back(self, texts: Float32Array) -> Float32Array:
        """(..., D - 1) unit rows of sentences -> (..., D) unit rows, as the text tower learns them.

        A sentence's reach is its mean cosine with the training photos most like it. Names that had
        photos of their own reach far, and win also where they are wrong; so do hubs, which are
        near to everything. Cross-domain similarity local scaling (Conneau et al. 2018) subtracts
        this figure; here a sentence is made shorter by a power of it, and a coordinate that is 0
        in every photo makes it a unit vector again. Which photos a sentence finds stays the same;
        which sentence a photo finds does not.
        """
        flat = texts.reshape(-1, texts.shape[-1])
        length = self._lengths(flat)[:, None]
        rows = np.concatenate([length * flat, np.sqrt(1 - length**2)], axis=1)
        return rows.reshape(*texts.shape[:-1], -1).astype(np.float32)

    def _lengths(self, texts: Float32Array) -> Float32Array:
        """(N,) in (0, 1]; 1 where the nearest photos are as far as those of a rare word."""
        kind = torch.bfloat16 if HALF_IS_QUICK else torch.float32
        photos = torch.from_numpy(self.photos).to(kind).T
        parts = torch.from_numpy(texts).to(kind).split(1024)
        reach = [(part @ photos).topk(self.neighbours).values.float().mean(1) for part in parts]
        lengths: Float32Array = (_RARE / torch.cat(reach).clamp(min=_RARE)).pow(self.power).numpy()
        return lengths

    def _project(self, parts: list[Float32Array]) -> Float32Array:
        return unit_rows(_side_by_side(parts, self.shares) @ self.axes)


def _side_by_side(parts: list[Float32Array], shares: list[float]) -> Float32Array:
    weighed = [share**0.5 * part for part, share in zip(parts, shares, strict=True)]
    return np.concatenate(weighed, axis=1)


def join_heads(
    members: list[Heads], shares: list[float], corpus: Corpus, settings: Settings
) -> Teacher:
    """The members' common teacher; axes from the training photos and what is said of them."""
    texts = [
        corpus.captions.vectors[:, 0],
        corpus.labels.vectors[:, 2],
        corpus.imagenet.vectors[:, 2],
    ]
    said, seen = np.concatenate(texts), np.concatenate([corpus.captioned[0], corpus.labelled[0]])
    sides = [
        _side_by_side([embed(member.text, said) for member in members], shares),
        _side_by_side([embed(member.image, seen) for member in members], shares),
    ]
    moments = sum(side.T @ side / len(side) for side in sides)
    _, axes = np.linalg.eigh(moments)
    leading = np.ascontiguousarray(axes[:, ::-1][:, : settings.dim - 1])
    rows = unit_rows(sides[1] @ leading)
    return Teacher(members, shares, leading, rows, settings.reach_power, settings.reach_neighbours)


def unit_rows(rows: Float32Array) -> Float32Array:
    """(..., D) rows, each of length 1."""
    found: Float32Array = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return found


def features_of(tower: int) -> slice:
    """Which pooled features are one tower's."""
    return slice(tower * FEATURES, (tower + 1) * FEATURES)


def with_coordinate(images: Float32Array) -> Float32Array:
    """(N, D - 1) unit rows of photos -> (N, D), with the 0 that `Teacher.hold_back` needs."""
    return np.pad(images, ((0, 0), (0, 1)))


def distil_image_head(
    teacher: Teacher, corpus: Corpus, settings: Settings, *, tower: int = 0
) -> ImageHead:
    """A head for one tower alone, which says what the teacher's members say together."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    own = features_of(tower)
    pictures = (corpus.captioned, corpus.labelled, corpus.mixed)
    taught = np.concatenate([teacher.images(view) for each in pictures for view in each])
    pooled = np.concatenate([view[:, own] for each in pictures for view in each])
    first = teacher.members[0].image
    dim = settings.dim - 1
    head = ImageHead(first.mean[own], first.deviation[own], dim, dropout=0.3)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=settings.distil_steps
    )
    for _ in range(settings.distil_steps):
        rows = rng.integers(len(pooled), size=2048)
        with half_where_quick():
            images = head(torch.from_numpy(pooled[rows]))
        loss = 1 - (unit(images) * torch.from_numpy(taught[rows])).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def train_heads(corpus: Corpus, settings: Settings, diet: Diet, *, seed: int) -> Heads:
    """One pair of heads."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sampler = PairSampler(corpus, diet, rng)
    image = ImageHead(
        torch.from_numpy(sampler.mean), torch.from_numpy(sampler.deviation), settings.dim
    )
    centre = torch.from_numpy(corpus.captions.vectors[:, 0].mean(0))
    text = TextHead(centre, settings.dim, settings.teacher_hidden)
    logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_FROM_SCRATCH))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(image.parameters()), "lr": settings.teacher_image_rate},
            {"params": list(text.parameters())},
            {"params": [logit_scale], "weight_decay": 0.0},
        ],
        lr=settings.teacher_text_rate,
        weight_decay=settings.teacher_decay,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=settings.teacher_steps, pct_start=0.15
    )
    classifiers = as_tensors(corpus.classifiers)
    for _ in range(settings.teacher_steps):
        batch = sampler.draw()
        names = torch.from_numpy(_any_way(corpus.imagenet.vectors, np.arange(1000), rng))
        with half_where_quick():
            images, texts, classes = image(batch.pooled), text(batch.vectors), text(names)
        images, texts, classes = (unit(rows) for rows in (images, texts, classes))
        scale = logit_scale.exp()
        loss = info_nce_loss(images, texts, scale, targets=batch.targets)
        real = slice(0, batch.labelled.stop)
        loss = loss + 0.3 * classifier_loss(images[real], batch.pooled[real], classes, classifiers)
        if diet.likeness:
            named = images[batch.labelled]
            alike = likeness_loss(named, named, batch.alike, batch.comparable)
            loss = loss + diet.likeness * diet.labelled / len(images) * alike
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            logit_scale.clamp_(0, LOGIT_SCALE_CAP)
    return Heads(image.eval(), text.eval(), float(logit_scale.exp()))


def as_tensors(
    classifiers: list[tuple[Float32Array, Float32Array]],
) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of each classifier, as torch wants them."""
    return [(torch.from_numpy(rows), torch.from_numpy(bias)) for rows, bias in classifiers]


def classifier_loss(
    images: Tensor,
    pooled: Tensor,
    classes: Tensor,
    classifiers: list[tuple[Tensor, Tensor]],
    scale: float = 20.0,
) -> Tensor:
    """Cross-entropy to what the towers' ImageNet classifiers see in the same photos, on average.

    Args:
        images: (B, D) unit rows.
        pooled: (B, F) features of all towers side by side.
        classes: (1000, D) unit rows of the classes' names.
    """
    with torch.no_grad():
        towers = pooled.split(FEATURES, dim=1)
        opinions = [
            functional.softmax(features @ rows.T + bias, dim=1)
            for features, (rows, bias) in zip(towers, classifiers, strict=True)
        ]
        seen = torch.stack(opinions).mean(0)
    return functional.cross_entropy(scale * images @ classes.T, seen)


def likeness_loss(
    images: Tensor, keys: Tensor, alike: Tensor, comparable: Tensor, scale: float = 10.0
) -> Tensor:
    """Supervised contrast (Khosla et al. 2020): every photo finds those of its label.

    Args:
        images, keys: (B, D) and (K, D) unit rows.
        alike, comparable: (B, K) bool: who is of one label, and who contends at all.
    """
    logits = (scale * images @ keys.T).masked_fill(~comparable, -1e4)
    right = alike & comparable
    some = right.any(1)
    if not some.any():
        return logits.sum() * 0.0  # nothing to learn, and not the mean of nothing
    spread = right[some] / right[some].sum(1, keepdim=True)
    return functional.cross_entropy(logits[some], spread)


def unit(rows: Tensor) -> Tensor:
    """(..., D) rows, each of length 1, in float32."""
    return functional.normalize(rows.float(), dim=-1)


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
