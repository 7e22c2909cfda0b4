"""Reads a library: one snapshot, through sqlite3 alone.

A `Reader` sees the catalogue as it was when it was opened, whatever a writer commits meanwhile;
it never waits and never keeps a writer from writing. (A snapshot that is held for long keeps
SQLite's write-ahead log from being folded into the catalogue, so the log grows: open a new reader
for each query or two.)

Read-only folders. SQLite reads a write-ahead log with the help of two files beside the catalogue,
`-wal` and `-shm`, and makes them if need be, even to read. Where that is refused (a read-only disk,
another user's folder) and there is no log to be read, which is how a writer leaves a library, the
catalogue is opened as immutable: then a writer with more rights must not change it meanwhile. With
a log that holds batches and a folder that refuses the `-shm` file, there is no safe way to read;
the message says so.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from clipsearch.errors import NoLibrary, StorageError
from clipsearch.paths import is_inside
from clipsearch.records import Fingerprints, Float32Array, PhotoFacts, RowArray
from clipsearch.store.failures import PUT_BACK, damaged, translated
from clipsearch.store.migrations import ROW_BITS, ROW_MASK, VERSION, check_version

CATALOG_NAME = "catalog.sqlite"
BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that was given to `index`.

    Attributes:
        path: absolute; bytes that are not valid UTF-8 are surrogate escapes.
        options: how it is scanned, as `index` was told.
        last_scanned: seconds since 1970, or None.
        available: False when it was not there at the last scan.
    """

    id: int
    path: str
    options: Mapping[str, Any]
    last_scanned: float | None
    available: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the library has vectors of.

    Attributes:
        dim: D, the length of its vectors.
        rows: rows given out so far, deleted ones included; the next row.
        active: it answers queries.
    """

    id: int
    name: str
    fingerprints: Fingerprints
    dim: int
    rows: int
    active: bool

    @property
    def image_fingerprint(self) -> str:
        return self.fingerprints.image

    @property
    def text_fingerprint(self) -> str:
        return self.fingerprints.text


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is; `photos` are pictures by content, `files` the places they lie in."""

    photos: int
    files: int
    problems: int
    not_photos: int


@dataclass(frozen=True, slots=True)
class Place:
    """A photo and where it lies.

    Attributes:
        paths: absolute, at least one, those on available roots first.
        sizes: bytes of each path's file; copies of one picture may differ in their tags.
        facts: of the picture.
        available: whether the first path's root was there at the last scan.
    """

    photo_id: int
    paths: list[str]
    sizes: list[int]
    facts: PhotoFacts
    available: bool


class KnownProblem(NamedTuple):
    """A file that could not be read; `is_photo` is False where it is no picture at all."""

    path: str
    size: int
    mtime_ns: int
    reason: str
    is_photo: bool


Bindings = list[dict[str, object]]


class FilterKind(NamedTuple):
    """A row of the table of filters.

    Attributes:
        name: as callers say it.
        where: a condition on `photo`, with bound parameters.
        phrase: what a person reads where nothing passes.
        bind: from the roots and the filter's value to the parameters; the condition holds where it
            holds for any of them.
    """

    name: str
    where: str
    phrase: str
    bind: Callable[[Sequence[Root], str], Bindings]


# Files of a whole root, of a folder, below that folder: each is one look at an index. An OR of the
# same conditions would read through all that is known of the root.
_FILES_IN_FOLDER = (
    "SELECT photo_id FROM file WHERE root_id = :whole"
    " UNION ALL SELECT photo_id FROM file WHERE root_id = :root AND folder = :folder"
    " UNION ALL SELECT photo_id FROM file WHERE root_id = :root"
    " AND folder >= :first AND folder < :last"
)
_NO_FILES: dict[str, object] = dict.fromkeys(("whole", "root", "folder", "first", "last"))


def _bind_folder(roots: Sequence[Root], value: str) -> Bindings:
    """A folder is (part of) the roots it contains, and a part of the root that contains it."""
    folder = os.path.abspath(value)
    bindings: Bindings = []
    for root in roots:
        if is_inside(root.path, folder):
            bindings.append(_NO_FILES | {"whole": root.id})
        elif is_inside(folder, root.path):
            inner = relative_bytes(os.path.relpath(folder, root.path))
            # In bytes, what starts with 'a/' lies from 'a/' up to 'a0': '0' comes after '/'.
            below = {"first": inner + b"/", "last": inner + b"0"}
            bindings.append(_NO_FILES | {"root": root.id, "folder": inner} | below)
    return bindings


def _holds_all(folder: str, roots: Sequence[Root]) -> bool:
    """Whether a folder is or holds every root: to list what lies in it would take seconds."""
    return all(is_inside(root.path, os.path.abspath(folder)) for root in roots)


def _bind_value(roots: Sequence[Root], value: str) -> Bindings:
    return [{"value": value}]


FILTERS: Mapping[str, FilterKind] = {
    kind.name: kind
    for kind in (
        FilterKind(
            "folder",
            f"photo.id IN ({_FILES_IN_FOLDER})",
            "in {value}",
            _bind_folder,
        ),
        FilterKind("after", "photo.taken_at >= :value", "taken on or after {value}", _bind_value),
        FilterKind("before", "photo.taken_at < :value", "taken before {value}", _bind_value),
        FilterKind(
            "camera",
            "instr(lower(photo.camera), lower(:value)) > 0",
            "taken with a camera called {value}",
            _bind_value,
        ),
    )
}


class Filter(NamedTuple):
    """One condition on photos.

    `name` is a key of FILTERS. Values: 'folder' an absolute folder (whole path components,
    everything below it included); 'after' and 'before' a moment of local time, 'YYYY-MM-DD' with
    or without 'THH:MM:SS', the first included and the second not; 'camera' a part of its name,
    upper or lower case. A photo without a date passes neither 'after' nor 'before'.
    """

    name: str
    value: str

    @property
    def phrase(self) -> str:
        return FILTERS[self.name].phrase.format(value=self.value)


def relative_bytes(path: str) -> bytes:
    """A path relative to its root as the catalogue keeps it: bytes, '/' between parts."""
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    return path.encode("utf-8", "surrogateescape")


def path_text(path: bytes) -> str:
    """The inverse of `relative_bytes`, still with '/'."""
    return path.decode("utf-8", "surrogateescape")


def absolute_path(root: bytes, relative: bytes) -> str:
    """Where a file lies, as `os` functions expect it."""
    return os.path.join(path_text(root), path_text(relative).replace("/", os.sep))


def decode_vectors(blobs: bytes, dim: int) -> Float32Array:
    """The bytes of n stored vectors, one after the other, as (n, dim) float32."""
    halves = np.frombuffer(blobs, dtype="<u2")
    # float16 to float32 by moving the bits to their new places and correcting the exponent: whole
    # vector registers at a time, where astype(float32) goes number by number (3x slower here).
    # Exact for every finite half, subnormal ones included.
    bits = halves.view("<i2").astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)
    floats = bits.view(np.float32)
    floats *= np.float32(2.0**112)
    return floats.reshape(-1, dim)


