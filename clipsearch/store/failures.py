"""SQLite's and the system's failures, said in the library's own words."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsearch.errors import (
    ClipsearchError,
    LibraryDamaged,
    LibraryLocked,
    StorageError,
)

UNCHANGED = "the library is as it was after the last batch"

# A run that was killed leaves its log there, and SQLite reads it into whatever catalogue it finds.
PUT_BACK = "put a copy of catalog.sqlite back, and take catalog.sqlite-wal away if there is one"

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SPARE_BYTES = 1 << 28
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def damaged(folder: Path, what: str) -> LibraryDamaged:
    """The catalogue of `folder` cannot be trusted; `what` says why."""
    return LibraryDamaged(
        f"the catalogue in {folder} is damaged ({what})",
        hint=f"{PUT_BACK}; or move the folder away and index again",
    )


def from_sqlite(error: sqlite3.Error, folder: Path) -> ClipsearchError | None:
    """The library's own exception for SQLite's, or None where it is a bug of ours."""
    # The low byte is the primary result code: https://sqlite.org/rescode.html
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_FULL and (free := _roomy(folder)):
        # Damage can make SQLite believe so; quotas and the folder for temporary files are disks
        # of their own.
        return StorageError(
            f"SQLite finds no room for the catalogue in {folder} ({error}), though its disk has "
            f"{free / 1e9:,.1f} GB free: {UNCHANGED}",
            hint="`clipsearch check` tells if it is damaged; else look for a quota, or a full "
            "folder for temporary files",
        )
    if primary == sqlite3.SQLITE_FULL:
        return _full(folder)
    if primary in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StorageError(
            f"the catalogue in {folder} cannot be opened for this ({error}): {UNCHANGED}",
            hint="check who may write to the folder, and that its disk is not mounted read-only",
        )
    if primary == sqlite3.SQLITE_IOERR:
        return StorageError(
            f"the disk of {folder} failed ({error}): {UNCHANGED}",
            hint="check the disk, then run `clipsearch check`",
        )
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return damaged(folder, str(error))
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return LibraryLocked(
            f"another program holds the catalogue in {folder}",
            hint="close it, or try again when it has finished",
        )
    return None


def from_system(error: OSError, folder: Path) -> ClipsearchError:
    """The library's own exception for a file that could not be written."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        return _full(folder)
    hint = "check the disk, then run `clipsearch check`"
    if error.errno in _REFUSED:
        hint = "check who may write to the folder, and that its disk is not mounted read-only"
    return StorageError(f"cannot write to {folder} ({reason}): {UNCHANGED}", hint=hint)


def _full(folder: Path) -> StorageError:
    return StorageError(
        f"the disk of {folder} is full: {UNCHANGED}",
        hint="free some space and run the same command again: it goes on there",
    )


def _roomy(folder: Path) -> int:
    """The free bytes of the folder's disk; 0 where they are too few for the folder once more."""
    try:
        needed = sum(file.stat().st_size for file in folder.iterdir())
        free = shutil.disk_usage(folder).free
    except OSError:
        return 0
    return free if free > 2 * needed + _SPARE_BYTES else 0


@contextmanager
def translated(folder: Path) -> Iterator[None]:
    """Turn SQLite's and the system's exceptions into the library's own.

    Raises:
        StorageError: full, read-only or failing disk.
        LibraryDamaged: the catalogue is not a sound SQLite file.
        LibraryLocked: another program holds it.
    """
    try:
        yield
    except OSError as error:
        raise from_system(error, folder) from error
    except Exception as error:
        # SQLAlchemy wraps the driver's exception and keeps it as `orig`.
        cause = getattr(error, "orig", error)
        if isinstance(cause, sqlite3.Error) and (known := from_sqlite(cause, folder)):
            raise known from error
        raise
