"""What those who read photos ask the catalogue, of what was committed last."""

from __future__ import annotations

import sqlite3
import threading
from functools import cache
from pathlib import Path

from clipsearch.store.failures import translated
from clipsearch.store.reader import CATALOG_NAME


class KnownPhotos:
    """Whether photos have their vector already, under one model of a library.

    It has a connection of its own, opened with the first question, and waits for no transaction:
    whoever decodes photos would stand still while a batch is committed, and on a GPU that is a
    good part of the time. Any thread may ask at any time, and any process may have one.

    Args:
        folder: of a library whose catalogue exists.
        model_id: the model's row in the catalogue.
    """

    def __init__(self, folder: Path, model_id: int) -> None:
        self.folder = folder
        self.model_id = model_id
        self.holds_format = cache(self._holds_format)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def __reduce__(self) -> tuple[type[KnownPhotos], tuple[Path, int]]:
        """Another process gets one with a connection of its own."""
        return KnownPhotos, (self.folder, self.model_id)

    def has_vector(self, digest: bytes) -> bool:
        """Whether the picture of this digest has a vector under the model.

        Raises:
            LibraryDamaged, StorageError.
        """
        return self._finds(
            "SELECT 1 FROM photo JOIN embedding ON embedding.photo_id = photo.id"
            " AND embedding.model_id = ? WHERE digest = ?",
            (self.model_id, digest),
        )

    def _holds_format(self, name: str) -> bool:
        """Whether any photo is of a format ('HEIF'); asked once for each."""
        return self._finds("SELECT 1 FROM photo WHERE format = ? LIMIT 1", (name,))

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _finds(self, statement: str, parameters: tuple[object, ...]) -> bool:
        with self._lock, translated(self.folder):
            if self._connection is None:
                self._connection = sqlite3.connect(
                    self.folder / CATALOG_NAME,
                    isolation_level=None,
                    timeout=30.0,
                    check_same_thread=False,
                )
                self._connection.execute("PRAGMA query_only = ON")
            return self._connection.execute(statement, parameters).fetchone() is not None
