"""The writer's lock: one process at a time may change a library. Readers do not take it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipsearch.errors import LibraryLocked
from clipsearch.locking import LockHeld, take_lock
from clipsearch.store.failures import from_system


@contextmanager
def writer_lock(folder: Path, wait: bool | float = False) -> Iterator[None]:
    """Hold the right to change the library in `folder`, which must exist.

    Args:
        wait: True waits for as long as it takes, a number for so many seconds, False not at all.
    Raises:
        LibraryLocked: another process holds it; the message names it.
        StorageError: the lock file cannot be made.
    """
    try:
        descriptor = take_lock(folder / "lock", wait)
    except LockHeld as holder:
        raise LibraryLocked(
            f"cannot write: another clipsearch ({holder}) holds the lock",
            hint="add `--wait`, or try again when it has finished",
        ) from None
    except OSError as error:  # a file system without locks, or a full disk
        raise from_system(error, folder) from error
    try:
        yield
    finally:
        os.close(descriptor)
