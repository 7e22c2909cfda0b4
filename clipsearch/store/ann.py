"""Finds the nearest vectors: exactly, or with a FAISS file that was derived from the catalogue.

The file is an inverted file (IVF) of 8-bit codes of the catalogue's vectors (`ann_lists`). How far
a code may be from its vector is known, and every row that may be among the best for all its code
says is scored from the catalogue: an index changes which vectors are looked at, never what they
score. Below `MIN_VECTORS` there is none: reading the catalogue is as quick as importing FAISS.
The user may choose otherwise (`CHOICE`): no file at any size, or one at nearly any.

`nprobe`, the number of lists that are looked at, is chosen when the file is built, on queries the
clustering has not seen, so that recall@10 against an exact search is at least `TARGET_RECALL` with
a margin of two standard errors. Most of the queries are text-like: words lie off the cone that
photos lie in (the modality gap, Liang et al. 2022), so their neighbours are spread over far more
lists than those of a photo. How far depends on the gap's direction, which every model has its own
of: of twenty, nineteen must reach the target, each taken alone. Where only every list will do,
every list is looked at, and that is written down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.records import Float32Array, RowArray
from clipsearch.store import ann_file
from clipsearch.store.ann_file import IndexFacts, Notice
from clipsearch.store.ann_lists import (
    Int32Array,
    Lists,
    assign,
    load_faiss,
    spherical_kmeans,
    text_like,
)
from clipsearch.store.reader import Model, Reader
from clipsearch.store.text_cache import TextCache

MIN_VECTORS = 10_000
KINDS = ("auto", "exact", "lists")
CHOICE = "search"  # the library's setting: one of KINDS
_FEWEST_FOR_LISTS = 256  # asked for by hand; fewer are no clusters
TAIL_ROWS = 10_000
TARGET_RECALL = 0.99

# Scored one by one from the catalogue up to here; up to there, FAISS looks at every list.
_FEW_ROWS = 4_000
_EVERY_LIST_ROWS = 100_000

_POINTS_PER_LIST = 64
_BUILD_BLOCK = 16_384
_QUERIES_OF_A_KIND = 200
# Text-like queries, and the gaps among them. Drawn again and again at a million vectors, they gave
# an nprobe of 215 to 377 in nine cases of ten, and 4 % of 80 gaps then fell short of the target;
# with one gap of 80 queries it was 113 to 414, and 18 % fell short.
_TEXT_LIKE, _GAPS = 600, 20
_DEPTHS = (10, 30, 100, 300, 1000)
_WITNESSES = 64

# Two float32 sums of the same products, in another order, differ by less (D <= 4096).
_ROUNDING = 4e-6
# Codes to look at for k hits before it is known which rows may be among them: at a million vectors
# of 512 dimensions mostly 20 may for 10, and 200 for 100. For two queries of a hundred it is more
# than this, and the lists are looked through again.
_SHORTLIST, _SHORTLIST_OF_EACH = 64, 4


class Neighbours(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: (Q, k) float32, descending: dot products of the query with the stored float16
            vector, the same whichever way they were found; -inf where there is no row.
        rows: (Q, k) int64; equal scores by row, ascending; -1 where there are fewer than k.
        notice: what to tell the user about the FAISS file (message, hint), once; None if nothing.
    """

    scores: Float32Array
    rows: RowArray
    notice: Notice | None = None


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What `build` and `refresh` did; `facts` is None where there is no file any more."""

    seconds: float
    facts: IndexFacts | None
    why: str


class AnnIndex:
    """An open FAISS file, memory-mapped; searched by one thread at a time."""

    def __init__(self, facts: IndexFacts, lists: Lists | None) -> None:
        self.facts = facts
        self._lists = lists
        self._trusted: tuple[int, bool] | None = None

    @classmethod
    def open(cls, folder: Path, model: Model) -> AnnIndex | None:
        """The index of a model, or None: `open_index` without its notice."""
        return open_index(folder, model)[0]

    def nprobe(self, depth: float) -> int:
        """Lists to look at so that the best `depth` vectors are found as the target says."""
        for measured in sorted(map(int, self.facts.nprobe)):
            if depth <= measured:
                return self.facts.nprobe[str(measured)]
        return self.facts.nlist

    @property
    def lists(self) -> Lists:
        """The mapped lists."""
        assert self._lists is not None
        return self._lists

    def belongs_to(self, reader: Reader, model: Model, dead: RowArray) -> bool:
        """Whether the file was made from this catalogue, at this time or earlier.

        A catalogue that was put back from a copy has given the rows after it to other photos.
        """
        if self._trusted is None or self._trusted[0] != id(reader):
            self._trusted = (id(reader), self._compare(reader, model, dead))
        return self._trusted[1]

    def is_newer_than(self, reader: Reader, model: Model) -> bool:
        """Whether the file belongs to the catalogue as it is now, which the reader is behind."""
        with Reader.open(reader.folder) as now:
            current = next((known for known in now.models() if known.id == model.id), None)
            return current is not None and self._compare(now, current, now.tombstones(model.id))

    def _compare(self, reader: Reader, model: Model, dead: RowArray) -> bool:
        facts = self.facts
        if facts.rows > model.rows:
            return False
        dead_inside = int(np.searchsorted(dead, facts.rows))
        if dead_inside < facts.rows - facts.vectors:
            return False
        expected = dict(facts.witnesses)
        rows = np.array([row for row in expected if not _contains(dead, row)], dtype=np.int64)
        vectors = reader.vectors(model.id, rows)
        return all(
            ann_file.vector_digest(vector) == expected[row]
            for row, vector in zip(rows.tolist(), vectors, strict=True)
        )


# --------------------------------------------------------------------------------------- searching


def open_index(folder: Path, model: Model) -> tuple[AnnIndex | None, Notice | None]:
    """Map the FAISS file of a model.

    Returns:
        The index, or None where there is none that can be trusted; then also what to tell the
        user, or None where there never was one.
    """
    for attempt in (1, 2):
        text = ann_file.read_text(folder, model)
        if text is None:
            return None, None
        try:
            facts = ann_file.parse(text)
        except (ValueError, TypeError, KeyError):
            return None, ann_file.damaged("index.json cannot be read")
        if facts is None:
            return None, ann_file.OUTDATED
        index, problem = _map(folder, model, facts)
        if index is not None:
            return index, None
        # A writer may have replaced both files between our two looks.
        if attempt == 2 or ann_file.read_text(folder, model) == text:
            break
    return None, ann_file.damaged(problem)


def _map(folder: Path, model: Model, facts: IndexFacts) -> tuple[AnnIndex | None, str]:
    """The mapped file, or why it cannot be trusted.

    Its head, with the centroids and the sizes of the lists, is compared with its digest at every
    opening: what FAISS computes addresses from is sound. Damage in the lists themselves shows where
    a code is farther off than any was (`nearest`), and `check` reads every byte.
    """
    if problem := ann_file.problem(folder, model, facts):
        return None, problem
    try:
        lists = Lists.read(ann_file.place(folder, model) / "index.faiss", mapped=True)
    except RuntimeError as error:
        return None, str(error).splitlines()[-1]
    if (lists.total, lists.dim, lists.nlist) != (facts.vectors, facts.dim, facts.nlist):
        return None, "it is another file than index.json says"
    return AnnIndex(facts, lists), ""


def nearest(
    reader: Reader,
    index: AnnIndex | None,
    model: Model,
    queries: Float32Array,
    k: int,
    *,
    allowed: RowArray | None = None,
    exact: bool = False,
) -> Neighbours:
    """The k best rows of each query among the allowed ones.

    Rows that the index covers are found with it, the rows after them exactly. Without an index, or
    with `exact`, all are scored from the catalogue, a block at a time.

    With a filter, the index must not be trusted to look far enough: the allowed rows may lie
    anywhere. Up to `_EVERY_LIST_ROWS` allowed rows, every one is scored. Above, the number of lists
    starts where as many allowed vectors are looked at as an unfiltered search looks at, and is
    doubled until doubling brings no new hit, or all lists were looked at. Deleted rows that are
    in the file are such a filter too, once they are among the best.

    Args:
        queries: (Q, D) float32.
        k: 1 or more.
        allowed: ascending rows, as `Reader.rows_matching` gives them; None for all.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    dead = reader.tombstones(model.id)
    if allowed is not None:
        allowed = allowed[~_isin(allowed, dead)]
    few = allowed is not None and len(allowed) <= max(_FEW_ROWS, 4 * k)
    if index is None or exact or few:
        return _scan(reader, model, queries, k, allowed, dead)
    if not index.belongs_to(reader, model, dead):
        found = _scan(reader, model, queries, k, allowed, dead)
        if index.is_newer_than(reader, model):
            return found
        return found._replace(notice=ann_file.damaged("it was made from another catalogue"))
    best = _Best(len(queries), k)
    try:
        _search_index(reader, model, index, queries, k, allowed, dead, best)
        _scan_rows(reader, model, queries, allowed, dead, best, first_row=index.facts.rows)
        return best.ranked(queries, lambda rows: reader.vectors(model.id, rows))
    except (KeyError, _WrongCodeError):
        found = _scan(reader, model, queries, k, allowed, dead)
        return found._replace(notice=ann_file.damaged("it holds other numbers than the catalogue"))


