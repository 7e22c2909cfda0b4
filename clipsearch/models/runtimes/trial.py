"""A faster arithmetic has to prove itself on this model and machine before it is believed.

The first photos of a library go through two towers, the exact one and a faster one. Until enough
of them were compared the exact vectors are used; what was found is kept, so that this happens once
for each model on each machine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.models.cache import keep
from clipsearch.records import Float32Array, UInt8Array

PHOTOS = 200
LEAST_MEAN_COSINE = 0.999
LEAST_COSINE = 0.99
# A gain below this is not worth any difference.
LEAST_SPEEDUP = 1.15

_CACHE_NAME = "precision.json"

ImageTower = Callable[[UInt8Array], Float32Array]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial found.

    Attributes:
        mean_cosine, worst_cosine: of the faster tower's vectors to the exact one's.
        speedup: the exact tower's time by the faster one's, batch by batch, the median.
    """

    photos: int
    mean_cosine: float
    worst_cosine: float
    speedup: float

    @property
    def passed(self) -> bool:
        return (
            self.mean_cosine >= LEAST_MEAN_COSINE
            and self.worst_cosine >= LEAST_COSINE
            and self.speedup >= LEAST_SPEEDUP
        )


class Trial:
    """An image tower made of two; several threads may call it.

    Args:
        exact, fast: (B, S, S, 3) uint8 -> (B, dim) float32, of any length.
        decided: called once, with the verdict on `fast`.
    """

    def __init__(
        self, exact: ImageTower, fast: ImageTower, decided: Callable[[Verdict], None]
    ) -> None:
        self._exact = exact
        self._fast = fast
        self._decided = decided
        self._chosen: ImageTower | None = None
        self._lock = threading.Lock()
        self._cosines: list[float] = []
        self._speedups: list[float] = []

    def __call__(self, pixels: UInt8Array) -> Float32Array:
        if self._chosen is not None:
            return self._chosen(pixels)
        started = time.perf_counter()
        rows = self._exact(pixels)
        between = time.perf_counter()
        others = self._fast(pixels)
        ended = time.perf_counter()
        cosines = _cosines(rows, others)
        with self._lock:
            if self._chosen is None:
                self._speedups.append((between - started) / max(ended - between, 1e-9))
                self._cosines += cosines.tolist()
                if len(self._cosines) >= PHOTOS:
                    self._decide()
        return rows

    def _decide(self) -> None:
        warm = self._speedups[len(self._speedups) // 2 :]
        verdict = Verdict(
            len(self._cosines),
            float(np.mean(self._cosines)),
            float(np.min(self._cosines)),
            # The median: a moment in which other programs held the processor must not decide.
            float(np.median(warm)),
        )
        self._chosen = self._fast if verdict.passed else self._exact
        self._exact = self._fast = self._chosen  # the other one's memory is given back
        self._decided(verdict)


def _cosines(rows: Float32Array, others: Float32Array) -> Float32Array:
    """Of the photos that the exact tower makes something of; -1 where the other one does not."""
    lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(others, axis=1)
    sound = np.isfinite(lengths[0]) & (lengths[0] > 0)
    with np.errstate(invalid="ignore"):
        products = np.einsum("nd,nd->n", rows[sound], others[sound])
        cosines = products / np.maximum(lengths[0][sound] * lengths[1][sound], 1e-12)
    found: Float32Array = np.where(np.isfinite(cosines), cosines, np.float32(-1))
    return found


def read_verdict(cache_folder: Path, key: str) -> Verdict | None:
    """What an earlier trial found under this key, if there was one."""
    try:
        return Verdict(**_read(cache_folder)[key])
    except (KeyError, TypeError):
        return None


def keep_verdict(cache_folder: Path, key: str, verdict: Verdict) -> None:
    """Remember it for the next process; where that fails, the trial is held again."""
    known = _read(cache_folder) | {key: asdict(verdict)}
    keep(cache_folder / _CACHE_NAME, json.dumps(known, indent=1).encode())


def _read(cache_folder: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads((cache_folder / _CACHE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
