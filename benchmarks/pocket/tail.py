"""The image tower's last stages, trained on against sentences that stay where they are.

The early stages are frozen and their activations cached, which saves the dearer half of a forward
and backward pass. The text side is the teacher's, fixed: all captions can be negatives of
every photo, and every photo's latest vector a negative of every caption, whatever the batch size.
What the teacher sees, or later the whole class of towers that it taught, is to be seen also in
pictures that show two photos: nobody has described them, so they teach how to look and not what
was said. Photos of one label learn to lie together. Once labels are known by heart, labelled photos
are blended in pairs and have a share of both names (Verma et al. 2019, 'Manifold Mixup').
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pocket.corpus import Activations, Corpus
from benchmarks.pocket.half import half_where_quick
from benchmarks.pocket.heads import (
    ImageHead,
    Teacher,
    as_tensors,
    classifier_loss,
    embed,
    features_of,
    likeness_loss,
    unit,
    unit_rows,
)
from benchmarks.pocket.image_tower import run_tail, tail_layers
from benchmarks.pocket.settings import Term
from benchmarks.pocket.student import cosine_schedule, draw
from clipsearch.records import Float32Array
from clipsearch.train.loss import rows_loss

_SAME_MEANING = 0.95
_CAPTIONS_CONTENDING = 2048
_PHOTOS_CONTENDING = 3000


# Captioned, labelled and mixed pictures, in this order: (views, N, D - 1) unit rows each.
Sights = tuple[Float32Array, ...]


def taught_sights(teacher: Teacher, corpus: Corpus) -> Sights:
    """What the teacher sees in all pictures."""
    return tuple(map(teacher.views, (corpus.captioned, corpus.labelled, corpus.mixed)))


def own_sights(trunk: nn.Module, head: nn.Module, seen: Activations) -> Sights:
    """What one trained tower sees in all pictures."""
    kinds = (seen.captioned, seen.labelled, seen.mixed)
    return tuple(see(trunk, head, views) for views in kinds)


def sights_through(head: nn.Module, tower: int, corpus: Corpus) -> Sights:
    """What a tower sees in view 0 of the photos whose trunk is as ImageNet left it."""
    own = features_of(tower)
    return tuple(embed(head, kind[0][:, own])[None] for kind in (corpus.captioned, corpus.labelled))


def see(trunk: nn.Module, head: nn.Module, views: Sequence[np.ndarray]) -> Float32Array:
    """(views, N, D - 1) unit rows: what one trained tower sees in these views."""
    return np.stack([embed_middle(trunk, head, view) for view in views])


def consensus(opinions: Sequence[Sights], shares: Sequence[float]) -> Sights:
    """Weighted means of several opinions, as unit rows."""
    return tuple(
        unit_rows(np.einsum("o,o...->...", np.asarray(shares, np.float32), np.stack(kind)))
        for kind in zip(*opinions, strict=True)
    )


def trainable(trunk: Any, frozen_blocks: int) -> list[nn.Parameter]:
    """Convolutions behind the frozen blocks. Batch norm stays as ImageNet left it."""
    modules = [m for layer in tail_layers(trunk)[frozen_blocks:] for m in layer.modules()]
    return [p for m in modules if isinstance(m, nn.Conv2d) for p in m.parameters()]


def train_tail(
    trunk: nn.Module,
    image_head: ImageHead,
    teacher: Teacher,
    corpus: Corpus,
    term: Term,
    *,
    seen: Activations,
    told: Sights,
    seed: int,
    begun: Sights | None = None,
    report: Callable[[int, str, nn.Module, nn.Module], None],
) -> tuple[nn.Module, nn.Module]:
    """Copies of trunk and image head, trained; with moving averages of their weights inside.

    Args:
        teacher: what sentences mean, from beginning to end.
        seen: all pictures behind this tower's frozen stages.
        told: what is to be seen in them.
        begun: what this tower sees in view 0 of captioned and labelled photos to begin with, where
            that is known.
    """
    torch.manual_seed(seed)
    trunk, head = copy.deepcopy(trunk).eval(), copy.deepcopy(image_head).eval()
    # With the channels innermost, the backward pass takes half the time.
    trunk.to(memory_format=torch.channels_last)
    lesson = _Lesson(teacher, corpus, term, seen, told, np.random.default_rng(seed))
    if begun is None:
        begun = tuple(see(trunk, head, views[:1]) for views in (seen.captioned, seen.labelled))
    lesson.remember(begun)
    head.train()
    trunk.requires_grad_(False)
    convolutions = [
        parameter.requires_grad_(True) for parameter in trainable(trunk, term.frozen_blocks)
    ]
    optimizer = torch.optim.AdamW(
        [
            {"params": convolutions, "lr": term.rate},
            {"params": list(head.parameters()), "lr": 3 * term.rate},
        ],
        weight_decay=0.05,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    weights = [*convolutions, *head.parameters()]
    average = [weight.detach().clone() for weight in weights]
    for step in range(term.steps):
        rate = cosine_schedule(step, term.steps, warmup=50)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        batch = lesson.draw()
        with half_where_quick():
            pooled = run_tail(trunk, _signal(batch.signal))
            images = unit(head(pooled.float()))
        loss, line = lesson.loss(images, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            keep = min(0.99, (step + 1) / (step + 10))
            for mean, now in zip(average, weights, strict=True):
                mean.lerp_(now, 1 - keep)
        report(step + 1, line, trunk, head)
    with torch.no_grad():
        for now, mean in zip(weights, average, strict=True):
            now.copy_(mean)
    trunk.to(memory_format=torch.contiguous_format)
    return trunk, head.eval()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Photos of all three kinds, one after the other.

    Attributes:
        own: captions, one a captioned photo; captioned, labelled: rows of the corpus.
        signal, seen, told: cached activations, all towers' features, the vectors to come to.
        partner, share: labelled photo i has this share of `labelled[partner[i]]` blended in; no
            partners where they are as they are.
    """

    own: np.ndarray
    captioned: np.ndarray
    labelled: np.ndarray
    signal: np.ndarray
    seen: Float32Array
    told: Float32Array
    partner: np.ndarray | None
    share: float


