"""SQLite's and the system's failures, said in the library's own words."""

from __future__ import annotations

import errno
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

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


def damaged(folder: Path, what: str) -> LibraryDamaged:
    """The catalogue of `folder` cannot be trusted; `what` says why."""
    return LibraryDamaged(
        f"the catalogue in {folder} is damaged ({what})",
        hint="put a copy of catalog.sqlite back, or move the folder away and index again",
    )


def from_sqlite(error: sqlite3.Error, folder: Path) -> ClipsearchError | None:
    """The library's own exception for SQLite's, or None where it is a bug of ours."""
    # The low byte is the primary result code: https://sqlite.org/rescode.html
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return StorageError(
            f"the disk of {folder} is full: {UNCHANGED}",
            hint="free some space and run the same command again: it goes on there",
        )
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
        return StorageError(
            f"the disk of {folder} is full: {UNCHANGED}",
            hint="free some space and run the same command again: it goes on there",
        )
    hint = "check the disk, then run `clipsearch check`"
    if error.errno in _REFUSED:
        hint = "check who may write to the folder, and that its disk is not mounted read-only"
    return StorageError(f"cannot write to {folder} ({reason}): {UNCHANGED}", hint=hint)


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
