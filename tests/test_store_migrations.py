"""Catalogues of other versions, and of other programs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from store_kit import Store

from clipsearch.errors import LibraryDamaged, LibraryTooNew, NoLibrary, StorageError
from clipsearch.store import migrations
from clipsearch.store.catalog import Catalog
from clipsearch.store.reader import Reader
from clipsearch.store.schema import tables

RELEASED = sorted((Path(__file__).parent / "libraries").glob("version-*.sql"))


def open_database(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "catalog.sqlite", isolation_level=None)


def test_the_tables_that_are_written_are_the_tables_that_migrations_make(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    with closing(open_database(tmp_path)) as connection:
        made = {
            name: {row[1] for row in connection.execute(f"PRAGMA table_xinfo({name})")}
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        }
    declared = {
        table.name: {column.name for column in table.columns}
        for table in tables().metadata.tables.values()
    }
    assert declared == made


def test_there_is_a_library_of_every_released_version() -> None:
    assert [path.stem for path in RELEASED] == [
        f"version-{number}" for number in range(1, migrations.VERSION + 1)
    ]


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_a_library_of_a_released_version_opens_with_all_it_holds(
    tmp_path: Path, released: Path
) -> None:
    with closing(open_database(tmp_path)) as connection:
        connection.executescript(released.read_text(encoding="ascii"))
    with Catalog.open(tmp_path) as catalog:
        assert catalog.count_photos() == 3
    with Reader.open(tmp_path) as reader:
        model = reader.active_model()
        assert model is not None
        places = reader.places(model.id, range(model.rows))
        assert {row: place.paths for row, place in places.items()} == {
            0: ["/photos/a.jpg", "/photos/caf\udce9/copy of a.jpg"],
            2: ["/photos/c.jpg"],
            3: ["/photos/d.jpg"],
        }
        assert reader.tombstones(model.id).tolist() == [1]
        assert reader.vectors(model.id, [0, 2, 3]).shape == (3, 8)
        assert [problem.reason for problem in reader.problems()] == ["truncated"]


def test_steps_are_taken_one_after_the_other_and_once(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    steps = [
        *migrations.STEPS,
        "ALTER TABLE photo ADD COLUMN stars INTEGER;",
        "UPDATE photo SET stars = 0; CREATE TABLE album (name TEXT);",
    ]
    with closing(open_database(tmp_path)) as connection:
        connection.execute(
            "INSERT INTO photo (digest, width, height, format) VALUES (x'00', 1, 1, 'PNG')"
        )
        assert migrations.migrate(connection, tmp_path, steps=steps) == (1, 3)
        assert migrations.migrate(connection, tmp_path, steps=steps) == (3, 3)
        assert connection.execute("SELECT stars FROM photo").fetchall() == [(0,)]


def test_a_step_that_fails_leaves_the_catalogue_at_the_version_before(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    with closing(open_database(tmp_path)) as connection:
        steps = [
            *migrations.STEPS,
            "CREATE TABLE album (name TEXT); INSERT INTO nowhere VALUES (1);",
        ]
        with pytest.raises(sqlite3.OperationalError):
            migrations.migrate(connection, tmp_path, steps=steps)
    with closing(open_database(tmp_path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
        assert ("album",) not in names


def test_a_library_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    with closing(open_database(tmp_path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = (tmp_path / "catalog.sqlite").read_bytes()
    for opener in (Catalog.open, Reader.open):
        with pytest.raises(LibraryTooNew, match="99"):
            opener(tmp_path)
    assert (tmp_path / "catalog.sqlite").read_bytes() == before


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    for opener in (Catalog.open, Reader.open):
        with pytest.raises(LibraryDamaged, match="another program"):
            opener(tmp_path)


def test_no_library_an_empty_one_and_an_old_one_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoLibrary):
        Reader.open(tmp_path)
    (tmp_path / "catalog.sqlite").touch()
    with pytest.raises(NoLibrary):
        Reader.open(tmp_path)
    (tmp_path / "catalog.sqlite").unlink()
    Catalog.open(tmp_path).close()
    monkeypatch.setattr("clipsearch.store.reader.VERSION", migrations.VERSION + 1)
    with pytest.raises(StorageError, match="older"):
        Reader.open(tmp_path)


@pytest.mark.parametrize("damage", ["text", "truncated", "zeros"])
def test_a_damaged_catalogue_is_said_to_be_damaged(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    store.scan({f"{n}": f"{n}" for n in range(50)})
    store.catalog.close()
    path = tmp_path / "catalog.sqlite"
    whole = path.read_bytes()
    if damage == "text":
        path.write_bytes(b"not a database at all, but long enough to be taken for one" * 100)
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
    with pytest.raises(LibraryDamaged):
        read_everything(tmp_path)


def read_everything(folder: Path) -> None:
    with Reader.open(folder) as reader:
        reader.models()
        reader.places(1, range(50))
