"""Looks for damage, and repairs what can be computed again or be told to be wrong.

`check` only reads. `repair` says of everything it takes out what it was; photos that lose a vector
are embedded again by the next `index`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipsearch.errors import LibraryDamaged, count
from clipsearch.paths import is_bare
from clipsearch.records import Fingerprints
from clipsearch.store import ann
from clipsearch.store.failures import PUT_BACK, translated
from clipsearch.store.migrations import ROW_BITS, ROW_MASK
from clipsearch.store.reader import (
    CATALOG_NAME,
    Model,
    Reader,
    absolute_path,
    decode_vectors,
)

Kind = Literal["catalogue", "vectors", "rows", "photos", "files", "index", "recall", "missing"]

# float16 rounding moves the length of a unit vector by 1e-3 at most.
_UNIT_TOLERANCE = 3e-3
# Below the target of 0.99 by more than chance on 100 queries.
_POOR_RECALL = 0.97


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: which part: the SQLite file, stored vectors, row numbers, photos without files, file
            rows, the FAISS file, its recall, photos missing on disk.
        message: what is wrong.
        hint: what to do about it.
        repairable: whether `repair` puts it right.
        is_damage: False for what is no fault of the library (photos missing on disk).
    """

    kind: Kind
    message: str
    hint: str | None
    repairable: bool
    is_damage: bool = True


_NO_FINGERPRINTS = Fingerprints("", "")
_REPAIR = "`clipsearch check --repair` puts it right"
_EMBED_AGAIN = "`clipsearch check --repair` drops them; the next `clipsearch index` makes them anew"


def check(
    folder: Path,
    *,
    look_for_photos: bool = True,
    progress: Callable[[str], object] | None = None,
) -> list[Finding]:
    """Everything that is wrong with the library in `folder`; an empty list if nothing is.

    Args:
        look_for_photos: also whether each file still lies under the roots that are there now.
        progress: called with the name of each part before it is looked at.
    Raises:
        NoLibrary, LibraryTooNew, StorageError.
    """
    tell = progress or (lambda part: None)
    tell("catalogue")
    try:
        with Reader.open(folder) as reader:
            connection = reader.connection
            findings = list(_check_sqlite(connection))
            if any(not finding.repairable for finding in findings):
                return findings
            tell("rows")
            findings += _check_places(connection)
            for model in reader.models():
                findings += _check_rows(connection, model)
                tell(f"vectors of {model.name}")
                bad = _bad_vectors(connection, model)
                if bad:
                    findings.append(
                        Finding(
                            "vectors",
                            f"{len(bad)} vectors of {model.name} are not unit vectors of "
                            f"{model.dim} numbers (rows {_some([key & ROW_MASK for key in bad])})",
                            _EMBED_AGAIN,
                            True,
                        )
                    )
            sound = not findings
            for model in reader.models():
                tell(f"index of {model.name}")
                findings += _check_index(folder, reader, model, measure=sound)
            if look_for_photos:
                tell("photos")
                findings += _missing_photos(connection)
    except LibraryDamaged as error:
        return [Finding("catalogue", str(error), error.hint, False)]
    except sqlite3.DatabaseError as error:
        return [Finding("catalogue", f"the catalogue cannot be read ({error})", _RESTORE, False)]
    return findings


_RESTORE = f"{PUT_BACK}; or move the folder away and index again"


def _check_sqlite(connection: sqlite3.Connection) -> Iterator[Finding]:
    problems = [text for (text,) in connection.execute("PRAGMA integrity_check(20)")]
    if problems != ["ok"]:
        # A wrong index can be made anew from its table; a wrong table cannot.
        only_indexes = all(
            "missing from index" in text or "wrong # of entries in index" in text
            for text in problems
        )
        yield Finding(
            "catalogue",
            f"SQLite finds the catalogue damaged: {'; '.join(problems[:3])}",
            _REPAIR if only_indexes else _RESTORE,
            only_indexes,
        )
        return
    orphaned = connection.execute("PRAGMA foreign_key_check").fetchall()
    if orphaned:
        tables = sorted({row[0] for row in orphaned})
        yield Finding(
            "files",
            f"{len(orphaned)} rows of {', '.join(tables)} belong to nothing",
            "`clipsearch check --repair` removes them",
            True,
        )


_PHOTOS_NOWHERE = (
    "SELECT id FROM photo WHERE id NOT IN (SELECT photo_id FROM file)"
    " AND id NOT IN (SELECT photo_id FROM orphan)"
)
_HIDDEN_BY_MISTAKE = "SELECT photo_id FROM orphan WHERE photo_id IN (SELECT photo_id FROM file)"


