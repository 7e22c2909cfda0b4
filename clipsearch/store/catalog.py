"""Writes a library: the catalogue, in one transaction a batch.

The caller holds `lock.writer_lock`. Threads may share a `Catalog`; their calls take turns.

Durability. The log is write-ahead, so that readers and the writer never wait for each other, and
`synchronous` is FULL: every commit is on the disk when it returns. NORMAL would keep the catalogue
sound too, but a power cut could take back the last commits after their rows had been written into
a FAISS file; those rows would be given out again, to other photos, and the file would lie. FULL
costs one fsync a batch (0.16 ms measured on a virtual disk, some milliseconds on a laptop's),
and a batch takes about a second to compute.

What became of files is told apart by what a scan sees of each photo: a place that it gained and a
place that it lost are a move, in whatever order they were seen. See `_Ledger`.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from clipsearch.errors import ModelError
from clipsearch.records import Fingerprints, Float32Array, FoundFile, PhotoFacts
from clipsearch.store.failures import translated
from clipsearch.store.migrations import ROW_BITS, migrate
from clipsearch.store.reader import (
    CATALOG_NAME,
    Model,
    Root,
    path_text,
    read_models,
    read_roots,
    relative_bytes,
)
from clipsearch.store.schema import Tables, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

_Item = TypeVar("_Item")

__all__ = [
    "Catalog",
    "Changes",
    "Entry",
    "FolderChanges",
    "MissingPhoto",
    "Model",
    "Problem",
    "Root",
]

# SQLite's own bound on parameters of a statement is 32,766 by default; shorter statements are
# cached by SQLAlchemy.
_CHUNK = 500
_FACTS = tuple(each.name for each in fields(PhotoFacts))

# `index --watch` makes one every few seconds: all of them would be a gigabyte after a year.
_KEPT_SCANS = 1000

# Facts that mean something only together; the first of each says whether a file tells them.
_TOLD_TOGETHER = (
    ("taken_at", "taken_offset_minutes"),
    ("latitude", "longitude"),
    ("camera", "lens"),
)

# 8 KB pages hold 7 vectors of 512 dimensions where 4 KB pages hold 3: an eighth less to read. With
# 16 KB a commit of a few photos writes twice as much for 5 % more.
_PAGE_BYTES = 8192

# float16 rounding changes the length of a unit vector by 1e-3 at most (2^-11 a component).
_UNIT_TOLERANCE = 2e-3


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was read.

    Attributes:
        facts: None where the photo is known and this file says nothing new of it.
        vector: (dim,) float32, unit; None where the photo has one already.
    """

    root_id: int
    file: FoundFile
    digest: bytes
    facts: PhotoFacts | None
    vector: Float32Array | None


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that could not be read.

    Attributes:
        is_photo: False where it is no picture at all.
        passing: it may be read another time although it stays as it is, as from a disk that
            failed: what was known of this place is kept.
        digest: of its content, where that much could be read; another one than was known is not
            kept to.
    """

    root_id: int
    file: FoundFile
    reason: str
    is_photo: bool
    passing: bool = False
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class MissingPhoto:
    """A photo without a vector under the model asked for.

    Attributes:
        files: (root id, root path, file) of each place it lies at, those on available roots first.
    """

    photo_id: int
    digest: bytes
    files: list[tuple[int, str, FoundFile]]


@dataclass(slots=True)
class FolderChanges:
    """How a folder differs from what the catalogue knows of it.

    Attributes:
        to_read: new files and files that changed, in the order given.
        unchanged: photos as they were.
        known_problems: unreadable as they were.
        known_not_photos: no pictures, as they were.
        gone: ids, for `remove_files`, of what is no longer there (a problem's is negated), and of
            the problems of known photos that are as they were.
    """

    to_read: list[FoundFile] = field(default_factory=list)
    unchanged: int = 0
    known_problems: int = 0
    known_not_photos: int = 0
    gone: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """What became of files. Counts of one scan add up with `+`.

    A later step may know better than an earlier one (a copy whose original turns out to be gone
    was a move), so single counts may be negative; sums over a scan are not.

    Attributes:
        added: files with a photo that is new to the library.
        copied: files with a photo that lies elsewhere too.
        moved: photos that lie at another place than before.
        changed: files that hold another photo than before.
        touched: files rewritten with the same picture (new date, new tags).
        removed: files that are gone.
        problems: files that cannot be read; not_photos: files that are no pictures.
    """

    added: int = 0
    copied: int = 0
    moved: int = 0
    changed: int = 0
    touched: int = 0
    removed: int = 0
    problems: int = 0
    not_photos: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            *(getattr(self, name.name) + getattr(other, name.name) for name in fields(Changes))
        )


@dataclass(slots=True, eq=False)
class _Gain:
    """A place where a photo was found that was not there before."""

    kind: Literal["added", "copied", "changed", "moved"]
    is_new_photo: bool
    displaced: _Loss | None


@dataclass(slots=True, eq=False)
class _Loss:
    """A place where a photo was that is not there now.

    'covered' is a loss that is told by what happened at the same path: another photo lies there
    now (`changed`), or something unreadable.
    """

    kind: Literal["covered", "removed", "moved"]
    displaced_by: _Gain | None


class _Ledger:
    """Matches the places that photos gained and lost in one scan.

    Two files that swap names are two moves; `mv b.jpg a.jpg` over an existing photo is a move and
    a removal; `cp b.jpg a.jpg` is one change. Memory: what the scan changed of photos known
    before, not what it added.
    """

    def __init__(self) -> None:
        self._gains: defaultdict[int, list[_Gain]] = defaultdict(list)
        self._losses: defaultdict[int, list[_Loss]] = defaultdict(list)

    def gain(
        self, photo: int, changes: Changes, *, is_new: bool, lost: int | None, was_orphan: bool
    ) -> None:
        """`photo` was found at a place that was new, or where photo `lost` used to be."""
        loss = None if lost is None else _Loss("covered", None)
        gain = _Gain("added" if is_new else "copied", is_new, loss)
        if loss is not None:
            gain.kind = "changed"
            loss.displaced_by = gain
        _count(changes, gain.kind, 1)
        if not is_new:
            if self._losses[photo]:
                _match(gain, self._losses[photo].pop(), changes)
            elif was_orphan:  # lost by a scan that was interrupted
                _match(gain, _Loss("covered", None), changes)
            else:
                self._gains[photo].append(gain)
        if loss is not None and lost is not None:
            self._lose(lost, loss, changes)

    def lose(self, photo: int, changes: Changes, *, covered: bool) -> None:
        """`photo` is no longer at some place; `covered`: something unreadable is there now."""
        loss = _Loss("covered" if covered else "removed", None)
        if not covered:
            changes.removed += 1
        self._lose(photo, loss, changes)

    def _lose(self, photo: int, loss: _Loss, changes: Changes) -> None:
        if self._gains[photo]:
            _match(self._gains[photo].pop(), loss, changes)
        else:
            self._losses[photo].append(loss)


def _match(gain: _Gain, loss: _Loss, changes: Changes) -> None:
    """The photo that was gained at one place was lost at another: it moved."""
    _count(changes, gain.kind, -1)
    changes.moved += 1
    gain.kind = "moved"
    if loss.kind == "removed":
        changes.removed -= 1
    loss.kind = "moved"
    taker = loss.displaced_by
    if taker is not None and taker.kind == "changed":
        # What lies at the old place now took nobody's place: the former photo moved away.
        changes.changed -= 1
        taker.kind = "added" if taker.is_new_photo else "copied"
        _count(changes, taker.kind, 1)
    if gain.displaced is not None and gain.displaced.kind == "covered":
        changes.removed += 1
        gain.displaced.kind = "removed"


def _columns(facts: PhotoFacts) -> dict[str, Any]:
    """`asdict`, which is slow as it copies deeply, for thousands of photos a second."""
    return {name: getattr(facts, name) for name in _FACTS}


def _count(changes: Changes, kind: str, by: int) -> None:
    setattr(changes, kind, getattr(changes, kind) + by)


class Catalog:
    """The catalogue of a library, open for writing."""

    def __init__(self, folder: Path, engine: Engine, connection: Connection) -> None:
        self.folder = folder
        self._engine = engine
        self._connection = connection
        self._tables: Tables = tables()
        self._lock = threading.RLock()
        self._ledger = _Ledger()
        self._compared_roots: set[int] = set()
        self._twins: np.ndarray | None = None

    @classmethod
    def open(cls, folder: Path) -> Catalog:
        """The catalogue in `folder`, created or brought to the newest version if need be.

        Raises:
            LibraryTooNew, LibraryDamaged, StorageError.
        """
        from sqlalchemy import create_engine, event
        from sqlalchemy.pool import StaticPool

        path = folder / CATALOG_NAME
        with translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            driver = sqlite3.connect(
                path, isolation_level=None, timeout=30.0, check_same_thread=False
            )
            try:
                driver.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # heeded by a new file only
                driver.execute("PRAGMA journal_mode = WAL")
                driver.execute("PRAGMA synchronous = FULL")
                driver.execute("PRAGMA foreign_keys = ON")
                driver.execute(f"PRAGMA journal_size_limit = {64 << 20}")
                migrate(driver, folder)
                engine = create_engine("sqlite://", creator=lambda: driver, poolclass=StaticPool)
                # The driver is in autocommit mode: transactions begin where we say so.
                event.listen(engine, "begin", _begin_immediate)
                connection = engine.connect()
            except BaseException:
                driver.close()
                raise
        return cls(folder, engine, connection)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close; the write-ahead log is folded into the catalogue unless a reader needs it."""
        with self._lock:
            self._connection.close()
            self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._lock, translated(self.folder), self._connection.begin():
            yield self._connection

    def _fetch(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._transaction() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement, parameters)]

    def _read(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """`_fetch` for what is asked for every photo or folder: a tenth of the time a row."""
        with self._lock, translated(self.folder):
            return self._driver().execute(statement, parameters).fetchall()

    # ------------------------------------------------------------------------ settings, roots

    def get_setting(self, key: str) -> str | None:
        """A setting of this library."""
        rows = self._fetch("SELECT value FROM library WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def put_setting(self, key: str, value: str) -> None:
        """Keep a setting of this library."""
        from sqlalchemy.dialects.sqlite import insert

        with self._transaction() as connection:
            connection.execute(
                insert(self._tables.library)
                .values(key=key, value=value)
                .on_conflict_do_update(index_elements=["key"], set_={"value": value})
            )

    def roots(self) -> list[Root]:
        """The folders that were given to `index`."""
        return read_roots(self._fetch)

    def add_root(self, path: str, options: Mapping[str, Any]) -> Root:
        """Remember a folder (absolute path) and how to scan it; a known one gets new options."""
        from sqlalchemy.dialects.sqlite import insert

        key = path.encode("utf-8", "surrogateescape")
        kept = json.dumps(dict(options))
        with self._transaction() as connection:
            connection.execute(
                insert(self._tables.root)
                .values(path=key, options=kept, available=1)
                .on_conflict_do_update(index_elements=["path"], set_={"options": kept})
            )
        return next(root for root in self.roots() if root.path == path)

    def set_root_available(self, root_id: int, available: bool) -> None:
        """Say whether a root is there now. Nothing of an absent root is lost."""
        root = self._tables.root
        with self._transaction() as connection:
            connection.execute(
                root.update().where(root.c.id == root_id).values(available=int(available))
            )

    def remove_root(self, root_id: int) -> int:
        """Forget a folder, its files, and the photos that lie nowhere else; the number of files."""
        tables_ = self._tables
        with self._transaction() as connection:
            places = connection.execute(
                tables_.file.select()
                .with_only_columns(tables_.file.c.photo_id)
                .where(tables_.file.c.root_id == root_id)
            ).scalars()
            photos = set(places)
            removed = connection.execute(
                tables_.file.delete().where(tables_.file.c.root_id == root_id)
            ).rowcount
            connection.execute(tables_.problem.delete().where(tables_.problem.c.root_id == root_id))
            connection.execute(tables_.root.delete().where(tables_.root.c.id == root_id))
            self._mark_orphans(connection, photos)
            self._bury_orphans(connection)
        return removed

    def absorb_root(self, outer: Root, inner: Root, options: Mapping[str, Any]) -> None:
        """Make the files of a root those of a root around it, which gets these options.

        What the outer root knew of the inner one's folder is dropped.
        """
        prefix = relative_bytes(os.path.relpath(inner.path, outer.path))
        below = (outer.id, prefix, prefix + b"/", prefix + b"0")
        there = "root_id = ? AND (folder = ? OR folder >= ? AND folder < ?)"
        with self._transaction() as connection:
            # What the outer root knows of places that the inner one knows better.
            passed_over = connection.exec_driver_sql(
                f"SELECT photo_id FROM file WHERE {there}", below
            ).scalars()
            photos = set(passed_over)
            for table in ("file", "problem"):
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE {there}", below)
            for table in ("file", "problem"):
                # SQLite joins bytes to a text; the cast takes the very bytes back.
                connection.exec_driver_sql(
                    f"UPDATE {table} SET root_id = ?1,"
                    " folder = CASE folder WHEN x'' THEN ?2 ELSE CAST(?3 || folder AS BLOB) END,"
                    " relative_path = CAST(?3 || relative_path AS BLOB) WHERE root_id = ?4",
                    (outer.id, prefix, prefix + b"/", inner.id),
                )
            self._mark_orphans(connection, photos)
            roots = self._tables.root
            connection.execute(roots.delete().where(roots.c.id == inner.id))
            connection.execute(
                roots.update()
                .where(roots.c.id == outer.id)
                .values(options=json.dumps(dict(options)))
            )

    # ---------------------------------------------------------------------------------- scans

    def begin_scan(self) -> int:
        """Start a run over some roots; its id."""
        with self._transaction() as connection:
            self._ledger = _Ledger()
            self._compared_roots.clear()
            self._twins = None
            started = connection.execute(self._tables.scan.insert().values(started=time.time()))
            key = started.inserted_primary_key
            assert key is not None
            scan_id = int(key[0])
            scan = self._tables.scan
            connection.execute(scan.delete().where(scan.c.id <= scan_id - _KEPT_SCANS))
            return scan_id

    def finish_scan(self, scan_id: int, counts: Mapping[str, int]) -> None:
        """End a run: photos that lie nowhere any more go, with their vectors, for good.

        Until then they are hidden from readers but keep their vectors, since a later batch may
        find them elsewhere.
        """
        tables_ = self._tables
        now = time.time()
        with self._transaction() as connection:
            self._bury_orphans(connection)
            connection.execute(
                tables_.scan.update()
                .where(tables_.scan.c.id == scan_id)
                .values(finished=now, counts=json.dumps(dict(counts)))
            )
            for root_id in self._compared_roots:
                connection.execute(
                    tables_.root.update()
                    .where(tables_.root.c.id == root_id)
                    .values(last_scanned=now)
                )
        self._ledger = _Ledger()

    def compare_folder(
        self, root_id: int, relative_folder: str, files: Sequence[FoundFile]
    ) -> FolderChanges:
        """How the files of one folder (not below it) differ from the catalogue. Only reads.

        A file is as it was if its size and time are, and its inode: files of one size and time
        that swapped names differ in nothing else. Some file systems number files anew at every
        mount: where not one inode of the folder held, they count only if files traded them, or
        one lies over another, here or in another folder.

        Args:
            relative_folder: '' for the root itself.
            files: all candidates that the folder holds now; empty for a folder that is gone.
        """
        folder = relative_bytes(relative_folder)
        self._compared_roots.add(root_id)
        known: dict[bytes, tuple[Any, ...]] = {}
        problems_of_known: dict[bytes, int] = {}
        for is_problem, table, column in ((False, "file", "1"), (True, "problem", "is_photo")):
            for row in self._read(
                f"SELECT relative_path, size, mtime_ns, inode, id, {column}"
                f" FROM {table} WHERE root_id = ? AND folder = ?",
                (root_id, folder),
            ):
                if row[0] in known:
                    problems_of_known[row[0]] = row[4]
                else:
                    known[row[0]] = (*row[1:], is_problem)
        changes = FolderChanges()
        inodes_hold = False
        inodes_now = {_signed(file.inode) for file in files}
        inodes_before = {row[2] for row in known.values()}
        same: list[tuple[FoundFile, tuple[Any, ...]]] = []
        doubtful: list[tuple[FoundFile, tuple[Any, ...]]] = []
        fresh: set[str] = set()
        for file in files:
            before = known.pop(relative_bytes(file.relative_path), None)
            if before is None or before[0] != file.size or before[1] != file.mtime_ns:
                fresh.add(file.relative_path)
            elif before[2] == _signed(file.inode) or not file.inode or not before[2]:
                inodes_hold = inodes_hold or bool(file.inode)
                same.append((file, before))
            else:
                doubtful.append((file, before))
        for file, before in doubtful:
            inode = _signed(file.inode)
            traded = before[2] in inodes_now or inode in inodes_before
            if inodes_hold or traded or self._is_a_twin(inode, before[0], before[1]):
                fresh.add(file.relative_path)
            else:
                same.append((file, before))
        for _, (*_, is_photo, is_problem) in same:
            if not is_problem:
                changes.unchanged += 1
            elif is_photo:
                changes.known_problems += 1
            else:
                changes.known_not_photos += 1
        if fresh:
            changes.to_read = [file for file in files if file.relative_path in fresh]
        changes.gone = [-before[3] if before[-1] else before[3] for before in known.values()]
        read_again = {relative_bytes(path) for path in fresh}
        changes.gone += [
            -row_id for path, row_id in problems_of_known.items() if path not in read_again
        ]
        return changes

    def _is_a_twin(self, inode: int, size: int, mtime_ns: int) -> bool:
        """Whether a file of this size, time and inode lies, or lay, in another folder.

        Folders that trade names bring such files along. They are looked up once a scan, before it
        changes them, as sorted hashes: 8 bytes for every file that has a twin elsewhere.
        """
        if self._twins is None:
            alike = self._read(
                "SELECT inode, size, mtime_ns FROM file JOIN"
                " (SELECT size, mtime_ns FROM file GROUP BY size, mtime_ns"
                " HAVING min(folder) < max(folder) OR min(root_id) < max(root_id))"
                " USING (size, mtime_ns)"
            )
            self._twins = np.sort(np.fromiter(map(hash, alike), np.int64, len(alike)))
        wanted = hash((inode, size, mtime_ns))
        place = int(np.searchsorted(self._twins, wanted))
        return place < len(self._twins) and int(self._twins[place]) == wanted

    def folders_of(self, root_id: int) -> Iterator[str]:
        """Folders, relative to a root, that the catalogue knows files of; ascending."""
        after: bytes | None = None
        while True:
            page = self._fetch(
                "SELECT folder FROM file WHERE root_id = ?1 AND (?2 IS NULL OR folder > ?2)"
                " UNION"
                " SELECT folder FROM problem WHERE root_id = ?1 AND (?2 IS NULL OR folder > ?2)"
                " ORDER BY folder LIMIT 1000",
                (root_id, after),
            )
            for (folder,) in page:
                yield path_text(folder)
            if len(page) < 1000:
                return
            after = page[-1][0]

    def files_under(self, root_id: int, relative: str) -> list[int]:
        """Ids, for `remove_files`, of what the catalogue knows at a path or below it."""
        path = relative_bytes(relative)
        return [
            sign * row_id
            for table, sign in (("file", 1), ("problem", -1))
            for (row_id,) in self._read(
                # In bytes, what lies below 'a' lies from 'a/' up to 'a0'. The wider bounds let the
                # index be used, the OR alone would read the whole root.
                f"SELECT id FROM {table} WHERE root_id = ?1"
                " AND relative_path >= ?2 AND relative_path < ?4"
                " AND (relative_path = ?2 OR relative_path > ?3)",
                (root_id, path, path + b"/", path + b"0"),
            )
        ]

    def commit_batch(
        self,
        model_id: int,
        scan_id: int,
        entries: Sequence[Entry],
        problems: Sequence[Problem] = (),
    ) -> Changes:
        """Keep what was read of some files: one transaction, all of it or nothing.

        An entry whose photo is new, or has no vector under the model, and that brings none, is
        kept; `photos_missing` names it. The facts of a photo are those of the file read last; what
        that one does not tell and others may, as copies sent by messengers, stays as it was.

        Raises:
            ModelError: a vector that is not (dim,), finite and unit; nothing is kept.
            StorageError: disk full or read-only; nothing is kept.
        """
        changes = Changes()
        # Told to the ledger once the batch is kept: one that failed comes again.
        events: list[Callable[[Changes], None]] = []
        with self._transaction() as connection:
            model = self._model(connection, model_id)
            vectors: dict[bytes, bytes] = {}
            for entry in entries:
                if entry.vector is not None and entry.digest not in vectors:
                    vectors[entry.digest] = _stored(
                        entry.vector, model.dim, entry.file.relative_path
                    )
            photos, new = self._put_photos(connection, entries)
            self._put_vectors(connection, model, {photos[key]: vectors[key] for key in vectors})
            self._put_files(connection, scan_id, entries, problems, photos, new, events, changes)
        for tell in events:
            tell(changes)
        return changes

    def _put_photos(
        self, connection: Connection, entries: Sequence[Entry]
    ) -> tuple[dict[bytes, int], set[int]]:
        """Photo ids by digest, new photos made; and which are new."""
        from sqlalchemy import bindparam

        photo = self._tables.photo
        digests = {entry.digest for entry in entries}
        by_digest: dict[bytes, PhotoFacts] = {}
        for entry in entries:
            if entry.facts is not None:
                told = by_digest.get(entry.digest)
                by_digest[entry.digest] = _completed(entry.facts, told) if told else entry.facts
        before = _photo_ids(connection, photo, digests)
        for digest, told in self._facts_of_copies(connection, entries, before).items():
            if digest in by_digest:
                by_digest[digest] = _completed(by_digest[digest], told)
        fresh = [
            {"digest": digest, **_columns(facts)}
            for digest, facts in by_digest.items()
            if digest not in before
        ]
        if fresh:
            connection.execute(photo.insert(), fresh)
        known = [
            {"photo_key": before[digest], **_columns(facts)}
            for digest, facts in by_digest.items()
            if digest in before
        ]
        if known:
            connection.execute(
                photo.update()
                .where(photo.c.id == bindparam("photo_key"))
                .values({name: bindparam(name) for name in known[0] if name != "photo_key"}),
                known,
            )
        if not fresh:
            return before, set()
        after = _photo_ids(connection, photo, digests)
        return after, {after[digest] for digest in after.keys() - before.keys()}

    def _facts_of_copies(
        self, connection: Connection, entries: Sequence[Entry], known: Mapping[bytes, int]
    ) -> dict[bytes, PhotoFacts]:
        """What is known of photos that lie in other files than these, too."""
        read = {(e.root_id, relative_bytes(e.file.relative_path)) for e in entries}
        file, photo = self._tables.file, self._tables.photo
        elsewhere: set[int] = set()
        for chunk in _chunks(list(known.values())):
            places = connection.execute(
                file.select()
                .with_only_columns(file.c.photo_id, file.c.root_id, file.c.relative_path)
                .where(file.c.photo_id.in_(chunk))
            )
            elsewhere.update(row[0] for row in places if tuple(row[1:]) not in read)
        facts = {}
        for chunk in _chunks(list(elsewhere)):
            columns = [photo.c.digest, *(photo.c[name] for name in _FACTS)]
            for digest, *told in connection.execute(
                photo.select().with_only_columns(*columns).where(photo.c.id.in_(chunk))
            ):
                facts[digest] = PhotoFacts(*told)
        return facts

    def _put_vectors(
        self, connection: Connection, model: Model, vectors: Mapping[int, bytes]
    ) -> int:
        """Give rows to the photos (by id) that have no vector under the model yet."""
        embedding, models = self._tables.embedding, self._tables.model
        have: set[int] = set()
        for chunk in _chunks(list(vectors)):
            have.update(
                connection.execute(
                    embedding.select()
                    .with_only_columns(embedding.c.photo_id)
                    .where(embedding.c.photo_id.in_(chunk), embedding.c.model_id == model.id)
                ).scalars()
            )
        base = (model.id << ROW_BITS) + model.rows
        fresh = [
            {"key": base + count, "model_id": model.id, "photo_id": photo_id, "vector": vector}
            for count, (photo_id, vector) in enumerate(
                (photo_id, vector) for photo_id, vector in vectors.items() if photo_id not in have
            )
        ]
        if fresh:
            connection.execute(embedding.insert(), fresh)
            connection.execute(
                models.update().where(models.c.id == model.id).values(rows=model.rows + len(fresh))
            )
        return len(fresh)

    def _put_files(
        self,
        connection: Connection,
        scan_id: int,
        entries: Sequence[Entry],
        problems: Sequence[Problem],
        photos: Mapping[bytes, int],
        new: set[int],
        events: list[Callable[[Changes], None]],
        changes: Changes,
    ) -> None:
        """The places: file and problem rows, and what became of them."""
        from sqlalchemy.dialects.sqlite import insert

        file, problem, orphan = self._tables.file, self._tables.problem, self._tables.orphan
        places: defaultdict[int, set[bytes]] = defaultdict(set)
        for root_id, found in (
            *((entry.root_id, entry.file) for entry in entries),
            *((item.root_id, item.file) for item in problems),
        ):
            places[root_id].add(relative_bytes(found.relative_path))
        held: dict[tuple[int, bytes], int] = {}
        for root_id, paths in places.items():
            for chunk in _chunks(list(paths)):
                for path, photo_id in connection.execute(
                    file.select()
                    .with_only_columns(file.c.relative_path, file.c.photo_id)
                    .where(file.c.root_id == root_id, file.c.relative_path.in_(chunk))
                ):
                    held[root_id, path] = photo_id
                connection.execute(
                    problem.delete().where(
                        problem.c.root_id == root_id, problem.c.relative_path.in_(chunk)
                    )
                )
        orphans: set[int] = set()
        for ids in _chunks(list(photos.values())):
            orphans.update(
                connection.execute(orphan.select().where(orphan.c.photo_id.in_(ids))).scalars()
            )
        lost: set[int] = set()
        rows: dict[tuple[int, bytes], dict[str, Any]] = {}
        for entry in entries:
            row = _place(entry.root_id, entry.file)
            where = (entry.root_id, row["relative_path"])
            photo_id = photos[entry.digest]
            before = held.get(where)
            if before == photo_id:
                changes.touched += 1
            else:
                events.append(
                    partial(
                        self._ledger.gain,
                        photo_id,
                        is_new=photo_id in new,
                        lost=before,
                        was_orphan=photo_id in orphans,
                    )
                )
                new.discard(photo_id)
                orphans.discard(photo_id)
                if before is not None:
                    lost.add(before)
                held[where] = photo_id
            rows[where] = {**row, "photo_id": photo_id, "seen_scan": scan_id}
        if rows:
            upsert = insert(file)
            columns = ("photo_id", "size", "mtime_ns", "inode", "device", "seen_scan")
            connection.execute(
                upsert.on_conflict_do_update(
                    index_elements=["root_id", "relative_path"],
                    set_={name: upsert.excluded[name] for name in columns},
                ),
                list(rows.values()),
            )
        seen = _photo_ids(connection, self._tables.photo, {p.digest for p in problems if p.digest})
        for item in problems:
            where = (item.root_id, relative_bytes(item.file.relative_path))
            before = held.pop(where, None)
            is_kept = item.passing and (not item.digest or seen.get(item.digest) == before)
            if before is not None and not is_kept:
                events.append(partial(self._ledger.lose, before, covered=True))
                lost.add(before)
                connection.execute(
                    file.delete().where(
                        file.c.root_id == item.root_id, file.c.relative_path == where[1]
                    )
                )
            changes.problems += item.is_photo
            changes.not_photos += not item.is_photo
        self._put_problems(connection, problems)
        for ids in _chunks(list(set(photos.values()))):
            connection.execute(orphan.delete().where(orphan.c.photo_id.in_(ids)))
        self._mark_orphans(connection, lost | set(photos.values()))

    def _put_problems(self, connection: Connection, problems: Iterable[Problem]) -> None:
        """What is said of these files, in the place of what was said before."""
        from sqlalchemy.dialects.sqlite import insert

        rows = [
            {
                **_place(item.root_id, item.file),
                "reason": item.reason,
                "is_photo": int(item.is_photo),
            }
            for item in problems
        ]
        if not rows:
            return
        upsert = insert(self._tables.problem)
        columns = ("size", "mtime_ns", "inode", "device", "reason", "is_photo")
        connection.execute(
            upsert.on_conflict_do_update(
                index_elements=["root_id", "relative_path"],
                set_={name: upsert.excluded[name] for name in columns},
            ),
            rows,
        )

    def remove_files(self, gone: Sequence[int], scan_id: int) -> Changes:
        """Forget files that are no longer there; call it once a scan has seen all its roots.

        A photo that lies nowhere any more is hidden at once and goes with `finish_scan`.
        """
        file, problem = self._tables.file, self._tables.problem
        changes = Changes()
        lost_photos: list[int] = []
        with self._transaction() as connection:
            for chunk in _chunks([one for one in gone if one > 0]):
                lost = list(
                    connection.execute(
                        file.select()
                        .with_only_columns(file.c.photo_id)
                        # A file that came back while the scan ran is no longer gone.
                        .where(file.c.id.in_(chunk), file.c.seen_scan < scan_id)
                    ).scalars()
                )
                connection.execute(
                    file.delete().where(file.c.id.in_(chunk), file.c.seen_scan < scan_id)
                )
                lost_photos += lost
                self._mark_orphans(connection, set(lost))
            for chunk in _chunks([-one for one in gone if one < 0]):
                connection.execute(problem.delete().where(problem.c.id.in_(chunk)))
        for photo_id in lost_photos:
            self._ledger.lose(photo_id, changes, covered=False)
        return changes

    def _mark_orphans(self, connection: Connection, photos: set[int]) -> None:
        """Of these photos, hide those that lie nowhere."""
        for chunk in _chunks(sorted(photos)):
            marks = ",".join("?" * len(chunk))
            connection.exec_driver_sql(
                f"INSERT OR IGNORE INTO orphan (photo_id) SELECT id FROM photo"
                f" WHERE id IN ({marks})"
                " AND NOT EXISTS (SELECT 1 FROM file WHERE file.photo_id = photo.id)",
                tuple(chunk),
            )

    def _bury_orphans(self, connection: Connection) -> None:
        """Delete the photos that lie nowhere, and their vectors; a trigger keeps the tombstones."""
        connection.exec_driver_sql(
            "DELETE FROM embedding WHERE photo_id IN (SELECT photo_id FROM orphan)"
        )
        connection.exec_driver_sql("DELETE FROM photo WHERE id IN (SELECT photo_id FROM orphan)")

    # --------------------------------------------------------------------------------- counts

    def count_photos(self) -> int:
        """Pictures by content, without those that lie nowhere."""
        return int(
            self._fetch("SELECT (SELECT count(*) FROM photo) - (SELECT count(*) FROM orphan)")[0][0]
        )

    def count_files(self, root_id: int) -> int:
        """Files known below a root."""
        return int(self._fetch("SELECT count(*) FROM file WHERE root_id = ?", (root_id,))[0][0])

    def count_missing(self, model_id: int) -> int:
        """Photos without a vector under a model."""
        return int(
            self._fetch(
                "SELECT count(*) FROM photo LEFT JOIN embedding"
                " ON embedding.photo_id = photo.id AND embedding.model_id = ?"
                " WHERE embedding.key IS NULL AND photo.id NOT IN (SELECT photo_id FROM orphan)",
                (model_id,),
            )[0][0]
        )

    # --------------------------------------------------------------------------------- models

    def models(self) -> list[Model]:
        """The models that the library has vectors of, oldest first."""
        return read_models(self._fetch)

    def add_model(self, name: str, fingerprints: Fingerprints, dim: int) -> Model:
        """Make room for the vectors of a model; the first one of a library is active at once.

        A model with a known image fingerprint is that model, under its newest name and with its
        newest text tower: its vectors stay.

        Raises:
            ModelError: a known image fingerprint with another dimension.
        """
        models = self._tables.model
        for model in self.models():
            if model.image_fingerprint != fingerprints.image:
                continue
            if model.dim != dim:
                raise ModelError(
                    f"the model {name} gives {dim} numbers a photo, and gave {model.dim} before",
                    hint="pull or import the model again",
                )
            with self._transaction() as connection:
                connection.execute(
                    models.update()
                    .where(models.c.id == model.id)
                    .values(name=name, text_fingerprint=fingerprints.text)
                )
            break
        else:
            is_first = not self.models()
            with self._transaction() as connection:
                connection.execute(
                    models.insert().values(
                        name=name,
                        image_fingerprint=fingerprints.image,
                        text_fingerprint=fingerprints.text,
                        dim=dim,
                        rows=0,
                        active=int(is_first),
                        activated=time.time() if is_first else None,
                    )
                )
        return next(
            model for model in self.models() if model.image_fingerprint == fingerprints.image
        )

    def activate(self, model_id: int) -> None:
        """Let a model answer queries, and no other, from one moment to the next."""
        models = self._tables.model
        with self._transaction() as connection:
            self._model(connection, model_id)
            connection.execute(models.update().values(active=0))
            connection.execute(
                models.update()
                .where(models.c.id == model_id)
                .values(active=1, activated=time.time())
            )

    def drop_model(self, model_id: int) -> None:
        """Forget a model and its vectors, in the catalogue and in `ann/`."""
        models = self._tables.model
        with self._transaction() as connection:
            model = self._model(connection, model_id)
            self._forget_rows(connection, model_id)
            connection.execute(models.delete().where(models.c.id == model_id))
        shutil.rmtree(self.folder / "ann" / model.image_fingerprint, ignore_errors=True)

    def _forget_rows(self, connection: Connection, model_id: int) -> None:
        first, end = model_id << ROW_BITS, (model_id + 1) << ROW_BITS
        for table in ("embedding", "tombstone"):
            connection.exec_driver_sql(
                f"DELETE FROM {table} WHERE key >= ? AND key < ?", (first, end)
            )

    def photos_missing(
        self, model_id: int, limit: int, after_photo_id: int = 0
    ) -> list[MissingPhoto]:
        """Photos without a vector under a model, by id; at most `limit`, after a photo id."""
        missing: dict[int, MissingPhoto] = {}
        for photo_id, digest, root_id, root, relative, *stat in self._fetch(
            "SELECT wanted.id, wanted.digest, root.id, root.path, file.relative_path, file.size,"
            " file.mtime_ns, file.inode, file.device FROM"
            " (SELECT photo.id, digest FROM photo LEFT JOIN embedding"
            "  ON embedding.photo_id = photo.id AND embedding.model_id = ?"
            "  WHERE photo.id > ? AND embedding.key IS NULL"
            "  AND photo.id NOT IN (SELECT photo_id FROM orphan)"
            "  ORDER BY photo.id LIMIT ?) AS wanted"
            " JOIN file ON file.photo_id = wanted.id JOIN root ON root.id = file.root_id"
            " ORDER BY wanted.id, root.available DESC, root.path, file.relative_path",
            (model_id, after_photo_id, limit),
        ):
            photo = missing.setdefault(photo_id, MissingPhoto(photo_id, digest, []))
            file = FoundFile(path_text(relative), *stat)
            photo.files.append((root_id, path_text(root), file))
        return list(missing.values())

    def commit_embeddings(
        self,
        model_id: int,
        vectors: Iterable[tuple[int, Float32Array]],
        problems: Sequence[Problem] = (),
    ) -> int:
        """Keep the vectors (dim,) of known photos, by photo id: one transaction.

        A photo that is gone meanwhile, or has a vector already, is left as it is. So is one whose
        file has a problem: that stands beside it until the file is seen by a scan again.

        Returns:
            How many vectors were new.
        Raises:
            ModelError, StorageError: as `commit_batch`; nothing is kept.
        """
        photo = self._tables.photo
        with self._transaction() as connection:
            model = self._model(connection, model_id)
            stored = {
                photo_id: _stored(vector, model.dim, f"photo {photo_id}")
                for photo_id, vector in vectors
            }
            there: set[int] = set()
            for chunk in _chunks(list(stored)):
                there.update(
                    connection.execute(
                        photo.select().with_only_columns(photo.c.id).where(photo.c.id.in_(chunk))
                    ).scalars()
                )
            self._put_problems(connection, problems)
            return self._put_vectors(
                connection, model, {key: stored[key] for key in stored if key in there}
            )

    def _model(self, connection: Connection, model_id: int) -> Model:
        def fetch(statement: str) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

        for model in read_models(fetch):
            if model.id == model_id:
                return model
        raise KeyError(f"no model {model_id}")

    # ------------------------------------------------------------------------------ upkeep

    def compact(self) -> list[Model]:
        """Drop the vectors of models that were replaced, and give unused space back to the disk.

        A model that was never active is an unfinished switch: it stays.

        Returns:
            The models whose vectors were dropped.
        """
        replaced = {
            model_id
            for (model_id,) in self._fetch(
                "SELECT id FROM model WHERE NOT active AND activated IS NOT NULL"
            )
        }
        dropped = [model for model in self.models() if model.id in replaced]
        for model in dropped:
            self.drop_model(model.id)
        with self._transaction() as connection:
            self._bury_orphans(connection)
        kept = {model.image_fingerprint for model in self.models()}
        ann = self.folder / "ann"
        if ann.is_dir():
            for entry in ann.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)
        with self._lock, translated(self.folder):
            self._driver().execute("VACUUM")
        self._checkpoint()
        return dropped

    def _checkpoint(self) -> None:
        """Fold the log into the catalogue, as far as readers let it."""
        with self._lock, translated(self.folder):
            self._driver().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _driver(self) -> sqlite3.Connection:
        driver = self._connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def _completed(facts: PhotoFacts, others: PhotoFacts) -> PhotoFacts:
    """`facts`, with what they do not tell from others of the same picture."""
    gaps = (group for group in _TOLD_TOGETHER if getattr(facts, group[0]) is None)
    return replace(facts, **{name: getattr(others, name) for group in gaps for name in group})


def _photo_ids(connection: Connection, photo: Table, digests: Iterable[bytes]) -> dict[bytes, int]:
    return {
        digest: photo_id
        for chunk in _chunks(list(digests))
        for digest, photo_id in connection.execute(
            photo.select()
            .with_only_columns(photo.c.digest, photo.c.id)
            .where(photo.c.digest.in_(chunk))
        )
    }


def _place(root_id: int, file: FoundFile) -> dict[str, Any]:
    """The columns that `file` and `problem` share."""
    path = relative_bytes(file.relative_path)
    return {
        "root_id": root_id,
        "folder": path.rpartition(b"/")[0],
        "relative_path": path,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "inode": _signed(file.inode),
        "device": _signed(file.device),
    }


def _signed(number: int) -> int:
    """An unsigned 64-bit number (NTFS, ZFS and network inodes use them all) as SQLite keeps it."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _stored(vector: Float32Array, dim: int, whose: str) -> bytes:
    """The bytes of a unit vector in the catalogue: little-endian float16[dim]."""
    if vector.shape != (dim,):
        raise ModelError(f"the model gave {vector.shape} numbers for {whose}, not ({dim},)")
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) <= _UNIT_TOLERANCE:  # NaN too
        raise ModelError(
            f"the model gave an unusable vector (length {length:.3g}) for {whose}",
            hint="try --precision fp32",
        )
    return vector.astype("<f2").tobytes()
