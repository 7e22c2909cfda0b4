"""What the tests of the store share: small entries, and libraries of made-up vectors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path

import numpy as np

from clipsearch.records import Fingerprints, Float32Array, FoundFile, PhotoFacts
from clipsearch.store.catalog import Catalog, Changes, Entry, Model, Problem
from clipsearch.store.known import KnownPhotos
from clipsearch.store.migrations import ROW_BITS

FACTS = PhotoFacts(640, 480, "JPEG")
FINGERPRINTS = Fingerprints("a" * 32, "b" * 32)


def digest(content: str) -> bytes:
    return blake2b(content.encode(), digest_size=16).digest()


def vector_of(content: str, dim: int = 8) -> Float32Array:
    """The (dim,) unit vector that a photo of this content has, always the same."""
    seed = int.from_bytes(digest(content)[:8], "little")
    return unit(np.random.default_rng(seed).standard_normal(dim, dtype=np.float32))


def unit(rows: Float32Array) -> Float32Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def found(path: str, *, size: int = 10, mtime_ns: int = 1, inode: int = 0) -> FoundFile:
    return FoundFile(path, size, mtime_ns, inode, 1)


def entry(
    root_id: int,
    path: str,
    content: str,
    *,
    facts: PhotoFacts = FACTS,
    dim: int = 8,
    embedded: bool = True,
    mtime_ns: int = 1,
    inode: int = 0,
) -> Entry:
    """A file at `path` that holds the photo `content`."""
    return Entry(
        root_id,
        found(path, mtime_ns=mtime_ns, inode=inode),
        digest(content),
        facts,
        vector_of(content, dim) if embedded else None,
    )


class Store:
    """A catalogue with one model and one root at /photos, and scans in one call."""

    def __init__(self, folder: Path, dim: int = 8) -> None:
        self.folder = folder
        self.catalog = Catalog.open(folder)
        self.root = self.catalog.add_root("/photos", {})
        self.model: Model = self.catalog.add_model("tiny", FINGERPRINTS, dim)

    def knows(self, content: str) -> bool:
        """Whether the photo has a vector; asked as readers do, by a connection that is closed."""
        with closing(KnownPhotos(self.folder, self.model.id)) as known:
            return known.has_vector(digest(content))

    def scan(self, now: dict[str, str], *, unreadable: Sequence[str] = ()) -> Changes:
        """Bring the catalogue to `now` (path: content), as `index` does; what it counted.

        Files are read one batch each, in the order of `now`; a file's mtime follows its content.
        """
        catalog = self.catalog
        stats = {
            path: found(path, mtime_ns=int.from_bytes(digest(content)[:6], "big"))
            for path, content in now.items()
        }
        stats.update({path: found(path, mtime_ns=7) for path in unreadable})
        folders: dict[str, list[FoundFile]] = {}
        for path, file in stats.items():
            folders.setdefault(path.rpartition("/")[0], []).append(file)
        for folder in catalog.folders_of(self.root.id):
            folders.setdefault(folder, [])
        scan_id = catalog.begin_scan()
        total = Changes()
        gone: list[int] = []
        wanted: set[str] = set()
        for folder, files in folders.items():
            changes = catalog.compare_folder(self.root.id, folder, files)
            gone += changes.gone
            wanted.update(file.relative_path for file in changes.to_read)
        for path, file in stats.items():
            if path not in wanted:
                continue
            if path in unreadable:
                problem = Problem(self.root.id, file, "truncated", True)
                total += catalog.commit_batch(self.model.id, scan_id, [], [problem])
                continue
            content = now[path]
            vector = None if self.knows(content) else vector_of(content, self.model.dim)
            one = Entry(self.root.id, file, digest(content), FACTS, vector)
            total += catalog.commit_batch(self.model.id, scan_id, [one])
        total += catalog.remove_files(gone, scan_id)
        catalog.finish_scan(scan_id, {})
        return total


def fill(folder: Path, vectors: Float32Array, *, first: int = 0) -> Model:
    """Put photos with these (N, D) vectors into a library, the quick way; photo i at /p/i//100/i.

    Photo i is taken in minute i of 2024 with camera 'Canon' (even i) or 'Nikon'.
    """
    with Catalog.open(folder) as catalog:
        model = catalog.add_model("synthetic", FINGERPRINTS, vectors.shape[1])
        root = catalog.add_root("/p", {})
        driver = catalog._driver()
        stored = vectors.astype("<f2")
        numbers = range(first, first + len(vectors))
        base = (model.id << ROW_BITS) + model.rows
        driver.execute("BEGIN")
        driver.executemany(
            "INSERT INTO photo (id, digest, width, height, format, taken_at, camera)"
            " VALUES (?, ?, 1, 1, 'JPEG', strftime('%Y-%m-%dT%H:%M:%S', '2024-01-01', ?), ?)",
            (
                (i + 1, i.to_bytes(16, "big"), f"+{i} minutes", ("Canon", "Nikon")[i % 2])
                for i in numbers
            ),
        )
        driver.executemany(
            "INSERT INTO file (root_id, folder, relative_path, photo_id, size, mtime_ns, inode,"
            " device, seen_scan) VALUES (?, ?, ?, ?, 1, 1, 0, 0, 0)",
            ((root.id, b"%d" % (i // 100), b"%d/%d.jpg" % (i // 100, i), i + 1) for i in numbers),
        )
        driver.executemany(
            "INSERT INTO embedding (key, model_id, photo_id, vector) VALUES (?, ?, ?, ?)",
            (
                (base + place, model.id, i + 1, stored[place].tobytes())
                for place, i in enumerate(numbers)
            ),
        )
        driver.execute("UPDATE model SET rows = rows + ? WHERE id = ?", (len(vectors), model.id))
        driver.execute("COMMIT")
        return catalog.models()[0]


def delete_rows(folder: Path, rows: Sequence[int]) -> None:
    """Delete the photos of some rows, files and all, as a scan would."""
    with Catalog.open(folder) as catalog:
        model = catalog.models()[0]
        marks = ",".join(str((model.id << ROW_BITS) + row) for row in rows)
        ids = [
            row[0]
            for row in catalog._driver().execute(
                f"SELECT file.id FROM file JOIN embedding USING (photo_id) WHERE key IN ({marks})"
            )
        ]
        scan_id = catalog.begin_scan()
        catalog.remove_files(ids, scan_id)
        catalog.finish_scan(scan_id, {})


def clustered(
    count: int, queries: int, dim: int, *, seed: int = 7
) -> tuple[Float32Array, Float32Array]:
    """Photo-like vectors (count, dim) and text-like queries (queries, dim), all unit.

    Photos lie in clusters of very different sizes inside a common cone, some in bursts of near
    copies; a query is a photo plus the modality gap plus noise.
    """
    generator = np.random.default_rng(seed)
    rank, groups = min(48, dim // 2), max(20, count // 50)

    def normal(*shape: int) -> Float32Array:
        return generator.standard_normal(shape, dtype=np.float32)

    basis = normal(rank, dim) * ((1 + np.arange(rank)) ** -0.35)[:, None].astype(np.float32)
    cone = normal(dim) * np.float32(1.2)
    centres = normal(groups, rank) @ basis
    sizes = 1 / (1 + np.arange(groups)) ** 0.6
    labels = generator.choice(groups, count, p=sizes / sizes.sum())
    photos = cone + centres[labels] + (normal(count, rank) * np.float32(0.45)) @ basis
    photos += normal(count, dim) * np.float32(0.55)
    for start in range(0, count - 8, 40):
        photos[start : start + 4] = photos[start] + normal(4, dim) * np.float32(0.15)
    photos = unit(photos)
    gap = normal(dim)
    gap *= np.float32(0.8) / np.linalg.norm(gap)
    asked = photos[generator.integers(0, count, queries)] * np.float32(0.6) + gap
    return photos, unit(asked + normal(queries, dim) * np.float32(0.45 / dim**0.5))