class _Lesson:
    """Batches for the tail, and how far it is from right on each."""

    def __init__(
        self,
        teacher: Teacher,
        corpus: Corpus,
        term: Term,
        seen: Activations,
        told: Sights,
        rng: np.random.Generator,
    ) -> None:
        self._corpus, self._term, self._rng = corpus, term, rng
        self._captions = torch.from_numpy(teacher.texts(corpus.captions.vectors))
        self._labels = torch.from_numpy(teacher.texts(corpus.labels.vectors))
        self._classes = torch.from_numpy(teacher.texts(corpus.imagenet.vectors[:, 2]))
        self._scale = teacher.logit_scale
        self._classifiers = as_tensors(corpus.classifiers)
        self._signals = (seen.captioned, seen.labelled, seen.mixed)
        self._pooled = (corpus.captioned, corpus.labelled, corpus.mixed)
        self._told = told
        photos = np.arange(len(seen.captioned[0]))
        self._spokesman = self._captions[np.searchsorted(corpus.owner, photos), 0]

    def remember(self, begun: Sights) -> None:
        """Every photo's vector, to contend with; kept fresh for the photos of each batch."""
        self._photos, self._named_photos = (torch.from_numpy(kind[0]) for kind in begun)

    def draw(self) -> _Batch:
        corpus, term, rng = self._corpus, self._term, self._rng
        own = rng.choice(len(corpus.owner), term.captioned, replace=False)
        captioned, which = np.unique(corpus.owner[own], return_index=True)
        labelled = rng.choice(len(corpus.label), term.labelled, replace=False)
        mixed = rng.choice(len(corpus.mixed[0]), term.mixed, replace=False)
        view = int(rng.integers(len(corpus.captioned)))
        places = ((view, captioned), (view, labelled), (0, mixed))

        def take(kinds: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
            drawn = zip(kinds, places, strict=True)
            return np.concatenate([views[v][rows] for views, (v, rows) in drawn])

        signal, seen, told = (take(each) for each in (self._signals, self._pooled, self._told))
        partner, share = None, 0.0
        if term.blended and rng.random() < term.blended:
            partner, share = rng.permutation(term.labelled), float(rng.beta(0.4, 0.4))
            named = slice(len(captioned), len(captioned) + term.labelled)
            for each in (signal, seen, told):
                each[named] = (1 - share) * each[named] + share * each[named][partner]
        return _Batch(own[which], captioned, labelled, signal, seen, told, partner, share)

    def loss(self, images: Tensor, batch: _Batch) -> tuple[Tensor, str]:
        """Of the batch's unit rows; and its parts for the log."""
        captioned, labelled = images.split(
            [len(batch.captioned), len(batch.labelled), self._term.mixed]
        )[:2]
        to_text, to_image = self._find_each_other(captioned, batch)
        to_label = self._name(labelled, batch)
        # Of two photos in one nobody can say which others it is like.
        alike = self._find_alike(labelled, batch) if batch.partner is None else torch.zeros(())
        seen = torch.from_numpy(batch.seen)
        judged = classifier_loss(images, seen, self._classes, self._classifiers)
        distance = 1 - (images * torch.from_numpy(batch.told)).sum(1).mean()
        parts = (to_text, to_image, to_label, alike, judged, distance)
        loss = (to_text + to_image) / 2 + to_label + 0.3 * judged + 20 * distance
        return loss + self._term.likeness * alike, " ".join(f"{part.item():.2f}" for part in parts)

    def _find_each_other(self, images: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        captions, rng = self._captions, self._rng
        count = len(batch.own)
        ways = np.where(rng.random(count) < 0.7, 0, rng.integers(captions.shape[1], size=count))
        texts = captions[batch.own, ways]
        others = captions[draw(rng, len(captions), _CAPTIONS_CONTENDING), 0]
        contending = torch.cat([texts, others])
        to_text = _find(images, contending, texts, contending, self._scale)
        self._photos[batch.captioned] = images.detach()
        rest = draw(rng, len(self._photos), _PHOTOS_CONTENDING)
        rest = np.setdiff1d(rest, batch.captioned)
        keys = torch.cat([images, self._photos[rest]])
        about = torch.cat([texts, self._spokesman[rest]])
        return to_text, _find(texts, keys, texts, about, self._scale)

    def _name(self, images: Tensor, batch: _Batch) -> Tensor:
        names = self._labels[:, int(self._rng.integers(self._labels.shape[1]))]
        right = torch.from_numpy(self._corpus.label[batch.labelled])
        scores = self._scale * images @ names.T
        own = nn.functional.cross_entropy(scores, right)
        if batch.partner is None:
            return own
        others = nn.functional.cross_entropy(scores, right[torch.from_numpy(batch.partner)])
        return (1 - batch.share) * own + batch.share * others

    def _find_alike(self, images: Tensor, batch: _Batch) -> Tensor:
        label, source, rows = self._corpus.label, self._corpus.source, batch.labelled
        alike = label[rows][:, None] == label
        contend = source[rows][:, None] == source
        contend[np.arange(len(rows)), rows] = False
        # The backward pass still needs what they contended with, so a copy does that.
        keys = self._named_photos.clone()
        self._named_photos[rows] = images.detach()
        return likeness_loss(images, keys, torch.from_numpy(alike), torch.from_numpy(contend))


@torch.no_grad()
def embed_middle(trunk: nn.Module, head: nn.Module, middle: np.ndarray) -> Float32Array:
    """(N, D) unit rows of cached activations through the trained stages."""
    parts = []
    for start in range(0, len(middle), 64):
        with half_where_quick():
            pooled = run_tail(trunk, _signal(middle[start : start + 64]))
        parts.append(unit(head(pooled.float())).numpy())
    return np.concatenate(parts)


def _signal(middle: np.ndarray) -> Tensor:
    """(B, C, H, W) cached activations as the layers behind them take them."""
    signal = torch.from_numpy(middle.astype(np.float32))
    return signal.contiguous(memory_format=torch.channels_last)


def _find(queries: Tensor, keys: Tensor, meant: Tensor, told: Tensor, scale: float) -> Tensor:
    """Cross-entropy of finding the right keys; query i's own is key i.

    Keys of which nearly the same is told (cosine of the teacher's vectors) are right as well.
    """
    right = meant @ told.T > _SAME_MEANING
    right |= torch.eye(len(queries), len(keys), dtype=torch.bool)
    return rows_loss(queries, keys, scale, right) / len(queries)