def _check_places(connection: sqlite3.Connection) -> Iterator[Finding]:
    nowhere = len(connection.execute(_PHOTOS_NOWHERE).fetchall())
    if nowhere:
        yield Finding(
            "photos",
            f"{count(nowhere, 'photo lies', 'photos lie')} in no file",
            "`clipsearch check --repair` removes them and their vectors",
            True,
        )
    hidden = len(connection.execute(_HIDDEN_BY_MISTAKE).fetchall())
    if hidden:
        yield Finding(
            "photos", f"{hidden} photos are hidden although they have files", _REPAIR, True
        )
    (active,) = connection.execute("SELECT count(*) FROM model WHERE active").fetchone()
    (models,) = connection.execute("SELECT count(*) FROM model").fetchone()
    if models and active != 1:
        yield Finding("rows", f"{active} models are active, not one", _REPAIR, True)


def _check_rows(connection: sqlite3.Connection, model: Model) -> Iterator[Finding]:
    """Rows are [0, model.rows), each alive or a tombstone."""
    first, end = model.id << ROW_BITS, (model.id + 1) << ROW_BITS
    alive, last = connection.execute(
        "SELECT count(*), max(key) FROM embedding WHERE key >= ? AND key < ?", (first, end)
    ).fetchone()
    (dead,) = connection.execute(
        "SELECT count(*) FROM tombstone WHERE key >= ? AND key < ?", (first, end)
    ).fetchone()
    (both,) = connection.execute(
        "SELECT count(*) FROM tombstone JOIN embedding USING (key) WHERE key >= ? AND key < ?",
        (first, end),
    ).fetchone()
    if last is not None and last - first >= model.rows:
        yield Finding(
            "rows",
            f"{model.name} has row {last - first} but gave out rows up to {model.rows - 1} only",
            _REPAIR,
            True,
        )
    elif both or alive + dead != model.rows:
        yield Finding(
            "rows",
            f"{model.name}: {alive} rows with a vector and {dead} deleted ones"
            f" ({both} are both) do not make up {model.rows}",
            _REPAIR,
            True,
        )


def _bad_vectors(connection: sqlite3.Connection, model: Model) -> list[int]:
    """Keys of vectors that have the wrong length or are no unit vectors."""
    first, end = model.id << ROW_BITS, (model.id + 1) << ROW_BITS
    bad: list[int] = []
    cursor = connection.execute(
        "SELECT key, vector FROM embedding WHERE key >= ? AND key < ?", (first, end)
    )
    while rows := cursor.fetchmany(4096):
        good = [(key, blob) for key, blob in rows if _is_blob(blob, 2 * model.dim)]
        bad += [key for key, blob in rows if not _is_blob(blob, 2 * model.dim)]
        if not good:
            continue
        blobs = b"".join([blob for _, blob in good])
        finite = np.isfinite(np.frombuffer(blobs, "<f2").reshape(len(good), -1)).all(axis=1)
        lengths = np.linalg.norm(decode_vectors(blobs, model.dim), axis=1)
        wrong = ~finite | (np.abs(lengths - 1) > _UNIT_TOLERANCE)
        bad += [good[place][0] for place in np.flatnonzero(wrong).tolist()]
    return bad


def _is_blob(value: Any, length: int) -> bool:
    return isinstance(value, bytes) and len(value) == length


def _check_index(folder: Path, reader: Reader, model: Model, *, measure: bool) -> Iterator[Finding]:
    wrong = ann.verify(folder, reader, model)
    if wrong is not None:
        yield Finding("index", wrong, _REPAIR, True)
        return
    recall = ann.measure_recall(folder, reader, model) if measure else None
    for kind, value in (recall or {}).items():
        if value < _POOR_RECALL:
            yield Finding(
                "recall",
                f"the index of {model.name} finds {value:.1%} of the best ten for {kind} queries",
                _REPAIR,
                True,
            )


