"""The contrastive losses: every photo must find its caption among all the captions of its batch.

The functions take unit vectors and the temperature as the model holds it, and know nothing of
models, devices or processes. `rows_loss` is the piece that gradcache.py uses to walk a large
batch block by block; the two public losses are that piece applied to a whole batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

from clipsearch.errors import TrainingDataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["both", "image_to_text", "text_to_image"]

LOGIT_SCALE_FROM_SCRATCH = math.log(1 / 0.07)  # Radford et al. 2021, section 2.4
LOGIT_SCALE_CAP = math.log(100)  # the same: keeps the logits of a long run finite


def info_nce_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    *,
    targets: Tensor | None = None,
    direction: Direction = "both",
) -> Tensor:
    """Symmetric InfoNCE: pick each photo's caption, and each caption's photo.

    Row i of both inputs is one pair; the other B - 1 rows are its negatives, except those that
    `targets` marks as positives too. Made for large batches of unlike pairs; log(B) nats is chance.

    Args:
        image_embeddings, text_embeddings: (B, D) unit rows. Half-precision inputs are widened:
            the logits are float32 at least.
        logit_scale: scalar, already exponentiated: 1 / temperature, in 1..100.
        targets: (B, B), row = photo, column = caption; bool or non-negative weights, with no
            empty row or column. Each row (photo to caption) and each column (caption to photo)
            is spread to a probability. None means the diagonal: one positive each.
        direction: both ways averaged, or one of them alone.
    Returns:
        Scalar in nats, of the dtype of the logits.
    Raises:
        TrainingDataError: B < 2, so no row has a negative.
    Source: van den Oord et al. 2018; symmetric form, Radford et al. 2021, figure 3; several
        positives, Yang et al. 2022 (UniCL).
    """
    if direction not in get_args(Direction):
        raise UsageError(f"no such direction of the loss: {direction!r}")
    check_batch(image_embeddings, text_embeddings)
    ways = []
    if direction != "text_to_image":
        ways.append(rows_loss(image_embeddings, text_embeddings, logit_scale, targets))
    if direction != "image_to_text":
        captions = None if targets is None else targets.T
        ways.append(rows_loss(text_embeddings, image_embeddings, logit_scale, captions))
    return sum(ways[1:], ways[0]) / (len(ways) * len(image_embeddings))


def siglip_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    targets: Tensor | None = None,
) -> Tensor:
    """Pairwise sigmoid loss: is this caption this photo's, asked of all B x B pairs alone.

    Shapes as in `info_nce_loss`; `targets` is a (B, B) bool mask of the positives. Without a
    softmax over the batch it suffers less from small batches; it belongs to models that carry a
    `logit_bias` and were trained with it.

    Returns:
        Scalar: the sum over all pairs, divided by B.
    Source: Zhai et al. 2023, algorithm 1.
    """
    check_batch(image_embeddings, text_embeddings)
    total = sigmoid_rows_loss(image_embeddings, text_embeddings, logit_scale, logit_bias, targets)
    return total / len(image_embeddings)


def positives(photos: Tensor, captions: Tensor, labels: Tensor | None = None) -> Tensor:
    """Which rows are positives of each other: the same photo, the same caption, the same label.

    Args:
        photos, captions: (B,) int64, equal numbers for equal things.
        labels: (B,) int64, negative where a pair names none.
    Returns:
        (B, B) bool, symmetric, true on the diagonal.
    """
    return positive_rows(photos, captions, labels, 0, len(photos))


def positive_rows(
    photos: Tensor, captions: Tensor, labels: Tensor | None, start: int, stop: int
) -> Tensor:
    """Rows `start` to `stop` of `positives`, (stop - start, B), without making the others."""
    rows = slice(start, stop)
    same = photos[rows, None] == photos
    same |= captions[rows, None] == captions
    if labels is not None:
        same |= (labels[rows, None] == labels) & (labels >= 0)
    return same


def rows_loss(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    targets: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Sum over queries of the cross-entropy of finding the right keys among all of them.

    Query i of (b, D) belongs to key `first + i` of (B, D), or to those that the (b, B) `targets`
    name, in equal or weighted parts.
    """
    import torch

    logits = logit_scale * _wide(queries) @ _wide(keys).T
    if targets is None:
        own = torch.arange(first, first + len(queries), device=logits.device)
        return torch.nn.functional.cross_entropy(logits, own, reduction="sum")
    spread = targets.to(logits.dtype)
    spread = spread / spread.sum(dim=1, keepdim=True)
    return torch.nn.functional.cross_entropy(logits, spread, reduction="sum")


def sigmoid_rows_loss(
    queries: Tensor,
    keys: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    targets: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Sum over queries and keys of -log sigmoid(±(scale · cos + bias)); rows as in `rows_loss`."""
    import torch

    logits = logit_scale * _wide(queries) @ _wide(keys).T + logit_bias
    if targets is None:
        own = torch.arange(first, first + len(queries), device=logits.device)
        targets = own[:, None] == torch.arange(len(keys), device=logits.device)
    return -torch.nn.functional.logsigmoid(torch.where(targets.bool(), logits, -logits)).sum()


def check_batch(image_embeddings: Tensor, text_embeddings: Tensor) -> None:
    """Raise unless these are B >= 2 photos with B captions."""
    if len(image_embeddings) != len(text_embeddings):
        raise TrainingDataError(
            f"a batch pairs {len(image_embeddings)} photos with {len(text_embeddings)} captions"
        )
    if len(image_embeddings) < 2:
        raise TrainingDataError(
            "a contrastive batch needs at least 2 pairs: with one, no photo has a wrong caption",
            hint="raise `--batch-size`, or bring more pairs",
        )


def _wide(embeddings: Tensor) -> Tensor:
    """Float32 at least: half precision cannot hold logits of ±100 to the digits a softmax needs."""
    return embeddings.float() if embeddings.element_size() < 4 else embeddings