def _search_index(
    reader: Reader,
    model: Model,
    index: AnnIndex,
    queries: Float32Array,
    k: int,
    allowed: RowArray | None,
    dead: RowArray,
    best: _Best,
) -> None:
    """Put the best rows of the file into `best`.

    Raises:
        KeyError, _WrongCodeError: the file does not hold what the catalogue holds.
    """
    covered = index.facts.rows
    k = min(k, max(1, index.facts.vectors))
    dead = dead[dead < covered]
    # Rows that were deleted before the file was made are not in it.
    dead_inside = len(dead) - (covered - index.facts.vectors)

    def search(depth: int, nprobe: int, selector: object = None) -> tuple[Float32Array, RowArray]:
        return _search_lists(reader, model, index, queries, depth, nprobe, selector, dead)

    if allowed is None:
        for spare in (0, 8):  # mostly none of the best is deleted, else mostly a few
            depth = min(k + spare, index.facts.vectors)
            scores, rows = search(depth, index.nprobe(depth))
            alive = (rows >= 0) & ~_isin(rows, dead)
            if (alive.sum(axis=1) >= k).all() or dead_inside in (0, index.facts.vectors):
                best.add_found(np.where(alive, rows, -1), scores)
                return
        mask = np.ones(covered, dtype=bool)
        mask[dead] = False
        count = covered - len(dead)
    else:
        inside = allowed[allowed < covered]
        mask = np.zeros(covered, dtype=bool)
        mask[inside] = True
        count = len(inside)
    if not count:
        return
    faiss = load_faiss()

    bits = np.packbits(mask, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    lists = index.facts.nlist
    if allowed is None:  # all that are deleted may lie nearer than the best
        nprobe = index.nprobe(k + dead_inside)
    elif count <= _EVERY_LIST_ROWS:
        nprobe = lists
    else:
        nprobe = index.nprobe(k * index.facts.vectors / count)
    scores, rows = search(k, nprobe, selector)
    while nprobe < lists:
        nprobe = min(2 * nprobe, lists)
        before = rows
        scores, rows = search(k, nprobe, selector)
        if (rows >= 0).all() and np.array_equal(np.sort(rows), np.sort(before)):
            break
    best.add_found(rows, scores)


def _search_lists(
    reader: Reader,
    model: Model,
    index: AnnIndex,
    queries: Float32Array,
    k: int,
    nprobe: int,
    selector: object,
    dead: RowArray,
) -> tuple[Float32Array, RowArray]:
    """The k best rows of the lists that are looked at: by their codes, then by their vectors.

    A code scores at most `code_error` times the query's length more or less than its vector
    (Cauchy-Schwarz). The k best codes are compared by vector; the worst of them sets a floor, and
    whatever may lie above it is compared by vector too. Deleted rows keep the score of their code.

    Returns:
        (Q, k) scores and rows, best first; -1 where there are fewer.
    Raises:
        KeyError, _WrongCodeError: the codes are not those of the catalogue's vectors.
    """
    scores_out = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows_out = np.full((len(queries), k), -1, dtype=np.int64)
    slacks = (index.facts.code_error + _ROUNDING) * np.linalg.norm(queries, axis=1)
    length = _SHORTLIST + _SHORTLIST_OF_EACH * k
    waiting = list(range(len(queries)))
    while waiting:
        length = min(length, index.facts.vectors)
        of_codes, found = index.lists.search(
            queries[waiting], length, nprobe=nprobe, selector=selector
        )
        too_short = []
        for place, query in enumerate(waiting):
            rows, scores = found[place], of_codes[place]
            count = int(np.count_nonzero(rows >= 0))
            near = min(k, count)
            _compare(reader, model, queries[query], rows[:near], scores[:near], slacks[query], dead)
            floor = scores[:near].min() - slacks[query] if near == k else -math.inf
            more = near + int(np.count_nonzero(scores[near:count] >= floor))
            part = slice(near, more)
            _compare(reader, model, queries[query], rows[part], scores[part], slacks[query], dead)
            if more == length < index.facts.vectors:  # what comes after it may lie above it, too
                too_short.append(query)
                continue
            order = np.lexsort((rows[:more], -scores[:more]))[:k]
            scores_out[query, : len(order)] = scores[order]
            rows_out[query, : len(order)] = rows[order]
        waiting = too_short
        length *= 4
    return scores_out, rows_out


def _compare(
    reader: Reader,
    model: Model,
    query: Float32Array,
    rows: RowArray,
    scores: Float32Array,
    slack: float,
    dead: RowArray,
) -> None:
    """Put the scores of vectors in the place of those of their codes; rows and scores are (n,).

    Raises:
        KeyError, _WrongCodeError: as `_search_lists` does.
    """
    alive = np.flatnonzero(~_isin(rows, dead))
    for start in range(0, len(alive), 4096):
        part = alive[start : start + 4096]
        exact = reader.vectors(model.id, rows[part]) @ query
        if (np.abs(exact - scores[part]) > slack).any():
            raise _WrongCodeError
        scores[part] = exact


def _scan(
    reader: Reader,
    model: Model,
    queries: Float32Array,
    k: int,
    allowed: RowArray | None,
    dead: RowArray,
) -> Neighbours:
    """Every allowed row, from the catalogue."""
    best = _Best(len(queries), k)
    _scan_rows(reader, model, queries, allowed, dead, best, first_row=0)
    return best.ranked(queries, lambda rows: reader.vectors(model.id, rows))


def _scan_rows(
    reader: Reader,
    model: Model,
    queries: Float32Array,
    allowed: RowArray | None,
    dead: RowArray,
    best: _Best,
    *,
    first_row: int,
) -> None:
    """Put the best rows from `first_row` on into `best`; memory does not grow with their number."""
    if first_row >= model.rows:
        return
    if allowed is not None:
        allowed = allowed[np.searchsorted(allowed, first_row) :]
        # Looking up a row alone takes about four times as long as reading it in order.
        if len(allowed) < (model.rows - first_row) // 4:
            for start in range(0, len(allowed), 4096):
                rows = allowed[start : start + 4096]
                best.add(rows, queries @ reader.vectors(model.id, rows).T)
            return
    for rows, vectors in reader.vector_blocks(model.id, first_row):
        scores = queries @ vectors.T
        keep = ~_isin(rows, dead)
        if allowed is not None:
            keep &= _isin(rows, allowed)
        if keep.all():
            best.add(rows, scores)
        else:
            best.add(rows[keep], scores[:, keep])


class _WrongCodeError(Exception):
    """A row's code is farther from its vector in the catalogue than any was."""


class _Best:
    """The best rows seen so far, of each query."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        # More than k, so that what only rounding puts behind the k-th is ranked again in the end.
        self._kept = 2 * k + 256
        self._floor = np.full(queries, -np.inf, dtype=np.float32)
        self._rows: list[list[RowArray]] = [[] for _ in range(queries)]
        self._scores: list[list[Float32Array]] = [[] for _ in range(queries)]
        self._size = [0] * queries

    def add(self, rows: RowArray, scores: Float32Array) -> None:
        """Rows (n,) and their scores (Q, n)."""
        for query, of_query in enumerate(scores):
            good = np.flatnonzero(of_query >= self._floor[query])
            if not len(good):
                continue
            self._rows[query].append(rows[good])
            self._scores[query].append(of_query[good])
            self._size[query] += len(good)
            if self._size[query] > 2 * self._kept:
                self._shrink(query)

    def add_found(self, rows: RowArray, scores: Float32Array) -> None:
        """Rows (Q, n) and their scores (Q, n); -1 is no row."""
        for query, of_query in enumerate(rows):
            there = of_query >= 0
            self._rows[query].append(of_query[there])
            self._scores[query].append(scores[query][there])
            self._size[query] += int(there.sum())

    def _shrink(self, query: int) -> None:
        rows, scores = self.candidates(query)
        if len(scores) > self._k:
            kth = np.partition(scores, len(scores) - self._k)[len(scores) - self._k]
            self._floor[query] = floor = np.float32(kth - _ROUNDING)
            keep = scores >= floor
            rows, scores = rows[keep], scores[keep]
        if len(rows) > self._kept:  # a crowd of equal scores: the first rows stand for it
            order = np.lexsort((rows, -scores))[: self._kept]
            rows, scores = rows[order], scores[order]
        self._rows[query], self._scores[query] = [rows], [scores]
        self._size[query] = len(rows)

    def candidates(self, query: int) -> tuple[RowArray, Float32Array]:
        """Rows (n,) and scores (n,) kept so far, in no order."""
        if not self._rows[query]:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        return np.concatenate(self._rows[query]), np.concatenate(self._scores[query])

    def ranked(
        self,
        queries: Float32Array,
        vectors_of: Callable[[RowArray], Float32Array],
    ) -> Neighbours:
        """The k best of each query, scored once more in one way for all.

        A matrix product sums in an order that depends on a row's place in its block, so equal
        vectors may differ in the last bit. In float64 they do not, once rounded to float32.
        """
        count, k = len(queries), self._k
        scores_out = np.full((count, k), -np.inf, dtype=np.float32)
        rows_out = np.full((count, k), -1, dtype=np.int64)
        for query in range(count):
            self._shrink(query)
            rows, _ = self.candidates(query)
            wide = queries[query].astype(np.float64)
            exact = np.empty(len(rows), dtype=np.float32)
            for start in range(0, len(rows), 4096):
                part = slice(start, start + 4096)
                exact[part] = vectors_of(rows[part]).astype(np.float64) @ wide
            order = np.lexsort((rows, -exact))[:k]
            scores_out[query, : len(order)] = exact[order]
            rows_out[query, : len(order)] = rows[order]
        return Neighbours(scores_out, rows_out)


def _isin(rows: RowArray, ascending: RowArray) -> npt.NDArray[np.bool_]:
    """Which of `rows` are among the ascending rows."""
    if not len(ascending):
        return np.zeros(rows.shape, dtype=bool)
    places = np.minimum(np.searchsorted(ascending, rows), len(ascending) - 1)
    found: npt.NDArray[np.bool_] = ascending[places] == rows
    return found


def _contains(ascending: RowArray, row: int) -> bool:
    return bool(_isin(np.array([row], dtype=np.int64), ascending)[0])


# ---------------------------------------------------------------------------------------- building


def _due_from(reader: Reader) -> float:
    """How many vectors it takes for a FAISS file: `MIN_VECTORS`, or as the user chose."""
    chosen = reader.get_setting(CHOICE)
    return {"exact": math.inf, "lists": _FEWEST_FOR_LISTS}.get(chosen or "", MIN_VECTORS)


def in_words(folder: Path, reader: Reader, model: Model) -> str:
    """How queries are answered, and why so."""
    index, notice = open_index(folder, model)
    due = _due_from(reader)
    told = "as `compact --search` was told"
    if index is None:
        enough = told if due == math.inf else f"quick enough below {due:,}"
        return f"every vector is compared ({notice[0] if notice else enough})"
    tail = model.rows - index.facts.rows
    by_hand = "" if due == MIN_VECTORS else f"; {told}"
    return f"{index.facts.why}; {tail:,} newer vectors are compared one by one{by_hand}"


def build(folder: Path, reader: Reader, model: Model, *, seed: int = 0) -> BuildReport:
    """Make the FAISS file of a model anew, from the catalogue alone; the caller holds the lock.

    Raises:
        StorageError: it cannot be written; what was there before still is.
    """
    started = time.perf_counter()
    live = reader.count_rows(model.id)
    if live < _due_from(reader):
        ann_file.remove(folder, model)
        why = f"exact: no index is due for {live:,} vectors"
        return BuildReport(time.perf_counter() - started, None, why)
    generator = np.random.default_rng(seed)
    # 2 sqrt(N): at a million the quickest at recall 0.99 of 1024, 2048 and 4096 lists.
    nlist = round(2 * math.sqrt(live))
    rows = reader.stored_rows(model.id)
    sample = np.sort(
        generator.choice(rows, min(len(rows), _POINTS_PER_LIST * nlist), replace=False)
    )
    points = np.concatenate(
        [
            reader.vectors(model.id, sample[start : start + _BUILD_BLOCK])
            for start in range(0, len(sample), _BUILD_BLOCK)
        ]
    )
    centroids = spherical_kmeans(points, nlist, generator)
    del points
    # One number beyond the range of the codes would make all of them doubtful.
    largest = max(
        float(max(vectors.max(), -vectors.min()))
        for _, vectors in reader.vector_blocks(model.id, 0, block=_BUILD_BLOCK)
    )
    numbers = np.full(model.rows, -1, dtype=np.int32)
    facts = _fill_and_measure(
        folder, reader, model, Lists.make(centroids, largest), numbers, 0, generator, trained=None
    )
    return BuildReport(time.perf_counter() - started, facts, facts.why)


def refresh(folder: Path, reader: Reader, model: Model) -> BuildReport | None:
    """Bring the FAISS file up to date where that is due; None where it was not.

    It is due when there is none that can be trusted, or when more than `TAIL_ROWS` rows lie behind
    it. The new rows are put into the lists there are; these are made anew when the library has
    doubled since, a fifth of the file is dead, or nprobe or the codes' error has to be half as
    large again as it was.

    Raises:
        StorageError: it cannot be written; what was there before still is.
    """
    started = time.perf_counter()
    if _is_current(folder, reader, model):
        return None
    live = reader.count_rows(model.id)
    index, notice = open_index(folder, model)
    if live < _due_from(reader):
        if index is None and notice is None:
            return None
        return build(folder, reader, model)
    dead = reader.tombstones(model.id)
    if index is None or not index.belongs_to(reader, model, dead):
        return build(folder, reader, model)
    old = index.facts
    dead_inside = int(np.searchsorted(dead, old.rows)) - (old.rows - old.vectors)
    if dead_inside * 5 > old.vectors:
        return build(folder, reader, model)
    if model.rows - old.rows <= TAIL_ROWS:
        return None
    if live > 2 * old.trained_vectors:
        return build(folder, reader, model)
    numbers = np.full(model.rows, -1, dtype=np.int32)
    for number, rows, _ in index.lists.stored():
        numbers[rows] = number
    del index
    lists = Lists.read(ann_file.place(folder, model) / "index.faiss", mapped=False)
    generator = np.random.default_rng(0)
    facts = _fill_and_measure(
        folder, reader, model, lists, numbers, old.rows, generator, trained=old
    )
    if (
        facts.nprobe["10"] > 1.5 * old.trained_nprobe
        or facts.code_error > 1.5 * old.code_error + _ROUNDING
    ):
        return build(folder, reader, model)
    return BuildReport(time.perf_counter() - started, facts, facts.why)


def _is_current(folder: Path, reader: Reader, model: Model) -> bool:
    """Whether `refresh` would find nothing to do, told without the 0.1 s that FAISS takes."""
    text = ann_file.read_text(folder, model)
    live, due = reader.count_rows(model.id), _due_from(reader)
    if text is None:
        return live < due
    try:
        facts = ann_file.parse(text)
    except (ValueError, TypeError, KeyError):
        return False
    if facts is None or live < due or model.rows - facts.rows > TAIL_ROWS:
        return False
    dead = reader.tombstones(model.id)
    dead_inside = int(np.searchsorted(dead, facts.rows)) - (facts.rows - facts.vectors)
    return (
        dead_inside * 5 <= facts.vectors
        and not ann_file.problem(folder, model, facts)
        and AnnIndex(facts, None).belongs_to(reader, model, dead)
    )


def _fill_and_measure(
    folder: Path,
    reader: Reader,
    model: Model,
    lists: Lists,
    numbers: Int32Array,
    first_row: int,
    generator: np.random.Generator,
    *,
    trained: IndexFacts | None,
) -> IndexFacts:
    """Add the rows from `first_row` on, choose nprobe, publish. One pass over the catalogue.

    Args:
        numbers: (rows,) the list of each row, -1 for none; completed here.
    """
    centroids = lists.centroids()
    live = reader.stored_rows(model.id)
    captioned = np.sort(generator.choice(live, min(len(live), _TEXT_LIKE), replace=False))
    picked = np.sort(generator.choice(live, min(len(live), _QUERIES_OF_A_KIND), replace=False))
    kinds = {
        "photo": reader.vectors(model.id, picked),
        "text-like": text_like(reader.vectors(model.id, captioned), _GAPS, generator),
    }
    asked = TextCache(folder).vectors(model.text_fingerprint, _QUERIES_OF_A_KIND)
    if len(asked) >= 16 and asked.shape[1] == model.dim:
        kinds["asked"] = asked
    queries = np.concatenate(list(kinds.values()))
    depth = min(max(_DEPTHS), len(live) - 1)
    truth = _Best(len(queries), depth + 1)
    for rows, vectors in reader.vector_blocks(model.id, 0, block=_BUILD_BLOCK):
        truth.add(rows, queries @ vectors.T)
        fresh = rows >= first_row
        if fresh.any():
            numbers[rows[fresh]] = assign(vectors[fresh], centroids)
            lists.add(rows[fresh], vectors[fresh], numbers[rows[fresh]])
    ranks: dict[str, npt.NDArray[np.int64]] = {}
    start = 0
    for kind, of_kind in kinds.items():
        ranks[kind] = np.stack(
            [
                _list_ranks(
                    *truth.candidates(start + number),
                    leave_out=int(picked[number]) if kind == "photo" else -1,
                    numbers=numbers,
                    list_scores=centroids @ query,
                    depth=depth,
                )
                for number, query in enumerate(of_kind)
            ]
        )
        start += len(of_kind)
    nlist = lists.nlist
    nprobe = {
        str(some): max(
            _needed(of_kind[:, :some], nlist, gaps=_GAPS if kind == "text-like" else 1)
            for kind, of_kind in ranks.items()
        )
        for some in _DEPTHS
        if some <= depth
    }
    chosen = nprobe["10"]
    recall = {
        kind: round(float((of_kind[:, :10] < chosen).mean()), 4) for kind, of_kind in ranks.items()
    }
    told = ", ".join(f"{value:.3f} for {kind} queries" for kind, value in recall.items())
    if chosen < nlist:
        why = (
            f"index: {chosen} of {nlist} lists are looked at, "
            f"for recall@10 of at least {TARGET_RECALL} (measured: {told})"
        )
    else:
        why = (
            f"exact: recall@10 of {TARGET_RECALL} needs all {nlist} lists of the index, "
            "so all are looked at"
        )
    witnesses = np.unique(
        np.concatenate([live[-8:], generator.choice(live, min(len(live), _WITNESSES - 8))])
    )
    facts = IndexFacts(
        format=ann_file.FORMAT,
        model_id=model.id,
        image_fingerprint=model.image_fingerprint,
        dim=model.dim,
        rows=model.rows,
        vectors=lists.total,
        nlist=nlist,
        nprobe=nprobe,
        code_error=max(lists.code_error, 0.0 if trained is None else trained.code_error),
        exact=chosen >= nlist,
        recall=recall,
        why=why,
        trained_vectors=len(live) if trained is None else trained.trained_vectors,
        trained_nprobe=chosen if trained is None else trained.trained_nprobe,
        file_bytes=0,
        digest="",
        head_bytes=0,
        head_digest="",
        witnesses=[
            (int(row), ann_file.vector_digest(vector))
            for row, vector in zip(witnesses, reader.vectors(model.id, witnesses), strict=True)
        ],
    )
    return ann_file.publish(folder, model, lists.write, lists.total * lists.record_bytes, facts)


def _list_ranks(
    rows: RowArray,
    scores: Float32Array,
    *,
    leave_out: int,
    numbers: Int32Array,
    list_scores: Float32Array,
    depth: int,
) -> npt.NDArray[np.int64]:
    """(depth,) how many lists come before the one that holds each of the best rows."""
    keep = rows != leave_out
    rows, scores = rows[keep], scores[keep]
    best = rows[np.lexsort((rows, -scores))[:depth]]
    rank = np.empty(len(list_scores), dtype=np.int64)
    rank[np.argsort(-list_scores, kind="stable")] = np.arange(len(list_scores))
    return rank[numbers[best]]


def _needed(ranks: npt.NDArray[np.int64], nlist: int, *, gaps: int) -> int:
    """The fewest lists with which recall reaches the target.

    It must do so over all queries, two standard errors included, and for nineteen gaps of twenty.
    Above nine tenths of the lists, what is saved is not worth what is risked: all of them.

    Args:
        ranks: (Q, n) how many lists come before that of each of the best rows.
        gaps: query i has the gap i mod `gaps`; 1 where they have none, or share one.
    """
    nprobe = 1
    while nprobe < 0.9 * nlist:
        recall = (ranks < nprobe).mean(axis=1)
        sure = float(recall.mean()) - 2 * float(recall.std()) / math.sqrt(len(recall))
        of_gaps = sorted(recall[gap::gaps].mean() for gap in range(min(gaps, len(recall))))
        if min(sure, of_gaps[len(of_gaps) // 20]) >= TARGET_RECALL:
            return nprobe
        nprobe = min(nlist, max(nprobe + 1, nprobe * 11 // 10))
    return nlist


# --------------------------------------------------------------------------------------- checking


def verify(folder: Path, reader: Reader, model: Model, *, sample: int = 2000) -> str | None:
    """Read the whole FAISS file; what is wrong with it, or None.

    No file at all is right too, and so is one that a writer has put in place since the reader was
    opened: it belongs to a later moment.
    """
    index, notice = open_index(folder, model)
    if index is None:
        return None if notice is None else notice[0]
    path = ann_file.place(folder, model) / "index.faiss"
    if not ann_file.is_whole(path, index.facts):
        return ann_file.damaged("checksum")[0] if _is_in_place(folder, model, index) else None
    dead = reader.tombstones(model.id)
    if not index.belongs_to(reader, model, dead):
        if index.is_newer_than(reader, model):
            return None
        return ann_file.damaged("it was made from another catalogue")[0]
    wanted = max(1, index.facts.vectors // sample)
    seen = 0
    for _, rows, codes in index.lists.stored():
        seen += len(rows)
        some = np.arange(seen % wanted, len(rows), wanted)
        some = some[~_isin(rows[some], dead)]
        if len(some):
            try:
                away = index.lists.decode(codes[some]) - reader.vectors(model.id, rows[some])
            except KeyError:
                return ann_file.damaged("it holds rows that the catalogue does not know")[0]
            if np.linalg.norm(away, axis=1).max() > index.facts.code_error + _ROUNDING:
                return ann_file.damaged("it holds other numbers than the catalogue")[0]
    return None


def _is_in_place(folder: Path, model: Model, index: AnnIndex) -> bool:
    """Whether no writer has replaced or removed the file since it was opened."""
    text = ann_file.read_text(folder, model)
    return text is not None and index.facts.digest.encode() in text


def measure_recall(
    folder: Path, reader: Reader, model: Model, *, queries: int = 50, seed: int = 1
) -> dict[str, float] | None:
    """recall@10 of the index against an exact search, by kind of query.

    None without an index that belongs to the reader's moment.
    """
    index, _ = open_index(folder, model)
    if index is None or not index.belongs_to(reader, model, reader.tombstones(model.id)):
        return None
    generator = np.random.default_rng(seed)
    live = reader.stored_rows(model.id)
    # Fewer are left where a run that removed most photos was killed before it came to the file.
    picked = np.sort(generator.choice(live, min(queries, len(live)), replace=False))
    photos = reader.vectors(model.id, picked)
    recall = {}
    for kind, of_kind in (("photo", photos), ("text-like", text_like(photos, _GAPS, generator))):
        exact = nearest(reader, None, model, of_kind, 10)
        found = nearest(reader, index, model, of_kind, 10)
        recall[kind] = recall_at_k(found.rows, exact.rows)
    return recall


def recall_at_k(found: RowArray, exact: RowArray) -> float:
    """The share of the exact answer's rows (Q, k) that were found; -1 is no row."""
    hits = sum(
        len(np.intersect1d(ours[ours >= 0], theirs[theirs >= 0]))
        for ours, theirs in zip(found, exact, strict=True)
    )
    total = int((exact >= 0).sum())
    return hits / total if total else 1.0


__all__: Sequence[str] = [
    "AnnIndex",
    "BuildReport",
    "IndexFacts",
    "Neighbours",
    "build",
    "measure_recall",
    "nearest",
    "open_index",
    "recall_at_k",
    "refresh",
    "verify",
]