def _missing_photos(connection: sqlite3.Connection) -> Iterator[Finding]:
    missing: list[str] = []
    gone = 0
    roots = connection.execute("SELECT id, path FROM root ORDER BY path").fetchall()
    for root_id, root in roots:
        path = absolute_path(root, b"")
        try:
            if is_bare(path):
                continue
        except OSError:
            continue
        for (relative,) in connection.execute(
            "SELECT relative_path FROM file WHERE root_id = ?", (root_id,)
        ):
            place = absolute_path(root, relative)
            if not os.path.lexists(place):
                gone += 1
                if len(missing) < 3:
                    missing.append(place)
    if gone:
        yield Finding(
            "missing",
            f"{count(gone, 'photo is', 'photos are')} no longer where "
            f"{'it was' if gone == 1 else 'they were'}: {_some(missing, gone)}",
            "`clipsearch index` finds out what became of them",
            False,
            is_damage=False,
        )


def _some(items: list[Any], of: int | None = None) -> str:
    of = len(items) if of is None else of
    shown = ", ".join(str(item) for item in items[:3])
    return shown + (", ..." if of > 3 else "")


def repair(folder: Path) -> list[Finding]:
    """Put right what `check` finds, as far as it can be; what was done, one finding each.

    The caller holds the lock. Vectors that cannot be trusted and rows that belong to nothing are
    removed, and said to be; FAISS files are made anew from the catalogue. A catalogue whose tables
    SQLite itself cannot read is left as it is: that finding stays.

    Raises:
        NoLibrary, LibraryTooNew, LibraryDamaged, StorageError.
    """
    findings = check(folder, look_for_photos=False)
    hopeless = [finding for finding in findings if not finding.repairable]
    if hopeless or not findings:
        return hopeless
    if any(finding.kind not in {"index", "recall"} for finding in findings):
        with (
            translated(folder),
            closing(sqlite3.connect(folder / CATALOG_NAME, isolation_level=None)) as connection,
        ):
            connection.execute("PRAGMA synchronous = FULL")
            if any(finding.kind == "catalogue" for finding in findings):
                connection.execute("REINDEX")
            connection.execute("BEGIN IMMEDIATE")
            _repair_rows(connection)
            connection.execute("COMMIT")
    with Reader.open(folder) as reader:
        for model in reader.models():
            wrong = any(finding.kind in {"index", "recall"} for finding in findings)
            if wrong or ann.verify(folder, reader, model) is not None:
                ann.build(folder, reader, model)
    return findings


def _repair_rows(connection: sqlite3.Connection) -> None:
    # What belongs to nothing: a file or vector of a photo that is not there, and the like.
    for table, rowid, *_ in connection.execute("PRAGMA foreign_key_check").fetchall():
        connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
    connection.execute(f"DELETE FROM orphan WHERE photo_id IN ({_HIDDEN_BY_MISTAKE})")
    connection.execute(f"INSERT INTO orphan (photo_id) {_PHOTOS_NOWHERE}")
    connection.execute("DELETE FROM embedding WHERE photo_id IN (SELECT photo_id FROM orphan)")
    connection.execute("DELETE FROM photo WHERE id IN (SELECT photo_id FROM orphan)")
    connection.execute("DELETE FROM orphan WHERE photo_id NOT IN (SELECT id FROM photo)")
    for model_id, dim, name in connection.execute("SELECT id, dim, name FROM model").fetchall():
        first, end = model_id << ROW_BITS, (model_id + 1) << ROW_BITS
        for key in _bad_vectors(connection, Model(model_id, name, _NO_FINGERPRINTS, dim, 0, False)):
            connection.execute("DELETE FROM embedding WHERE key = ?", (key,))
        connection.execute("DELETE FROM tombstone WHERE key IN (SELECT key FROM embedding)")
        connection.execute(
            "UPDATE model SET rows = max(rows, 1 + coalesce((SELECT max(key) FROM"
            " (SELECT key FROM embedding UNION ALL SELECT key FROM tombstone)"
            " WHERE key >= ?1 AND key < ?2) - ?1, -1)) WHERE id = ?3",
            (first, end, model_id),
        )
        (rows,) = connection.execute("SELECT rows FROM model WHERE id = ?", (model_id,)).fetchone()
        there = {
            key
            for (key,) in connection.execute(
                "SELECT key FROM embedding WHERE key >= ?1 AND key < ?2"
                " UNION ALL SELECT key FROM tombstone WHERE key >= ?1 AND key < ?2",
                (first, end),
            )
        }
        connection.executemany(
            "INSERT INTO tombstone (key) VALUES (?)",
            ((key,) for key in range(first, first + rows) if key not in there),
        )
    # One active model: the one that has answered last, else the oldest.
    connection.execute(
        "UPDATE model SET active = (id = (SELECT id FROM model"
        " ORDER BY active DESC, activated DESC, id LIMIT 1))"
    )
