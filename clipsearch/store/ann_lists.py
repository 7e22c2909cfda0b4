"""The lists of an inverted file: how they are made, filled and looked through.

A list holds the vectors that are nearest to its centroid, as 8-bit codes: half the bytes of the
catalogue's float16 numbers, and a third quicker to look through (414 of 2,000 lists of a million
vectors, 512 dimensions, two cores: 2.9 against 4.3 ms). One range serves all numbers: with a range
for each dimension, codes are closer by a quarter and as slow as float16. RaBitQ's two bits (Gao et
al. 2024) take 1.9 ms, but then some 200 rows must be read from the catalogue for 10 hits, and how
far they are off is known on average only.

k-means and the assignment to lists run in numpy: its matrix product is 5 to 10 times as quick as
the one inside the faiss-cpu wheel (measured on two AVX-512 cores: 150 against 15 to 34 GFLOP/s).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.records import Float32Array, RowArray

Int32Array = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]

_KMEANS_ROUNDS = 8


def load_faiss() -> Any:
    """FAISS, imported when first needed: 0.1 to 0.3 s. Untyped: its stubs lack what we use."""
    import faiss

    return faiss


@contextmanager
def _named_for_faiss(path: Path, flags: int) -> Iterator[str]:
    """A name by which FAISS can open a file; it takes no bytes that are not UTF-8.

    Such a file is opened here (with `flags`) and named by its descriptor. FAISS could also write to
    memory, but the whole index would be there twice, and it maps nothing that has no name.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        file = os.open(path, flags, 0o666)
        try:
            yield f"/dev/fd/{file}"
        finally:
            os.close(file)
    else:
        yield str(path)


class Lists:
    """Lists in memory or in a mapped file; searched by one thread at a time.

    Attributes:
        nlist, dim, total: lists, D, and rows in them.
        code_error: no code that was added here is farther from its vector.
        record_bytes: what a row takes up in the file.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self.nlist, self.dim = int(index.nlist), int(index.d)
        self.record_bytes = int(index.code_size) + 8
        self.code_error = 0.0

    @classmethod
    def make(cls, centroids: Float32Array, largest: float) -> Lists:
        """Empty lists around centroids (nlist, D), for numbers from -largest to largest."""
        faiss = load_faiss()

        nlist, dim = centroids.shape
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(centroids)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer,
            dim,
            nlist,
            faiss.ScalarQuantizer.QT_8bit_uniform,
            faiss.METRIC_INNER_PRODUCT,
            False,  # the vectors themselves, not what is left after the centroid
        )
        index.train(np.array([[-largest] * dim, [largest] * dim], dtype=np.float32))
        return cls(index)

    @classmethod
    def read(cls, path: Path, *, mapped: bool) -> Lists:
        """Those in a FAISS file.

        Raises:
            RuntimeError: FAISS cannot read it.
        """
        faiss = load_faiss()

        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0
        with _named_for_faiss(path, os.O_RDONLY) as name:
            index = faiss.read_index(name, flags)  # a map stays when its file is closed
        if mapped:
            # Threads that read lists ahead cost 5 to 30 ms a query here; the page cache reads ahead
            # itself.
            faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
        return cls(index)

    def write(self, path: Path) -> None:
        """Into a file: a head, then the lists.

        Raises:
            RuntimeError: the disk is full, or some such thing.
        """
        with _named_for_faiss(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as name:
            load_faiss().write_index(self._index, name)

    @property
    def total(self) -> int:
        return int(self._index.ntotal)

    def centroids(self) -> Float32Array:
        """(nlist, D) float32."""
        quantizer = load_faiss().downcast_index(self._index.quantizer)
        return np.asarray(quantizer.reconstruct_n(0, self.nlist))

    def add(self, rows: RowArray, vectors: Float32Array, numbers: Int32Array) -> None:
        """Put rows (n,) with their vectors (n, D) into the lists `numbers` (n,)."""
        faiss = load_faiss()

        rows, vectors = np.ascontiguousarray(rows), np.ascontiguousarray(vectors)
        away = np.linalg.norm(self.decode(self._index.sq.compute_codes(vectors)) - vectors, axis=1)
        self.code_error = max(self.code_error, float(away.max(initial=0)))
        wide = numbers.astype(np.int64)
        self._index.add_core(
            len(rows), faiss.swig_ptr(vectors), faiss.swig_ptr(rows), faiss.swig_ptr(wide)
        )

    def search(
        self, queries: Float32Array, k: int, *, nprobe: int, selector: Any = None
    ) -> tuple[Float32Array, RowArray]:
        """(Q, k) scores of codes, descending, and rows; -1 where the lists hold fewer than k."""
        parameters = load_faiss().SearchParametersIVF(nprobe=min(nprobe, self.nlist))
        if selector is not None:
            parameters.sel = selector
        # With one query the work is shared out by lists, with several by queries.
        self._index.parallel_mode = 1 if len(queries) == 1 else 0
        scores, rows = self._index.search(queries, k, params=parameters)
        return scores, rows

    def stored(self) -> Iterator[tuple[int, RowArray, Codes]]:
        """Each list's number, rows (n,) and codes (n, D) as the file holds them."""
        faiss = load_faiss()

        lists = self._index.invlists
        code_bytes = self.record_bytes - 8
        for number in range(self.nlist):
            count = lists.list_size(number)
            if not count:
                continue
            # The pointers are valid until the list is released, which mapped lists never need.
            ids = faiss.rev_swig_ptr(lists.get_ids(number), count).copy()
            codes = faiss.rev_swig_ptr(lists.get_codes(number), count * code_bytes).copy()
            yield number, ids, codes.reshape(count, code_bytes)

    def decode(self, codes: Codes) -> Float32Array:
        """(n, D) the vectors that codes (n, D) stand for."""
        return np.asarray(self._index.sq.decode(codes))


