"""The image tower's last stages, trained on against sentences that stay where they are.

The early stages are frozen and their activations cached, so a step costs a third of a whole
forward and backward pass. The text side is the teacher's, fixed: all captions can be negatives of
every photo, and every photo's latest vector a negative of every caption, whatever the batch size.
The teacher, which sees through three towers, also says what it sees in pictures that show two
photos: nobody has described them, so they teach how to look and not what was said. Photos of one
label learn to lie together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pocket.corpus import Corpus
from benchmarks.pocket.heads import (
    ImageHead,
    Teacher,
    as_tensors,
    classifier_loss,
    likeness_loss,
    unit,
)
from benchmarks.pocket.image_tower import run_tail, tail_layers
from benchmarks.pocket.settings import Settings, Term
from benchmarks.pocket.student import cosine_schedule
from clipsearch.records import Float32Array
from clipsearch.train.loss import rows_loss

_SAME_MEANING = 0.95


def trainable(trunk: Any) -> list[nn.Parameter]:
    """Convolutions behind the cached activations. Batch norm stays as ImageNet left it."""
    modules = [m for layer in tail_layers(trunk) for m in layer.modules()]
    return [p for m in modules if isinstance(m, nn.Conv2d) for p in m.parameters()]


def train_tail(
    trunk: nn.Module,
    image_head: ImageHead,
    teacher: Teacher,
    corpus: Corpus,
    settings: Settings,
    term: Term,
    *,
    seed: int,
    report: Callable[[int, str, nn.Module, nn.Module], None],
) -> tuple[nn.Module, nn.Module]:
    """Copies of trunk and image head, trained; with moving averages of their weights inside."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    trunk, head = copy.deepcopy(trunk).eval(), copy.deepcopy(image_head)
    trunk.requires_grad_(False)
    convolutions = [parameter.requires_grad_(True) for parameter in trainable(trunk)]
    optimizer = torch.optim.AdamW(
        [
            {"params": convolutions, "lr": settings.tail_rate},
            {"params": list(head.parameters()), "lr": 3 * settings.tail_rate},
        ],
        weight_decay=0.05,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    average = [p.detach().clone() for p in (*convolutions, *head.parameters())]
    captions = torch.from_numpy(teacher.texts(corpus.captions.vectors))
    labels = torch.from_numpy(teacher.texts(corpus.labels.vectors))
    classes = torch.from_numpy(teacher.texts(corpus.imagenet.vectors[:, 2]))
    scale = teacher.logit_scale
    classifiers = as_tensors(corpus.classifiers)
    kinds = (corpus.captioned, corpus.labelled, corpus.mixed)
    taught = [teacher.views(pictures) for pictures in kinds]
    bank, named_bank = (
        torch.from_numpy(embed_middle(trunk, head.eval(), pictures.middle[0]))
        for pictures in (corpus.captioned, corpus.labelled)
    )
    head.train()
    spokesman = captions[np.searchsorted(corpus.owner, np.arange(len(bank))), 0]
    for step in range(term.steps):
        rate = cosine_schedule(step, term.steps, warmup=50)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate
        own = rng.choice(len(corpus.owner), term.captioned, replace=False)
        captioned, which = np.unique(corpus.owner[own], return_index=True)
        own = own[which]
        labelled = rng.choice(len(corpus.label), term.labelled, replace=False)
        mixed = rng.choice(len(corpus.mixed.pooled[0]), term.mixed, replace=False)
        view = int(rng.integers(settings.views))
        places = list(zip(kinds, (view, view, 0), (captioned, labelled, mixed), strict=True))
        signal = np.concatenate([pictures.middle[v][rows] for pictures, v, rows in places])
        seen = np.concatenate([pictures.pooled[v][rows] for pictures, v, rows in places])
        told = np.concatenate([t[v][rows] for t, (_, v, rows) in zip(taught, places, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            pooled = run_tail(trunk, torch.from_numpy(signal.astype(np.float32)))
            images = unit(head(pooled.float()))
        mine, named, _ = images.split([len(captioned), len(labelled), len(mixed)])
        ways = np.where(
            rng.random(len(own)) < 0.7, 0, rng.integers(captions.shape[1], size=len(own))
        )
        texts = captions[own, ways]
        others = captions[rng.choice(len(corpus.owner), 2048, replace=False), 0]
        to_text = _find(mine, torch.cat([texts, others]), texts, torch.cat([texts, others]), scale)
        bank[captioned] = mine.detach()
        rest = np.setdiff1d(rng.choice(len(bank), 3000, replace=False), captioned)
        about = torch.cat([texts, spokesman[rest]])
        to_image = _find(texts, torch.cat([mine, bank[rest]]), texts, about, scale)
        template = int(rng.integers(labels.shape[1]))
        names = torch.from_numpy(corpus.label[labelled])
        to_label = nn.functional.cross_entropy(scale * named @ labels[:, template].T, names)
        of_label = corpus.label[labelled][:, None] == corpus.label
        contend = corpus.source[labelled][:, None] == corpus.source
        contend[np.arange(len(labelled)), labelled] = False
        alike = likeness_loss(
            named, named_bank, torch.from_numpy(of_label), torch.from_numpy(contend)
        )
        judged = classifier_loss(images, torch.from_numpy(seen), classes, classifiers)
        distance = 1 - (images * torch.from_numpy(told)).sum(1).mean()
        loss = (to_text + to_image) / 2 + to_label + 0.3 * judged + 20 * distance
        loss = loss + term.likeness * alike
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        named_bank[labelled] = named.detach()
        with torch.no_grad():
            keep = min(0.99, (step + 1) / (step + 10))
            for mean, now in zip(average, (*convolutions, *head.parameters()), strict=True):
                mean.lerp_(now, 1 - keep)
        parts = (to_text, to_image, to_label, alike, judged, distance)
        report(step + 1, " ".join(f"{part.item():.2f}" for part in parts), trunk, head)
    with torch.no_grad():
        for now, mean in zip((*convolutions, *head.parameters()), average, strict=True):
            now.copy_(mean)
    return trunk, head.eval()


@torch.no_grad()
def embed_middle(trunk: nn.Module, head: nn.Module, middle: np.ndarray) -> Float32Array:
    """(N, D) unit rows of cached activations through the trained stages."""
    parts = []
    for start in range(0, len(middle), 64):
        signal = torch.from_numpy(middle[start : start + 64].astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            pooled = run_tail(trunk, signal)
        parts.append(unit(head(pooled.float())).numpy())
    return np.concatenate(parts)


def _find(queries: Tensor, keys: Tensor, meant: Tensor, told: Tensor, scale: float) -> Tensor:
    """Cross-entropy of finding the right keys; query i's own is key i.

    Keys of which nearly the same is told (cosine of the teacher's vectors) are right as well.
    """
    right = meant @ told.T > _SAME_MEANING
    right |= torch.eye(len(queries), len(keys), dtype=torch.bool)
    return rows_loss(queries, keys, scale, right) / len(queries)