class Reader:
    """One snapshot of a library, used by one thread at a time.

    Attributes:
        connection: inside the snapshot's read transaction; for `check`.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.connection = connection
        self._dims: dict[int, int] = {}

    @classmethod
    def open(cls, folder: Path) -> Reader:
        """A snapshot of the library in `folder` as it is now.

        Raises:
            NoLibrary: there is no catalogue.
            LibraryTooNew: made by a newer clipsearch.
            LibraryDamaged: the catalogue is no sound SQLite file, or not ours.
            StorageError: it cannot be opened.
        """
        path = folder / CATALOG_NAME
        if not path.exists():
            raise NoLibrary(
                f"there is no library yet (looked in {folder})",
                hint="make one with `clipsearch index ~/Pictures`",
            )
        with translated(folder):
            connection = _connect(path)
            try:
                version = check_version(connection, folder)
                if version == 0:
                    raise NoLibrary(
                        f"the library in {folder} was begun but holds nothing yet",
                        hint="fill it with `clipsearch index ~/Pictures`; if it held photos, "
                        f"{PUT_BACK}",
                    )
                if version < VERSION:
                    raise StorageError(
                        f"the library in {folder} was made by an older clipsearch "
                        f"(version {version} of its catalogue) and must be brought up to date",
                        hint="run `clipsearch index`: it does so first",
                    )
            except BaseException:
                connection.close()
                raise
        return cls(folder, connection)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the snapshot."""
        self.connection.close()

    def get_setting(self, key: str) -> str | None:
        """A setting of the library, as `Catalog.put_setting` kept it."""
        row = self._one("SELECT value FROM library WHERE key = ?", (key,))
        return None if row is None else str(row[0])

    # --------------------------------------------------------------------------- what there is

    def models(self) -> list[Model]:
        """The models that the library has vectors of, oldest first."""
        return read_models(self._all)

    def active_model(self) -> Model | None:
        """The model that answers queries."""
        return next((model for model in self.models() if model.active), None)

    def roots(self) -> list[Root]:
        """The folders that were given to `index`."""
        return read_roots(self._all)

    def counts(self) -> Counts:
        """How much there is."""
        photos, orphans, files, problems, others = self._all(
            "SELECT (SELECT count(*) FROM photo), (SELECT count(*) FROM orphan),"
            " (SELECT count(*) FROM file), (SELECT count(*) FROM problem WHERE is_photo),"
            " (SELECT count(*) FROM problem WHERE NOT is_photo)"
        )[0]
        return Counts(photos - orphans, files, problems, others)

    def count_files(self, root_id: int) -> int:
        """Files known below a root."""
        return int(self._all("SELECT count(*) FROM file WHERE root_id = ?", (root_id,))[0][0])

    def problems(self, *, all: bool = False) -> Iterator[KnownProblem]:
        """Files that could not be read, by path; with `all`, also those that are no pictures."""
        for root, relative, size, mtime_ns, reason, is_photo in self._each(
            "SELECT root.path, relative_path, size, mtime_ns, reason, is_photo"
            " FROM problem JOIN root ON root.id = root_id WHERE is_photo OR ?"
            " ORDER BY root.path, relative_path",
            (all,),
        ):
            path = absolute_path(root, relative)
            yield KnownProblem(path, size, mtime_ns, reason, bool(is_photo))

    # ------------------------------------------------------------------------------------ rows

    def count_rows(self, model_id: int) -> int:
        """Photos that can be found under a model."""
        (count,) = self._all(
            "SELECT rows - (SELECT count(*) FROM tombstone WHERE key >= ? AND key < ?)"
            " - (SELECT count(*) FROM orphan CROSS JOIN embedding"
            "    ON embedding.photo_id = orphan.photo_id AND embedding.model_id = model.id)"
            " FROM model WHERE id = ?",
            (*_key_range(model_id), model_id),
        )[0]
        return int(count)

    def tombstones(self, model_id: int) -> RowArray:
        """Rows whose photo is gone, ascending. No row is ever used again."""
        keys = self._all(
            # CROSS JOIN: SQLite keeps this order; it would rather read through all embeddings.
            "SELECT key FROM tombstone WHERE key >= ? AND key < ?"
            " UNION SELECT key FROM orphan CROSS JOIN embedding"
            " ON embedding.photo_id = orphan.photo_id AND embedding.model_id = ?"
            " ORDER BY key",
            (*_key_range(model_id), model_id),
        )
        return _rows_of(keys)

    def rows_matching(self, model_id: int, filters: Sequence[Filter]) -> RowArray | None:
        """Rows of the photos that pass every filter, ascending; None where none keeps any away.

        Several filters of one name are alternatives: a photo in any of three folders.
        """
        if not filters:
            return None
        roots = self.roots()
        if any(one.name == "folder" and _holds_all(one.value, roots) for one in filters):
            filters = [one for one in filters if one.name != "folder"]
            if not filters:
                return None
        parameters: dict[str, object] = {"model": model_id}
        conditions = []
        for name in dict.fromkeys(one.name for one in filters):
            kind = FILTERS[name]
            alternatives = []
            for one in filters:
                if one.name == name:
                    for binding in kind.bind(roots, one.value):
                        where = kind.where
                        for parameter, value in binding.items():
                            unique = f"p{len(parameters)}"
                            where = where.replace(f":{parameter}", f":{unique}")
                            parameters[unique] = value
                        alternatives.append(where)
            conditions.append("(" + (" OR ".join(alternatives) or "FALSE") + ")")
        # Only indexes are read here, never the vectors: embedding_photo holds the key.
        keys = self._all(
            "SELECT embedding.key FROM photo"
            " JOIN embedding ON embedding.photo_id = photo.id AND embedding.model_id = :model"
            f" WHERE {' AND '.join(conditions)}"
            " AND photo.id NOT IN (SELECT photo_id FROM orphan)",
            parameters,
        )
        return np.sort(_rows_of(keys))

    def has_photos_in(self, model_id: int, folder: str) -> bool:
        """Whether any row passes a folder's filter, without working out which: a look at an index.

        Args:
            folder: absolute.
        """
        for binding in _bind_folder(self.roots(), folder):
            if self._one(
                # CROSS JOIN: SQLite keeps this order, and stops at the first file.
                f"SELECT 1 FROM ({_FILES_IN_FOLDER}) AS inside CROSS JOIN embedding"
                " ON embedding.photo_id = inside.photo_id AND embedding.model_id = :model"
                " WHERE inside.photo_id NOT IN (SELECT photo_id FROM orphan) LIMIT 1",
                {**binding, "model": model_id},
            ):
                return True
        return False

    def rows_of_digest(self, model_id: int, digest: bytes) -> RowArray:
        """The row of the photo with this content: none or one."""
        return _rows_of(
            self._all(
                "SELECT key FROM embedding JOIN photo ON photo.id = photo_id"
                " WHERE digest = ? AND model_id = ?",
                (digest, model_id),
            )
        )

    def places(self, model_id: int, rows: RowArray | Sequence[int]) -> dict[int, Place]:
        """The photos of some rows, by row. Rows without a photo are left out."""
        places: dict[int, Place] = {}
        for key, photo_id, *facts, root, relative, size, available in self._each(
            "SELECT embedding.key, photo.id, width, height, format, taken_at,"
            " taken_offset_minutes, latitude, longitude, camera, lens,"
            " root.path, file.relative_path, file.size, root.available"
            " FROM json_each(?) AS wanted"
            " JOIN embedding ON embedding.key = wanted.value"
            " JOIN photo ON photo.id = embedding.photo_id"
            " JOIN file ON file.photo_id = photo.id"
            " JOIN root ON root.id = file.root_id"
            " ORDER BY embedding.key, root.available DESC, root.path, file.relative_path",
            (_keys_json(model_id, rows),),
        ):
            path = absolute_path(root, relative)
            row = key & ROW_MASK
            if row in places:
                places[row].paths.append(path)
                places[row].sizes.append(size)
            else:
                places[row] = Place(photo_id, [path], [size], PhotoFacts(*facts), bool(available))
        return places

    # --------------------------------------------------------------------------------- vectors

    def vectors(self, model_id: int, rows: RowArray | Sequence[int]) -> Float32Array:
        """(n, dim) float32, one stored vector a row, in the order of `rows`.

        Raises:
            KeyError: a row without a vector.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        dim = self._dim(model_id)
        ascending, inverse = np.unique(wanted, return_inverse=True)
        blobs = [
            vector
            for (vector,) in self._all(
                # CROSS JOIN: SQLite keeps this order, one look-up for each row asked for.
                "SELECT vector FROM json_each(?) AS wanted"
                " CROSS JOIN embedding ON embedding.key = wanted.value",
                (_keys_json(model_id, ascending),),
            )
        ]
        if len(blobs) != len(ascending):
            raise KeyError(f"{len(ascending) - len(blobs)} rows have no vector")
        found = self._decode(blobs, dim)
        return found if len(wanted) == len(found) and _ascends(inverse) else found[inverse]

    def vector_blocks(
        self, model_id: int, first_row: int, end_row: int | None = None, block: int = BLOCK_ROWS
    ) -> Iterator[tuple[RowArray, Float32Array]]:
        """The stored vectors of rows [first_row, end_row), ascending, a block at a time.

        Memory does not grow with the library.

        Yields:
            rows (n,) int64 and vectors (n, dim) float32, 1 <= n <= block.
        """
        dim = self._dim(model_id)
        start, end = _key_range(model_id)
        key = start + first_row
        if end_row is not None:
            end = min(end, start + end_row)
        while key < end:
            # The vectors alone are fetched quicker than pairs; rows are dense but for deletions.
            blobs = [
                vector
                for (vector,) in self._each(
                    "SELECT vector FROM embedding WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
                    (key, end, block),
                )
            ]
            if not blobs:
                return
            (last,) = self._all(
                "SELECT key FROM embedding WHERE key >= ? AND key < ? ORDER BY key LIMIT 1"
                " OFFSET ?",
                (key, end, len(blobs) - 1),
            )[0]
            if last - key == len(blobs) - 1:
                rows = np.arange(key - start, last + 1 - start, dtype=np.int64)
            else:
                rows = _rows_of(
                    self._all(
                        "SELECT key FROM embedding WHERE key >= ? AND key <= ? ORDER BY key",
                        (key, last),
                    )
                )
            yield rows, self._decode(blobs, dim)
            key = last + 1

    def stored_rows(self, model_id: int) -> RowArray:
        """Rows that have a vector, ascending."""
        (rows,) = self._all("SELECT rows FROM model WHERE id = ?", (model_id,))[0]
        # Rows are dense but for tombstones: the table, with its vectors, need not be read.
        there = np.ones(rows, dtype=bool)
        there[
            _rows_of(
                self._all(
                    "SELECT key FROM tombstone WHERE key >= ? AND key < ?", _key_range(model_id)
                )
            )
        ] = False
        return np.flatnonzero(there).astype(np.int64, copy=False)

    def _decode(self, blobs: list[bytes], dim: int) -> Float32Array:
        joined = b"".join(blobs)
        if len(joined) != 2 * dim * len(blobs):
            raise damaged(self.folder, "a vector has the wrong length")
        return decode_vectors(joined, dim)

    def _dim(self, model_id: int) -> int:
        if model_id not in self._dims:
            row = self._one("SELECT dim FROM model WHERE id = ?", (model_id,))
            if row is None:
                raise KeyError(f"no model {model_id}")
            self._dims[model_id] = int(row[0])
        return self._dims[model_id]

    def _each(self, statement: str, parameters: Any = ()) -> Iterator[tuple[Any, ...]]:
        with translated(self.folder):
            yield from self.connection.execute(statement, parameters)

    def _all(self, statement: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        with translated(self.folder):
            return self.connection.execute(statement, parameters).fetchall()

    def _one(self, statement: str, parameters: Any = ()) -> tuple[Any, ...] | None:
        found = self._all(statement, parameters)
        return found[0] if found else None


Fetch = Callable[[str], list[tuple[Any, ...]]]


def read_models(fetch: Fetch) -> list[Model]:
    """The models of a catalogue; `fetch` runs a statement."""
    return [
        Model(model_id, name, Fingerprints(image, text), dim, rows, bool(active))
        for model_id, name, image, text, dim, rows, active in fetch(
            "SELECT id, name, image_fingerprint, text_fingerprint, dim, rows, active"
            " FROM model ORDER BY id"
        )
    ]


def read_roots(fetch: Fetch) -> list[Root]:
    """The roots of a catalogue; `fetch` runs a statement."""
    return [
        Root(root_id, path_text(path), json.loads(options), last_scanned, bool(available))
        for root_id, path, options, last_scanned, available in fetch(
            "SELECT id, path, options, last_scanned, available FROM root ORDER BY id"
        )
    ]


def _connect(path: Path) -> sqlite3.Connection:
    """A read-only connection inside a read transaction."""
    where = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    try:
        return _begin(where)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise StorageError(
                f"the last batches of the library are in {log.name}, which cannot be read in a"
                " folder that may not be written",
                hint="open the library once as a user who may write to it, or copy its folder",
            ) from error
        return _begin(where + "&immutable=1")


def _begin(where: str) -> sqlite3.Connection:
    connection = sqlite3.connect(where, uri=True, isolation_level=None, timeout=5.0)
    try:
        connection.execute("BEGIN")
        # The snapshot is taken by the first read.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _key_range(model_id: int) -> tuple[int, int]:
    return model_id << ROW_BITS, (model_id + 1) << ROW_BITS


def _rows_of(keys: list[tuple[Any, ...]]) -> RowArray:
    rows = np.fromiter((key for (key,) in keys), dtype=np.int64, count=len(keys))
    rows &= ROW_MASK
    return rows


def _keys_json(model_id: int, rows: RowArray | Sequence[int]) -> str:
    base = model_id << ROW_BITS
    return "[" + ",".join([str(base + int(row)) for row in rows]) + "]"


def _ascends(inverse: RowArray) -> bool:
    return bool(np.all(inverse[1:] > inverse[:-1]))


__all__ = [
    "FILTERS",
    "Counts",
    "Filter",
    "FilterKind",
    "KnownProblem",
    "Model",
    "Place",
    "Reader",
    "Root",
]