# ------------------------------------------------------------------------------ making and choosing


def spherical_kmeans(
    points: Float32Array, count: int, generator: np.random.Generator
) -> Float32Array:
    """(count, D) unit centroids of the unit rows `points`, by dot product.

    Eight rounds: more gain nothing in recall here. A centroid that nothing is nearest to starts
    again from a random point. Source: Dhillon and Modha 2001, 'Concept decompositions'.
    """
    centroids = points[generator.choice(len(points), count, replace=False)].copy()
    for _ in range(_KMEANS_ROUNDS):
        nearest_list = assign(points, centroids)
        order = np.argsort(nearest_list, kind="stable")
        used, starts = np.unique(nearest_list[order], return_index=True)
        centroids[:] = points[generator.integers(0, len(points), count)]
        bounds = [*starts.tolist(), len(points)]
        for place, number in enumerate(used.tolist()):
            members = order[bounds[place] : bounds[place + 1]]
            centroids[number] = points[members].sum(axis=0)
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    return centroids


def assign(vectors: Float32Array, centroids: Float32Array) -> Int32Array:
    """(n,) the number of the centroid with the largest dot product, of each row."""
    numbers = np.empty(len(vectors), dtype=np.int32)
    # 2,048 rows by 2,048 lists are 16 MB of scores.
    for start in range(0, len(vectors), 2048):
        part = slice(start, start + 2048)
        scores: Float32Array = vectors[part] @ centroids.T
        numbers[part] = scores.argmax(axis=1)
    return numbers


def text_like(photos: Float32Array, gaps: int, generator: np.random.Generator) -> Float32Array:
    """Queries as words give them, (n, D) unit: near a photo each, but all shifted off the cone.

    The gap has the length that CLIP models show (Liang et al. 2022, fig. 1: about 0.8); the rest
    is what a caption does not say. A model has one gap, in a direction that is not known here, so
    `gaps` of them stand for it: query i has the gap i mod `gaps`.
    """
    count, dim = photos.shape
    directions = generator.standard_normal((gaps, dim), dtype=np.float32)
    directions *= np.float32(0.8) / np.linalg.norm(directions, axis=1, keepdims=True)
    noise = generator.standard_normal((count, dim), dtype=np.float32)
    queries: Float32Array = 0.6 * photos + directions[np.arange(count) % gaps]
    queries += noise * np.float32(0.45 / math.sqrt(dim))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries
