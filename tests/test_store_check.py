"""`check` finds every kind of damage and changes nothing; `repair` puts right what it can."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from store_kit import FINGERPRINTS, Store, clustered, delete_rows, fill

from clipsearch.errors import NoLibrary
from clipsearch.library import Library
from clipsearch.store import ann
from clipsearch.store.catalog import Catalog
from clipsearch.store.check import check, repair
from clipsearch.store.reader import Reader


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A library of ten photos, one of them deleted."""
    store = Store(tmp_path)
    store.scan({f"{n}.jpg": f"{n}" for n in range(10)})
    store.scan({f"{n}.jpg": f"{n}" for n in range(9)})
    store.catalog.close()
    return tmp_path


def spoil(folder: Path, script: str) -> None:
    with closing(sqlite3.connect(folder / "catalog.sqlite", isolation_level=None)) as connection:
        connection.executescript(script)


def snapshot(folder: Path) -> dict[str, bytes]:
    # the index of the log is written even by readers
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


DAMAGE = {
    "a vector of zeros": ("vectors", "UPDATE embedding SET vector = zeroblob(16) WHERE row = 3"),
    "a vector cut short": ("vectors", "UPDATE embedding SET vector = x'0011' WHERE row = 3"),
    "a vector with a NaN": (
        "vectors",
        "UPDATE embedding SET vector = CAST(x'007e' || zeroblob(14) AS BLOB) WHERE row = 3",
    ),
    "a vector that is text": ("vectors", "UPDATE embedding SET vector = 'aaaa' WHERE row = 3"),
    "a row above the model's rows": ("rows", "UPDATE model SET rows = 5"),
    "a row that is nowhere": ("rows", "DELETE FROM tombstone"),
    "a row that is alive and dead": (
        "rows",
        "INSERT INTO tombstone SELECT key FROM embedding WHERE row = 2",
    ),
    "a file without its photo": ("files", "UPDATE file SET photo_id = 999 WHERE id = 4"),
    "a vector without its photo": ("files", "DELETE FROM photo WHERE id = 4"),
    "a photo without a file": ("photos", "DELETE FROM file WHERE id = 4"),
    "a hidden photo with a file": ("photos", "INSERT INTO orphan VALUES (4)"),
    "no active model": ("rows", "UPDATE model SET active = 0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_told_and_put_right(folder: Path, damage: str) -> None:
    kind, script = DAMAGE[damage]
    assert check(folder) == []
    spoil(folder, script)
    before = snapshot(folder)

    findings = check(folder)

    assert kind in {finding.kind for finding in findings}
    assert all(finding.repairable and finding.hint for finding in findings)
    assert snapshot(folder) == before
    assert repair(folder) == findings
    assert check(folder) == []
    with Catalog.open(folder) as catalog:
        (model,) = catalog.models()
        assert model.active
        assert model.rows >= 9 or damage == "a row above the model's rows"
        # what was lost can be embedded again, in rows of its own
        for photo in catalog.photos_missing(model.id, 10):
            vector = np.full(8, 8**-0.5, dtype=np.float32)
            assert catalog.commit_embeddings(model.id, [(photo.photo_id, vector)]) == 1
    assert check(folder) == []


def test_a_bad_vector_costs_its_own_photo_an_embedding_and_no_photo(folder: Path) -> None:
    spoil(folder, "UPDATE embedding SET vector = zeroblob(16) WHERE row IN (3, 5)")
    (finding,) = check(folder)
    assert "2 vectors" in finding.message
    assert "3, 5" in finding.message
    repair(folder)
    with Catalog.open(folder) as catalog:
        assert catalog.count_photos() == 9
        files = [photo.files for photo in catalog.photos_missing(1, 10)]
        assert [[(root, file.relative_path) for _, root, file in some] for some in files] == [
            [("/photos", "3.jpg")],
            [("/photos", "5.jpg")],
        ]


def test_a_wrong_sqlite_index_is_made_anew(folder: Path) -> None:
    spoil(
        folder,
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = 'CREATE INDEX photo_taken_at ON photo (camera)'"
        " WHERE name = 'photo_taken_at';"
        "PRAGMA writable_schema = RESET;"
        "UPDATE photo SET camera = 'Canon', taken_at = '2024' WHERE id = 3;"
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = 'CREATE INDEX photo_taken_at ON photo (taken_at)'"
        " WHERE name = 'photo_taken_at';",
    )
    (finding,) = check(folder)
    assert (finding.kind, finding.repairable) == ("catalogue", True)
    repair(folder)
    assert check(folder) == []


@pytest.mark.parametrize("how", ["zeros", "text", "cut"])
def test_a_catalogue_that_sqlite_cannot_read_is_left_as_it_is(folder: Path, how: str) -> None:
    path = folder / "catalog.sqlite"
    whole = path.read_bytes()
    middle = len(whole) // 8192 // 2 * 8192
    path.write_bytes(
        {
            "zeros": whole[:8192] + bytes(middle) + whole[8192 + middle :],
            "text": b"no database" * 5000,
            "cut": whole[: middle + 100],
        }[how]
    )
    before = path.read_bytes()
    findings = check(folder)
    assert findings
    ours = [finding for finding in findings if finding.kind == "catalogue"]
    assert not any(finding.repairable for finding in ours)
    # A killed run's log would be read into the copy that is put back.
    assert all("take catalog.sqlite-wal away" in (finding.hint or "") for finding in ours)
    assert repair(folder) == [finding for finding in findings if not finding.repairable]
    assert path.read_bytes() == before


def test_an_empty_catalogue_is_not_called_sound(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").touch()
    for look in (check, repair):
        with pytest.raises(NoLibrary, match="holds nothing yet") as caught:
            look(tmp_path)
        assert "put a copy of catalog.sqlite back" in (caught.value.hint or "")
        assert "take catalog.sqlite-wal away" in (caught.value.hint or "")


def test_a_damaged_index_is_found_and_made_anew(tmp_path: Path) -> None:
    vectors, queries = clustered(10_500, 10, 32)
    model = fill(tmp_path, vectors)
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, model)
    assert check(tmp_path) == []
    file = tmp_path / "ann" / FINGERPRINTS.image / "index.faiss"
    whole = bytearray(file.read_bytes())
    whole[-100] ^= 8
    file.write_bytes(whole)
    (finding,) = check(tmp_path)
    assert (finding.kind, finding.repairable) == ("index", True)
    assert repair(tmp_path) == [finding]
    assert check(tmp_path) == []
    with Reader.open(tmp_path) as reader:
        index, notice = ann.open_index(tmp_path, model)
        assert notice is None
        found = ann.nearest(reader, index, model, queries, 10)
        exact = ann.nearest(reader, None, model, queries, 10)
        assert ann.recall_at_k(found.rows, exact.rows) >= 0.98


def test_an_index_is_made_anew_when_its_vectors_are_dropped(tmp_path: Path) -> None:
    model = fill(tmp_path, clustered(10_500, 1, 32)[0])
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, model)
    spoil(tmp_path, "UPDATE embedding SET vector = zeroblob(64) WHERE row = 7")
    assert {finding.kind for finding in check(tmp_path)} >= {"vectors"}
    repair(tmp_path)
    assert check(tmp_path) == []


def test_an_index_that_outlived_nearly_all_its_photos_can_be_checked(tmp_path: Path) -> None:
    fill(tmp_path, clustered(300, 1, 16)[0])
    Library.open(tmp_path).compact(search="lists")
    for left in (30, 0):  # and the run is killed before the index is brought up to date
        delete_rows(tmp_path, range(300 - left))
        assert check(tmp_path, look_for_photos=False) == []


def test_photos_missing_on_disk_are_told_but_not_those_of_absent_roots(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "caf\udce9"):
        (photos / name).touch()
    store = Store(tmp_path / "library")
    root = store.catalog.add_root(str(photos), {})
    store.catalog.remove_root(store.root.id)
    store.root = root
    store.scan({"a": "A", "caf\udce9": "B"})
    store.catalog.close()
    assert check(store.folder) == []
    (photos / "caf\udce9").unlink()
    (finding,) = check(store.folder)
    assert (finding.kind, finding.is_damage, finding.repairable) == ("missing", False, False)
    assert finding.message.startswith("1 photo is no longer where it was: ")
    assert "caf\udce9" in finding.message
    assert check(store.folder, look_for_photos=False) == []
    (photos / "a").unlink()  # an empty folder: a disk that is not mounted
    assert check(store.folder) == []
    (photos / ".keep").touch()  # which some keep a mount point by
    assert check(store.folder) == []
    (photos / ".keep").unlink()
    photos.rmdir()
    assert check(store.folder) == []
