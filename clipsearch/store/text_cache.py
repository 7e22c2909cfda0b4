"""Text vectors of recent queries, so that asking again does not run the text tower.

A cache in every sense: it may be deleted at any time, and nothing that goes wrong with it (a full
disk, a read-only folder, damage, another process writing) is ever an error.

A library knows the text fingerprint that its model had when photos were indexed last. Whether the
model was retrained since is seen by its files, which are noted here: reading the weights again, or
only importing what could, would take longer than all the rest of a query.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from clipsearch.records import Float32Array, file_stamp

# 4,096 vectors of 512 dimensions are 8 MB.
KEPT_VECTORS = 4096

# What reading a file raises that holds anything.
_DAMAGE = (sqlite3.Error, OSError, ValueError, TypeError, AttributeError)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS text (
    fingerprint TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, text)
);
CREATE INDEX IF NOT EXISTS text_used ON text (used);
CREATE TABLE IF NOT EXISTS model (
    name TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    files TEXT NOT NULL,
    PRIMARY KEY (name, fingerprint)
);
"""


class TextCache:
    """The text vectors cached in a library's folder.

    Args:
        folder: the library.
        kept: the least recently used vectors beyond so many go.
    """

    def __init__(self, folder: Path, *, kept: int = KEPT_VECTORS) -> None:
        self._path = folder / "cache" / "texts.sqlite"
        self._kept = kept

    def get(self, name: str, fingerprint: str, text: str) -> Float32Array | None:
        """The (dim,) vector of `text`, if it is there and the model still has that fingerprint.

        Args:
            name, fingerprint: of the model; the fingerprint is its text tower's.
        """
        try:
            with self._open() as connection:
                row = connection.execute(
                    "SELECT vector, used, (SELECT max(used) FROM text), files"
                    " FROM text JOIN model USING (fingerprint)"
                    " WHERE name = ? AND fingerprint = ? AND text = ?",
                    (name, fingerprint, text),
                ).fetchone()
                if row is None:
                    return None
                vector, used, newest, files = row
                for path, stamp in json.loads(files).items():
                    if file_stamp(Path(path)) != stamp:
                        return None
                if used < newest:
                    with suppress(sqlite3.Error):  # read-only, full or busy: found all the same
                        connection.execute(
                            "UPDATE text SET used = ? WHERE fingerprint = ? AND text = ?",
                            (newest + 1, fingerprint, text),
                        )
                return _unit_vector(vector)
        except _DAMAGE:
            return None

    def put(
        self,
        name: str,
        fingerprint: str,
        text: str,
        vector: Float32Array,
        files: Mapping[str, list[int]],
    ) -> None:
        """Keep the (dim,) vector of `text`.

        Args:
            files: the stamps of the files, by path, that the model of this name has that
                fingerprint by.
        """
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._open(create=True) as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO text (fingerprint, text, vector, used)"
                    " VALUES (?, ?, ?, (SELECT coalesce(max(used), 0) + 1 FROM text))",
                    (fingerprint, text, vector.astype("<f4").tobytes()),
                )
                connection.execute(
                    "INSERT OR REPLACE INTO model (name, fingerprint, files) VALUES (?, ?, ?)",
                    (name, fingerprint, json.dumps(files)),
                )
                connection.execute(
                    "DELETE FROM text WHERE used <= (SELECT used FROM text"
                    " ORDER BY used DESC LIMIT 1 OFFSET ?)",
                    (self._kept,),
                )
        except (sqlite3.OperationalError, OSError, ValueError):
            pass
        except sqlite3.DatabaseError:  # no database, or a damaged one: start a new one next time
            with suppress(OSError):
                self._path.unlink()

    def vectors(self, fingerprint: str, limit: int) -> Float32Array:
        """(n, dim) of the most recently asked texts, n <= limit; n = 0 where there are none."""
        try:
            with self._open() as connection:
                rows = connection.execute(
                    "SELECT vector FROM text WHERE fingerprint = ? ORDER BY used DESC LIMIT ?",
                    (fingerprint, limit),
                ).fetchall()
            return np.stack([_unit_vector(vector) for (vector,) in rows])
        except _DAMAGE:
            return np.empty((0, 0), dtype=np.float32)

    @contextmanager
    def _open(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        if not create and not self._path.exists():
            raise FileNotFoundError(self._path)
        # 50 ms: a query does not wait for another query's bookkeeping.
        with closing(sqlite3.connect(self._path, timeout=0.05)) as connection:
            # Losing the last entries in a power cut costs nothing here.
            connection.execute("PRAGMA synchronous = OFF")
            if create:
                connection.executescript(_SCHEMA)
            with connection:
                yield connection


def _unit_vector(content: bytes) -> Float32Array:
    """The (dim,) unit vector in the cache; ValueError where a power cut left something else."""
    vector = np.frombuffer(content, dtype="<f4").astype(np.float32)
    if not abs(float(vector @ vector) - 1) < 1e-3:  # float32 rounding is 1e-6; NaN too
        raise ValueError("no unit vector")
    return vector
