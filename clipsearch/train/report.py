"""What a run ends with: base against tuned, on pairs that chose nothing, and what was forgotten."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import count
from clipsearch.records import Float32Array
from clipsearch.train.metrics import (
    IntArray,
    PairRetrieval,
    Retrieval,
    mean_recall,
    retrieval_metrics,
)
from clipsearch.train.metrics import ranks as ranks_of

# One-sided 95 %: a gain this many standard errors above nothing is no accident.
_SURE = 1.64
# Of fewer photos all may find better by accident more than one time in twenty: 1 / 2 ** 4.
_FEWEST_JUDGES = 5


@dataclass(frozen=True, slots=True)
class Vectors:
    """Unit vectors of a pool of photos, of its captions, whose each is and which say the same."""

    images: Float32Array
    texts: Float32Array
    owners: IntArray
    said: IntArray | None = None

    def retrieval(self) -> PairRetrieval:
        return retrieval_metrics(self.images, self.texts, self.owners, said=self.said)

    def reciprocal_ranks(self) -> Float32Array:
        """(N,) of each photo: the mean of 1 / rank over the searches with its captions."""
        return self._of_each_photo(1 / self._ranks())

    def hits(self, k: int = 10) -> Float32Array:
        """(N,) of each photo: the share of the searches with its captions that find it in k."""
        return self._of_each_photo(self._ranks() <= k)

    def _ranks(self) -> IntArray:
        return ranks_of(self.texts, self.images, self.owners, np.arange(len(self.images)))

    def _of_each_photo(self, values: npt.NDArray[Any]) -> Float32Array:
        count = len(self.images)
        sums = np.bincount(self.owners, values, count)
        mean: Float32Array = (sums / np.bincount(self.owners, minlength=count)).astype("f4")
        return mean


@dataclass(frozen=True, slots=True)
class Drift:
    """What changed for photos and words that the pairs say nothing of; no labels needed.

    Attributes:
        overlap: share of the 10 photos found before that are found after, mean over prompts.
        image_cosine, text_cosine: mean cosine of a vector before with itself after.
    """

    photos: int
    prompts: int
    overlap: float
    image_cosine: float
    text_cosine: float


def measure_drift(
    images: tuple[Float32Array, Float32Array], prompts: tuple[Float32Array, Float32Array]
) -> Drift:
    """Compare (before, after) vectors of the same photos and of the same prompts."""
    k = min(10, len(images[0]))
    before, after = (
        np.argpartition(-(words @ pictures.T), k - 1, axis=1)[:, :k]
        for words, pictures in zip(prompts, images, strict=True)
    )
    kept = [len(np.intersect1d(one, other)) / k for one, other in zip(before, after, strict=True)]
    return Drift(
        photos=len(images[0]),
        prompts=len(prompts[0]),
        overlap=float(np.mean(kept)),
        image_cosine=float(np.mean(np.sum(images[0] * images[1], axis=1))),
        text_cosine=float(np.mean(np.sum(prompts[0] * prompts[1], axis=1))),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same pairs searched with the base model and with the tuned one.

    Attributes:
        gain: rise of the mean reciprocal rank, text to image.
        gain_error: its standard error over photos.
    """

    base: PairRetrieval
    tuned: PairRetrieval
    gain: float
    gain_error: float

    @classmethod
    def of(cls, base: Vectors, tuned: Vectors) -> Comparison:
        change = tuned.reciprocal_ranks() - base.reciprocal_ranks()
        return cls(
            base.retrieval(), tuned.retrieval(), float(np.mean(change)), standard_error(change)
        )

    @property
    def points_lost(self) -> float:
        """The worse of the losses in text to image recall@10 and in mean recall, in points."""
        return points_lost(self.base, self.tuned)

    @property
    def surely_better(self) -> bool:
        enough = self.tuned.text_to_image.pool >= _FEWEST_JUDGES
        return enough and self.gain > _SURE * self.gain_error and self.gain > 0


