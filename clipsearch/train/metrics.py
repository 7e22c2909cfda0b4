"""How good a model is at finding: recall@k, median rank and mean reciprocal rank, in numpy.

Ties count against the model: one that maps everything to the same vector finds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.errors import TrainingDataError
from clipsearch.records import Float32Array

IntArray = npt.NDArray[np.int64]

# Equal vectors can come out of a matrix product some 1e-7 apart, depending on where in its blocks
# they lie (float32, D = 512); scores this close are a tie.
TIE = 1e-6


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One direction of retrieval. Recalls and the reciprocal rank lie in 0..1; ranks start at 1."""

    queries: int
    pool: int
    recall: dict[int, float]
    median_rank: float
    mean_reciprocal_rank: float


@dataclass(frozen=True, slots=True)
class PairRetrieval:
    """Both directions over the same photos and captions."""

    text_to_image: Retrieval
    image_to_text: Retrieval

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def retrieval_metrics(
    image_embeddings: Float32Array,
    text_embeddings: Float32Array,
    photo_of_text: Sequence[int] | IntArray,
    *,
    said: IntArray | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> PairRetrieval:
    """Retrieval both ways: each caption seeks its one photo; each photo any one of its captions.

    Args:
        image_embeddings: (N, D) unit rows, one a photo.
        text_embeddings: (M, D) unit rows, one a caption.
        photo_of_text: (M,) the row of each caption's photo.
        said: (M,) equal for captions that say the same: a photo finds its own in any of them.
    Raises:
        TrainingDataError: a photo without a caption, or vectors that are not finite.
    """
    photos = np.arange(len(image_embeddings), dtype=np.int64)
    owners = np.asarray(photo_of_text, dtype=np.int64)
    by_text = ranks(text_embeddings, image_embeddings, owners, photos)
    by_photo = ranks(image_embeddings, text_embeddings, photos, owners, alike=said)
    return PairRetrieval(summarise(by_text, len(photos), ks), summarise(by_photo, len(owners), ks))


def ranks(
    queries: Float32Array,
    keys: Float32Array,
    query_groups: IntArray,
    key_groups: IntArray,
    *,
    alike: IntArray | None = None,
    chunk: int = 1024,
) -> IntArray:
    """The rank (1 is best) of each query's best right key; right means: of the query's group.

    Other right keys do not count against it, wrong ones with an equal score do. Memory is
    `chunk` x len(keys) scores, however many queries there are.

    Args:
        queries: (Q, D), keys: (N, D), float32 rows.
        query_groups: (Q,), key_groups: (N,) int64.
        alike: (N,) int64, not negative; keys of the same number are right together.
    """
    if not (np.isfinite(queries).all() and np.isfinite(keys).all()):
        raise TrainingDataError("the model gives vectors that are not finite numbers")
    if not np.isin(query_groups, key_groups).all():
        raise TrainingDataError("a query has no right answer among those to be found")
    found = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        scores = queries[rows] @ keys.T
        right = query_groups[rows, None] == key_groups
        if alike is not None:
            wanted = np.zeros((len(right), int(alike.max()) + 1), dtype=bool)
            query, key = np.nonzero(right)
            wanted[query, alike[key]] = True
            right = wanted[:, alike]
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found[rows] = 1 + np.count_nonzero(~right & (scores >= best - TIE), axis=1)
    return found


def summarise(found: IntArray, pool: int, ks: Sequence[int] = (1, 5, 10)) -> Retrieval:
    """Recall@k, median rank and mean reciprocal rank of (Q,) ranks within a pool of candidates."""
    return Retrieval(
        queries=len(found),
        pool=pool,
        recall={k: float(np.mean(found <= k)) for k in ks},
        median_rank=float(np.median(found)),
        mean_reciprocal_rank=float(np.mean(1 / found)),
    )


def mean_reciprocal_rank(metrics: PairRetrieval) -> float:
    """The mean over both directions: one number to choose by.

    Every rank counts in it, so it tells models apart on fewer photos than recall at three depths.
    """
    both = metrics.text_to_image, metrics.image_to_text
    return sum(one.mean_reciprocal_rank for one in both) / 2


def mean_recall(metrics: PairRetrieval) -> float:
    """The mean of recall@1, @5 and @10 of both directions: one number to show."""
    values = [*metrics.text_to_image.recall.values(), *metrics.image_to_text.recall.values()]
    return sum(values) / len(values)
