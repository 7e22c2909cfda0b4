"""The catalogue's schema, as numbered steps from an empty file to the newest version.

`PRAGMA user_version` is the number of the last step taken. A step that was released is never
edited; the next change of the schema is a new one. Each step is one transaction with its number:
killed in between, the next writer goes on there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from clipsearch.errors import LibraryTooNew
from clipsearch.store.failures import damaged

# 'CLIP': tells our file from any other SQLite file.
APPLICATION_ID = 0x434C4950

# Rows of one model are neighbours on disk, in order: key = model_id << ROW_BITS | row. A scan of
# a model is then one sequential read of the table.
ROW_BITS = 40
ROW_MASK = (1 << ROW_BITS) - 1

_VERSION_1 = """
CREATE TABLE library (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE root (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL UNIQUE,
    options TEXT NOT NULL DEFAULT '{}',
    last_scanned REAL,
    available INTEGER NOT NULL DEFAULT 1
);

CREATE TABLE photo (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    format TEXT NOT NULL,
    taken_at TEXT,
    taken_offset_minutes INTEGER,
    latitude REAL,
    longitude REAL,
    camera TEXT,
    lens TEXT
);
CREATE INDEX photo_taken_at ON photo (taken_at);

CREATE TABLE file (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root_id INTEGER NOT NULL REFERENCES root (id),
    folder BLOB NOT NULL,
    relative_path BLOB NOT NULL,
    photo_id INTEGER NOT NULL REFERENCES photo (id),
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    device INTEGER NOT NULL,
    seen_scan INTEGER NOT NULL,
    UNIQUE (root_id, relative_path)
);
CREATE INDEX file_folder ON file (root_id, folder);
CREATE INDEX file_photo ON file (photo_id);

CREATE TABLE orphan (
    photo_id INTEGER PRIMARY KEY REFERENCES photo (id) ON DELETE CASCADE
);

CREATE TABLE model (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    image_fingerprint TEXT NOT NULL UNIQUE,
    text_fingerprint TEXT NOT NULL,
    dim INTEGER NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0,
    active INTEGER NOT NULL DEFAULT 0,
    activated REAL
);

CREATE TABLE embedding (
    key INTEGER PRIMARY KEY,
    model_id INTEGER NOT NULL REFERENCES model (id) CHECK (model_id = key >> 40),
    row INTEGER GENERATED ALWAYS AS (key & 1099511627775) VIRTUAL,
    photo_id INTEGER NOT NULL REFERENCES photo (id),
    vector BLOB NOT NULL
);
CREATE UNIQUE INDEX embedding_photo ON embedding (photo_id, model_id);

CREATE TABLE tombstone (
    key INTEGER PRIMARY KEY
);
CREATE TRIGGER embedding_buried AFTER DELETE ON embedding BEGIN
    INSERT OR IGNORE INTO tombstone (key) VALUES (old.key);
END;

CREATE TABLE problem (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root_id INTEGER NOT NULL REFERENCES root (id),
    folder BLOB NOT NULL,
    relative_path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    device INTEGER NOT NULL,
    reason TEXT NOT NULL,
    is_photo INTEGER NOT NULL,
    UNIQUE (root_id, relative_path)
);
CREATE INDEX problem_folder ON problem (root_id, folder);

CREATE TABLE scan (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    started REAL NOT NULL,
    finished REAL,
    counts TEXT NOT NULL DEFAULT '{}'
);
"""

# STEPS[i] takes a catalogue from version i to version i + 1.
STEPS: tuple[str, ...] = (_VERSION_1,)
VERSION = len(STEPS)


def check_version(connection: sqlite3.Connection, folder: Path, *, newest: int = VERSION) -> int:
    """The version of the catalogue; 0 for an empty file.

    Raises:
        LibraryTooNew: a newer clipsearch made it.
        LibraryDamaged: an SQLite file, but no catalogue of ours.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables or version:
            raise damaged(folder, "it is another program's database")
        return 0
    if version > newest:
        raise LibraryTooNew(
            f"the library in {folder} was made by a newer clipsearch "
            f"(version {version} of its catalogue; this one knows up to {newest})",
            hint="upgrade: `pip install --upgrade clipsearch`",
        )
    return int(version)


def migrate(
    connection: sqlite3.Connection, folder: Path, *, steps: Sequence[str] = STEPS
) -> tuple[int, int]:
    """Bring a catalogue to the newest version; the versions before and after.

    Args:
        connection: in autocommit mode (`isolation_level=None`); the caller holds the lock.
    Raises:
        LibraryTooNew, LibraryDamaged: see `check_version`.
    """
    before = check_version(connection, folder, newest=len(steps))
    for version, step in enumerate(steps[before:], start=before + 1):
        # executescript commits whatever is open before it starts: the transaction is its own.
        connection.executescript(
            f"BEGIN IMMEDIATE;{step}\n"
            f"PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {version};"
            "COMMIT;"
        )
    return before, len(steps)
