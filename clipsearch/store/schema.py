"""The catalogue's tables as SQLAlchemy Core knows them, to write them with.

`migrations` makes them; `tests/test_store_migrations.py` holds the two together. Imported by the
writer alone: SQLAlchemy takes 0.4 s to import, which a query does not pay.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table


@dataclass(frozen=True, slots=True)
class Tables:
    """One attribute a table; what a row of each is stands in `migrations`."""

    metadata: MetaData
    library: Table
    root: Table
    photo: Table
    file: Table
    orphan: Table
    model: Table
    embedding: Table
    tombstone: Table
    problem: Table
    scan: Table


@cache
def tables() -> Tables:
    """The tables of the newest version."""
    from sqlalchemy import (
        Column,
        Computed,
        Float,
        Integer,
        LargeBinary,
        MetaData,
        Table,
        Text,
    )

    metadata = MetaData()

    def place() -> list[Column[int] | Column[bytes]]:
        """Where a file lies and what its `stat` said, in `file` and in `problem`."""
        return [
            Column("id", Integer, primary_key=True),
            Column("root_id", Integer, nullable=False),
            Column("folder", LargeBinary, nullable=False),
            Column("relative_path", LargeBinary, nullable=False),
            Column("size", Integer, nullable=False),
            Column("mtime_ns", Integer, nullable=False),
            Column("inode", Integer, nullable=False),
            Column("device", Integer, nullable=False),
        ]

    return Tables(
        metadata=metadata,
        library=Table(
            "library",
            metadata,
            Column("key", Text, primary_key=True),
            Column("value", Text, nullable=False),
        ),
        root=Table(
            "root",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("path", LargeBinary, nullable=False),
            Column("options", Text, nullable=False),
            Column("last_scanned", Float),
            Column("available", Integer, nullable=False),
        ),
        photo=Table(
            "photo",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("digest", LargeBinary, nullable=False),
            Column("width", Integer, nullable=False),
            Column("height", Integer, nullable=False),
            Column("format", Text, nullable=False),
            Column("taken_at", Text),
            Column("taken_offset_minutes", Integer),
            Column("latitude", Float),
            Column("longitude", Float),
            Column("camera", Text),
            Column("lens", Text),
        ),
        file=Table(
            "file",
            metadata,
            *place(),
            Column("photo_id", Integer, nullable=False),
            Column("seen_scan", Integer, nullable=False),
        ),
        orphan=Table("orphan", metadata, Column("photo_id", Integer, primary_key=True)),
        model=Table(
            "model",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("name", Text, nullable=False),
            Column("image_fingerprint", Text, nullable=False),
            Column("text_fingerprint", Text, nullable=False),
            Column("dim", Integer, nullable=False),
            Column("rows", Integer, nullable=False),
            Column("active", Integer, nullable=False),
            Column("activated", Float),
        ),
        embedding=Table(
            "embedding",
            metadata,
            Column("key", Integer, primary_key=True),
            Column("model_id", Integer, nullable=False),
            Column("row", Integer, Computed("key & 1099511627775", persisted=False)),
            Column("photo_id", Integer, nullable=False),
            Column("vector", LargeBinary, nullable=False),
        ),
        tombstone=Table("tombstone", metadata, Column("key", Integer, primary_key=True)),
        problem=Table(
            "problem",
            metadata,
            *place(),
            Column("reason", Text, nullable=False),
            Column("is_photo", Integer, nullable=False),
        ),
        scan=Table(
            "scan",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("started", Float, nullable=False),
            Column("finished", Float),
            Column("counts", Text, nullable=False),
        ),
    )
