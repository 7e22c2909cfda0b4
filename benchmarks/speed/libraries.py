"""Libraries of many photos without the photos: vectors that are spread as photos' are.

    python -m benchmarks.speed.libraries WORK N [MODEL]

MODEL is `pocket` (256 dimensions) or a model directory. `Clustered` vectors lie in some 20,000
clusters of very different sizes in a low-rank space inside one cone, a tenth of them in bursts of
near copies; queries are photos plus a modality gap plus noise. `Hard` ones have no clusters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
BLOCK = 50_000
CLUSTERS, RANK = 20_000, 96


class Clustered:
    """The spread of the photos; `blocks` gives them, `queries` asks as words would."""

    def __init__(self, dim: int, seed: int = 7) -> None:
        self._generator = np.random.default_rng(seed)
        decay = ((1 + np.arange(RANK)) ** -0.35)[:, None].astype(np.float32)
        self._basis = self._normal(RANK, dim) * decay
        self._cone = self._normal(dim) * np.float32(1.2)
        self._centres = self._normal(CLUSTERS, RANK)
        sizes = 1 / (1 + np.arange(CLUSTERS)) ** 0.6
        self._shares = sizes / sizes.sum()
        gap = self._normal(dim)
        self._gap = gap * np.float32(0.8) / np.linalg.norm(gap)

    def _normal(self, *shape: int) -> Float32Array:
        return self._generator.standard_normal(shape, dtype=np.float32)

    def blocks(self, count: int) -> Iterator[Float32Array]:
        """`count` unit vectors, a block at a time."""
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            labels = self._generator.choice(CLUSTERS, size, p=self._shares)
            inner = self._centres[labels] + self._normal(size, RANK) * np.float32(0.45)
            photos = self._cone + inner @ self._basis
            photos += self._normal(size, photos.shape[1]) * np.float32(0.55)
            at = 0
            while (at := at + int(self._generator.integers(8, 60))) < size - 8:
                burst = int(self._generator.integers(2, 8))
                copies = self._normal(burst, photos.shape[1]) * np.float32(0.15)
                photos[at : at + burst] = photos[at] + copies
                at += burst
            photos /= np.linalg.norm(photos, axis=1, keepdims=True)
            yield photos

    def queries(self, photos: Float32Array) -> Float32Array:
        """One text-like query for each of some photos, unit rows."""
        noise = self._normal(*photos.shape) * np.float32(0.45 / photos.shape[1] ** 0.5)
        asked: Float32Array = photos * np.float32(0.6) + self._gap + noise
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        return asked


class Hard:
    """No clusters at all, a slowly decaying spectrum, and queries that are near no photo."""

    def __init__(self, dim: int, seed: int = 8) -> None:
        self._generator = np.random.default_rng(seed)
        self._spectrum = ((1 + np.arange(dim)) ** -0.25).astype(np.float32)

    def _unit(self, count: int) -> Float32Array:
        rows: Float32Array = self._spectrum * self._generator.standard_normal(
            (count, len(self._spectrum)), dtype=np.float32
        )
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def blocks(self, count: int) -> Iterator[Float32Array]:
        """`count` unit vectors, a block at a time."""
        for start in range(0, count, BLOCK):
            yield self._unit(min(BLOCK, count - start))

    def queries(self, photos: Float32Array) -> Float32Array:
        """As many queries as photos, which they have nothing to do with."""
        return self._unit(len(photos))


SPREADS: dict[str, type[Clustered] | type[Hard]] = {"clustered": Clustered, "hard": Hard}


def photo_path(number: int) -> str:
    return f"{number // 1000:04}/{number:07}.jpg"


def make(
    folder: Path, root: str, count: int, model_name: str, *, spread: str = "clustered"
) -> None:
    """A whole library, index and all, in which photo i lies at ROOT/photo_path(i)."""
    if (folder / "made").exists():
        return
    from clipsearch.models import load_encoder
    from clipsearch.store import ann
    from clipsearch.store.catalog import Catalog
    from clipsearch.store.migrations import ROW_BITS
    from clipsearch.store.reader import Reader

    encoder = load_encoder(model_name)
    with Catalog.open(folder) as catalog:
        model = catalog.add_model(model_name, encoder.fingerprints, encoder.dim)
        catalog.activate(model.id)
        root_id = catalog.add_root(root, {}).id
        # Straight into the tables: what is timed here is reading, not writing.
        driver = catalog._driver()
        first = 0
        for vectors in SPREADS[spread](encoder.dim).blocks(count):
            numbers = range(first, first + len(vectors))
            stored = vectors.astype("<f2")
            driver.execute("BEGIN")
            driver.executemany(
                "INSERT INTO photo (id, digest, width, height, format) VALUES (?, ?, 1, 1, 'JPEG')",
                ((i + 1, i.to_bytes(16, "big")) for i in numbers),
            )
            driver.executemany(
                "INSERT INTO file (root_id, folder, relative_path, photo_id, size, mtime_ns, inode,"
                " device, seen_scan) VALUES (?, ?, ?, ?, 1, 1, 0, 0, 0)",
                (
                    (root_id, photo_path(i).encode()[:4], photo_path(i).encode(), i + 1)
                    for i in numbers
                ),
            )
            driver.executemany(
                "INSERT INTO embedding (key, model_id, photo_id, vector) VALUES (?, ?, ?, ?)",
                (
                    ((model.id << ROW_BITS) + i, model.id, i + 1, stored[i - first].tobytes())
                    for i in numbers
                ),
            )
            driver.execute(
                "UPDATE model SET rows = rows + ? WHERE id = ?", (len(vectors), model.id)
            )
            driver.execute("COMMIT")
            first += len(vectors)
    with Reader.open(folder) as reader:
        active = reader.active_model()
        assert active is not None
        report = ann.refresh(folder, reader, active)
    print(f"{count:,} of {model_name}: {report.why if report else 'no index'}")
    (folder / "made").touch()


if __name__ == "__main__":
    place, number = Path(sys.argv[1]), int(sys.argv[2])
    chosen = sys.argv[3] if len(sys.argv) > 3 else "pocket"
    name = f"library-{number}-{Path(chosen).name}"
    make(place / name, str(place / "nowhere"), number, chosen)