def standard_error(values: Float32Array) -> float:
    """Of the mean; 0 for a single value, which tells nothing of it."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def points_lost(base: PairRetrieval, tuned: PairRetrieval) -> float:
    """Points (of 100) that a general set lost: recall@10 of searches, or mean recall if more."""
    searches = base.text_to_image.recall[10] - tuned.text_to_image.recall[10]
    lost = 100 * max(searches, mean_recall(base) - mean_recall(tuned))
    # One point must not be more than one point: 100 * (0.8316 - 0.8216) is 1.0000000000000009.
    return round(lost, 9)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """How a run went and whether its model is the better one.

    Attributes:
        output: the run's folder, which is the tuned model's directory too.
        photos: how many taught, chose and judged.
        test: on photos of the user's that chose nothing.
        guard: on that half of the guard pairs that chose nothing.
        alpha: share of the tuned weights in what was saved; 0 is the base model unchanged.
        keeps_image_vectors: the image tower is the base's: a library needs no new vectors.
        promoted: it is better on the test photos and forgot no more than allowed.
        verdict: the same in words.
    """

    output: Path
    base: str
    method: str
    reason: str
    photos: dict[str, int]
    summary: str
    test: Comparison
    guard: Comparison | None
    drift: Drift | None
    alpha: float
    keeps_image_vectors: bool
    promoted: bool
    verdict: str
    steps: int
    stopped: str
    seconds: float
    peak_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}

    def rows(self) -> list[tuple[str, ...]]:
        """The comparison as rows of a table: what, base, tuned, change."""
        rows = comparison_rows("your photos", self.test)
        if self.guard is not None:
            rows += comparison_rows("guard", self.guard)
        return rows

    def notes(self) -> list[str]:
        """What the rows rest on and what follows from them, line by line."""
        pool = self.test.base.text_to_image
        notes = [
            f"test pool: {pool.pool:,} photos that chose nothing, {pool.queries:,} captions; each "
            "caption seeks its one photo, each photo any one of its captions",
            f"method {self.method}: {self.reason}; {self.steps:,} steps, {self.stopped}",
            "weights: "
            + (
                "the tuned ones"
                if self.alpha == 1
                else f"{self.alpha:g} x tuned + {1 - self.alpha:g} x base (WiSE-FT)"
            ),
        ]
        if self.drift is not None:
            drift = self.drift
            notes.append(
                f"on {drift.photos:,} photos of the library and {drift.prompts} general prompts: "
                f"{100 * drift.overlap:.0f} % of the first 10 hits stay, mean cosine before/after "
                f"{drift.image_cosine:.3f} (images), {drift.text_cosine:.3f} (texts)"
            )
        if self.keeps_image_vectors:
            notes.append("the image tower is unchanged: the library needs no new vectors")
        return [*notes, self.verdict]


def judge(
    test: Comparison, guard: Comparison | None, alpha: float, allowed: float
) -> tuple[bool, str]:
    """Whether the tuned model should take the base's place, and why."""
    if alpha == 0:
        return False, (
            "no mixture of base and tuned weights was better on the validation photos: "
            "the saved model is the base model"
        )
    gain = f"mean reciprocal rank {test.gain:+.3f} ± {test.gain_error:.3f} on the test photos"
    judges = test.tuned.text_to_image.pool
    if judges < _FEWEST_JUDGES:
        return False, f"{count(judges, 'test photo')} cannot judge ({gain}): saved, not promoted"
    if not test.surely_better:
        return False, f"not surely better than the base model ({gain}): saved, not promoted"
    if guard is not None and guard.points_lost > allowed:
        return False, (
            f"better on your pairs ({gain}), but {guard.points_lost:.1f} points worse on the guard "
            f"pairs, where {allowed:g} is allowed: saved, not promoted"
        )
    return True, f"better than the base model ({gain})"


def comparison_rows(title: str, comparison: Comparison) -> list[tuple[str, ...]]:
    """Rows of a table: what, base, tuned, change."""
    rows: list[tuple[str, ...]] = []
    for direction, base, tuned in (
        ("text to image", comparison.base.text_to_image, comparison.tuned.text_to_image),
        ("image to text", comparison.base.image_to_text, comparison.tuned.image_to_text),
    ):
        for name, before, after, unit in _figures(base, tuned):
            change = f"{after - before:+.1f}" if unit == "%" else f"{after - before:+g}"
            rows.append(
                (
                    f"{title}, {direction}, {name}",
                    _number(before, unit),
                    _number(after, unit),
                    change,
                )
            )
    return rows


def _figures(base: Retrieval, tuned: Retrieval) -> list[tuple[str, float, float, str]]:
    recalls = [
        (f"R@{k}", 100 * base.recall[k], 100 * tuned.recall[k], "%") for k in sorted(base.recall)
    ]
    return [*recalls, ("median rank", base.median_rank, tuned.median_rank, "")]


def _number(value: float, unit: str) -> str:
    return f"{value:.1f} %" if unit else f"{value:g}"
