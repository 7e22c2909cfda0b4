"""The writer: what a scan does to photos, files, vectors and rows."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from store_kit import FACTS, FINGERPRINTS, Store, digest, entry, found, vector_of

from clipsearch.errors import ModelError
from clipsearch.records import Fingerprints, PhotoFacts
from clipsearch.store.catalog import Catalog, Changes, Entry, Problem
from clipsearch.store.check import check
from clipsearch.store.reader import Reader


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.catalog.close()


def counted(changes: Changes) -> dict[str, int]:
    return {name: count for name, count in asdict(changes).items() if count}


def rows_by_path(store: Store) -> dict[str, int | None]:
    with Reader.open(store.folder) as reader:
        rows = range(reader.models()[0].rows)
        return {
            path: row
            for row, place in reader.places(store.model.id, rows).items()
            for path in place.paths
        }


def test_a_year_of_watching_leaves_no_gigabyte_of_scans(store: Store) -> None:
    store.catalog._driver().execute(
        "WITH RECURSIVE look (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM look WHERE id < 5000)"
        " INSERT INTO scan (id, started) SELECT id, 0 FROM look"
    )
    store.scan({"a": "A"})
    assert store.catalog._read("SELECT min(id), max(id) FROM scan") == [(4002, 5001)]
    store.scan({})
    assert rows_by_path(store) == {}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"a": "A", "b": "B"}, {"added": 2}),
        ({}, {"a": "A", "b": "A"}, {"added": 1, "copied": 1}),
        ({"a": "A"}, {"a": "A"}, {}),
        ({"a": "A"}, {"a": "A", "b": "A"}, {"copied": 1}),
        ({"a": "A"}, {"b": "A"}, {"moved": 1}),
        ({"x/a": "A"}, {"y/a": "A"}, {"moved": 1}),
        ({"a": "A"}, {"a": "N"}, {"changed": 1}),
        ({"a": "A", "b": "B"}, {"b": "B"}, {"removed": 1}),
        # cp b a; mv b a; two files swap names; three go round
        ({"a": "A", "b": "B"}, {"a": "B", "b": "B"}, {"changed": 1}),
        ({"a": "A", "b": "B"}, {"a": "B"}, {"moved": 1, "removed": 1}),
        ({"a": "A", "b": "B"}, {"a": "B", "b": "A"}, {"moved": 2}),
        ({"a": "A", "b": "B", "c": "C"}, {"a": "B", "b": "C", "c": "A"}, {"moved": 3}),
        # mv a c, then a new photo called a
        ({"a": "A"}, {"a": "N", "c": "A"}, {"moved": 1, "added": 1}),
        # a copy whose original goes, in this scan and in a later one
        ({"a": "A", "b": "A"}, {"b": "A"}, {"removed": 1}),
        ({"a": "A"}, {"b": "A", "c": "A"}, {"moved": 1, "copied": 1}),
        ({"a": "A", "b": "A"}, {"c": "A", "d": "A"}, {"moved": 2}),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_scan_tells_what_became_of_each_file(
    store: Store,
    before: dict[str, str],
    after: dict[str, str],
    expected: dict[str, int],
    backwards: bool,
) -> None:
    store.scan(before)
    if backwards:
        after = dict(reversed(list(after.items())))

    assert counted(store.scan(after)) == expected

    assert rows_by_path(store).keys() == {f"/photos/{path}" for path in after}
    assert counted(store.scan(after)) == {}


def test_a_photo_keeps_its_row_and_vector_wherever_it_lies(store: Store) -> None:
    store.scan({"a": "A", "b": "B"})
    before = rows_by_path(store)
    store.scan({"b": "A", "a": "B"})
    after = rows_by_path(store)
    assert after == {"/photos/a": before["/photos/b"], "/photos/b": before["/photos/a"]}
    assert store.catalog.models()[0].rows == 2


def test_a_file_that_becomes_unreadable_is_a_problem_and_comes_back(store: Store) -> None:
    store.scan({"a": "A", "b": "B"})
    assert counted(store.scan({"b": "B"}, unreadable=["a"])) == {"problems": 1}
    assert counted(store.scan({"b": "B"}, unreadable=["a"])) == {}
    with Reader.open(store.folder) as reader:
        assert [(one.path, one.reason) for one in reader.problems()] == [("/photos/a", "truncated")]
        assert reader.counts().photos == 1
    assert counted(store.scan({"a": "A", "b": "B"})) == {"added": 1}
    assert counted(store.scan({"b": "B"}, unreadable=["a"])) == {"problems": 1}
    assert counted(store.scan({"b": "B"})) == {}
    with Reader.open(store.folder) as reader:
        assert list(reader.problems()) == []


def test_a_touched_or_retagged_file_updates_its_facts_and_nothing_else(store: Store) -> None:
    store.scan({"a": "A"})
    scan = store.catalog.begin_scan()
    tagged = replace(FACTS, camera="Canon", taken_at="2024-05-01T10:00:00")
    retagged = entry(store.root.id, "a", "A", facts=tagged, embedded=False, mtime_ns=99)
    assert counted(store.catalog.commit_batch(store.model.id, scan, [retagged])) == {"touched": 1}
    with Reader.open(store.folder) as reader:
        assert reader.places(store.model.id, [0])[0].facts == tagged
    assert store.catalog.models()[0].rows == 1


def test_the_same_photo_under_two_roots_is_one_photo(store: Store) -> None:
    other = store.catalog.add_root("/disk", {})
    store.scan({"a": "A"})
    scan = store.catalog.begin_scan()
    copy = entry(other.id, "a", "A", embedded=False)
    assert counted(store.catalog.commit_batch(store.model.id, scan, [copy])) == {"copied": 1}
    store.catalog.finish_scan(scan, {})
    assert store.catalog.count_photos() == 1
    assert store.catalog.remove_root(store.root.id) == 1
    assert list(rows_by_path(store)) == ["/disk/a"]
    store.catalog.remove_root(other.id)
    assert store.catalog.count_photos() == 0


def test_a_photo_that_moves_to_another_root_keeps_its_vector(store: Store) -> None:
    store.scan({"a": "A"})
    other = store.catalog.add_root("/disk", {})
    scan = store.catalog.begin_scan()
    gone = store.catalog.compare_folder(store.root.id, "", []).gone
    total = store.catalog.remove_files(gone, scan)
    with Reader.open(store.folder) as reader:  # hidden in between, not lost
        assert reader.count_rows(store.model.id) == 0
        assert reader.counts().photos == 0
        assert reader.tombstones(store.model.id).tolist() == [0]
    assert store.knows("A")
    total += store.catalog.commit_batch(
        store.model.id, scan, [entry(other.id, "a", "A", embedded=False)]
    )
    store.catalog.finish_scan(scan, {})
    assert counted(total) == {"moved": 1}
    assert rows_by_path(store) == {"/disk/a": 0}


def test_a_move_seen_by_an_interrupted_scan_is_a_move_for_the_next(store: Store) -> None:
    store.scan({"a": "A"})
    scan = store.catalog.begin_scan()
    store.catalog.commit_batch(store.model.id, scan, [entry(store.root.id, "a", "N", mtime_ns=5)])
    # killed here: A lies nowhere, and is found at b by the next run
    scan = store.catalog.begin_scan()
    moved = entry(store.root.id, "b", "A", embedded=False)
    assert counted(store.catalog.commit_batch(store.model.id, scan, [moved])) == {"moved": 1}
    store.catalog.finish_scan(scan, {})
    assert rows_by_path(store) == {"/photos/a": 1, "/photos/b": 0}


def test_rows_are_never_used_twice(store: Store) -> None:
    store.scan({"a": "A", "b": "B"})
    store.scan({})
    store.scan({"c": "C", "a": "A"})
    assert sorted(row for row in rows_by_path(store).values() if row is not None) == [2, 3]
    with Reader.open(store.folder) as reader:
        assert reader.tombstones(store.model.id).tolist() == [0, 1]
        assert reader.active_model() == replace(store.model, rows=4)


def test_a_vector_is_kept_as_little_endian_float16(store: Store) -> None:
    store.scan({"a": "A"})
    with Reader.open(store.folder) as reader:
        (blob,) = reader.connection.execute("SELECT vector FROM embedding").fetchone()
        expected = vector_of("A").astype("<f2")
        assert blob == expected.tobytes()
        np.testing.assert_array_equal(reader.vectors(store.model.id, [0])[0], expected)


@pytest.mark.parametrize("bad", [np.full(8, np.nan), np.zeros(8), np.ones(8), np.ones(7) / 7**0.5])
def test_an_unusable_vector_costs_the_batch_and_nothing_else(store: Store, bad: object) -> None:
    store.scan({"a": "A"})
    scan = store.catalog.begin_scan()
    broken = replace(entry(store.root.id, "c", "C"), vector=np.asarray(bad, dtype=np.float32))
    with pytest.raises(ModelError):
        store.catalog.commit_batch(store.model.id, scan, [entry(store.root.id, "b", "B"), broken])
    assert list(rows_by_path(store)) == ["/photos/a"]
    # the ledger was told nothing of the failed batch
    again = store.catalog.commit_batch(store.model.id, scan, [entry(store.root.id, "b", "B")])
    assert counted(again) == {"added": 1}


def test_files_that_swapped_names_differ_in_their_inodes_alone(store: Store) -> None:
    catalog = store.catalog
    catalog.commit_batch(
        store.model.id,
        catalog.begin_scan(),
        [entry(store.root.id, name, name, inode=i) for i, name in enumerate("abc", start=5)],
    )

    def read(**inodes: int) -> str:
        files = [found(name, inode=inode) for name, inode in inodes.items()]
        changes = catalog.compare_folder(store.root.id, "", files)
        assert changes.unchanged == len(files) - len(changes.to_read)
        return "".join(file.relative_path for file in changes.to_read)

    assert read(a=5, b=6, c=7) == ""
    assert read(a=6, b=5, c=7) == "ab"
    assert read(a=5, b=6, c=99) == "c"
    # a disk that numbers its files anew at each mount, or does not number them
    assert read(a=101, b=102, c=103) == ""
    assert read(a=0, b=0, c=0) == ""


def test_folders_that_traded_names_differ_in_their_inodes_alone(store: Store) -> None:
    catalog, root = store.catalog, store.root.id
    before = {"x/1": 5, "x/2": 6, "y/1": 7, "y/2": 8}
    catalog.commit_batch(
        store.model.id,
        catalog.begin_scan(),
        [entry(root, name, name, inode=inode) for name, inode in before.items()],
    )

    def read(folder: str, **inodes: int) -> list[str]:
        files = [found(f"{folder}/{name[1:]}", inode=inode) for name, inode in inodes.items()]
        changes = catalog.compare_folder(root, folder, files)
        return [file.relative_path for file in changes.to_read]

    # mv x t; mv y x; mv t y
    scan = catalog.begin_scan()
    assert read("x", _1=7, _2=8) == ["x/1", "x/2"]
    moved = [entry(root, "x/1", "y/1", inode=7), entry(root, "x/2", "y/2", inode=8)]
    catalog.commit_batch(store.model.id, scan, moved)
    assert read("y", _1=5, _2=6) == ["y/1", "y/2"]
    # a disk that numbers its files anew at each mount
    catalog.begin_scan()
    assert read("x", _1=101, _2=102) == []


def test_names_that_are_not_utf8_and_huge_inodes_come_back_as_they_were(store: Store) -> None:
    name = 'caf\udce9/[odd] "name"\n.jpg'
    catalog = store.catalog
    scan = catalog.begin_scan()
    file = found(name, inode=2**64 - 3)
    odd = replace(entry(store.root.id, name, "A"), file=file)
    catalog.commit_batch(
        store.model.id, scan, [odd], [Problem(store.root.id, found("\udcff"), "bad", True)]
    )
    assert list(catalog.folders_of(store.root.id)) == ["", "caf\udce9"]
    assert list(rows_by_path(store)) == [f"/photos/{name}"]
    assert catalog.compare_folder(store.root.id, "caf\udce9", [file]).unchanged == 1
    assert catalog.compare_folder(store.root.id, "", [found("\udcff")]).known_problems == 1
    with Reader.open(store.folder) as reader:
        assert reader.has_photos_in(store.model.id, "/photos/caf\udce9")


def test_folders_of_a_large_root_come_in_pages(store: Store) -> None:
    entries = [entry(store.root.id, f"{n:04}/a", "A", embedded=n == 0) for n in range(2345)]
    store.catalog.commit_batch(store.model.id, store.catalog.begin_scan(), entries)
    folders = list(store.catalog.folders_of(store.root.id))
    assert folders == [f"{n:04}" for n in range(2345)]


def test_models_live_side_by_side_until_the_new_one_is_complete(store: Store) -> None:
    catalog = store.catalog
    store.scan({"a": "A", "b": "B", "c": "C"})
    second = catalog.add_model("other", Fingerprints("c" * 32, "d" * 32), 4)
    assert not second.active
    assert catalog.count_missing(second.id) == 3
    page = catalog.photos_missing(second.id, 2)
    assert [[file.relative_path for *_, file in photo.files] for photo in page] == [["a"], ["b"]]
    catalog.commit_embeddings(second.id, [(p.photo_id, vector_of("x", 4)) for p in page])
    rest = catalog.photos_missing(second.id, 2, page[-1].photo_id)
    assert [photo.digest for photo in rest] == [digest("C")]
    assert catalog.compact() == []  # an unfinished switch stays
    catalog.commit_embeddings(
        second.id, [(rest[0].photo_id, vector_of("x", 4)), (999, vector_of("x", 4))]
    )
    catalog.activate(second.id)
    assert [model.active for model in catalog.models()] == [False, True]
    assert [model.name for model in catalog.compact()] == ["tiny"]
    assert [model.name for model in catalog.models()] == ["other"]
    with Reader.open(store.folder) as reader:
        assert reader.count_rows(second.id) == 3
        assert reader.connection.execute("SELECT count(*) FROM tombstone").fetchone() == (0,)


@pytest.mark.parametrize(
    ("problem", "photos"),
    [
        ({"passing": True}, 1),
        ({"passing": True, "digest": digest("A")}, 1),
        ({"passing": True, "digest": digest("B")}, 0),
        ({}, 0),
    ],
)
def test_only_a_passing_problem_leaves_a_known_photo_where_it_was(
    store: Store, problem: dict[str, object], photos: int
) -> None:
    catalog = store.catalog
    store.scan({"a": "A"})
    scan = catalog.begin_scan()
    item = Problem(store.root.id, found("a", mtime_ns=-1), "no luck", True, **problem)
    catalog.commit_batch(store.model.id, scan, [], [item])
    catalog.finish_scan(scan, {})
    assert catalog.count_photos() == photos
    with Reader.open(store.folder) as reader:
        assert reader.counts().problems == 1
    assert counted(store.scan({"a": "A"})) == ({} if photos else {"added": 1})
    with Reader.open(store.folder) as reader:
        assert reader.counts().problems == 0


def test_a_model_with_a_new_text_tower_keeps_its_vectors(store: Store) -> None:
    store.scan({"a": "A"})
    tuned = store.catalog.add_model("tuned", Fingerprints(FINGERPRINTS.image, "e" * 32), 8)
    assert (tuned.id, tuned.rows, tuned.active) == (store.model.id, 1, True)
    assert (tuned.name, tuned.text_fingerprint) == ("tuned", "e" * 32)
    with pytest.raises(ModelError):
        store.catalog.add_model("odd", FINGERPRINTS, 9)


def test_settings_roots_and_their_state_are_kept(tmp_path: Path) -> None:
    with Catalog.open(tmp_path) as catalog:
        catalog.put_setting("colour", "red")
        catalog.put_setting("colour", "blue")
        first = catalog.add_root("/caf\udce9", {"exclude": ["*.png"]})
        catalog.add_root("/caf\udce9", {"exclude": []})
        catalog.set_root_available(first.id, False)
    with Catalog.open(tmp_path) as catalog, Reader.open(tmp_path) as reader:
        assert catalog.get_setting("colour") == reader.get_setting("colour") == "blue"
        assert catalog.roots() == reader.roots()
        (root,) = catalog.roots()
        assert (root.path, root.options, root.available) == ("/caf\udce9", {"exclude": []}, False)


def test_a_copy_that_tells_less_takes_nothing_away(store: Store) -> None:
    told = PhotoFacts(
        *(640, 480, "JPEG", "2020-05-05T10:00:00", 120, 48.2, 16.4, "Canon", "EF 50mm")
    )
    catalog = store.catalog

    def read(*entries: Entry) -> None:
        scan = catalog.begin_scan()
        catalog.commit_batch(store.model.id, scan, entries)
        catalog.finish_scan(scan, {})

    def facts() -> PhotoFacts:
        with Reader.open(store.folder) as reader:
            return reader.places(store.model.id, [0])[0].facts

    stripped = PhotoFacts(640, 480, "JPEG")
    root = store.root.id
    read(entry(root, "a", "A", facts=told), entry(root, "sent", "A", facts=stripped))
    assert facts() == told
    read(entry(root, "again", "A", facts=stripped))
    assert facts() == told
    # Another camera's clock is taken whole, or not at all.
    later = replace(stripped, taken_at="2021-01-01T00:00:00")
    read(entry(root, "a", "A", facts=later))
    assert facts() == replace(told, taken_at=later.taken_at, taken_offset_minutes=None)


def test_the_only_file_of_a_photo_says_what_is_known_of_it(store: Store) -> None:
    dated = replace(FACTS, taken_at="2020-05-05T10:00:00")
    for facts in (dated, FACTS):
        scan = store.catalog.begin_scan()
        store.catalog.commit_batch(
            store.model.id, scan, [entry(store.root.id, "a", "A", facts=facts)]
        )
        store.catalog.finish_scan(scan, {})
        with Reader.open(store.folder) as reader:
            assert reader.places(store.model.id, [0])[0].facts == facts


def test_a_file_moved_over_another_is_read_again(store: Store) -> None:
    """Size and time are the same, and no other file says whether inodes hold here."""
    scan = store.catalog.begin_scan()
    entries = [
        entry(store.root.id, name, name, inode=inode) for name, inode in (("a", 5), ("b", 6))
    ]
    store.catalog.commit_batch(store.model.id, scan, entries)
    store.catalog.finish_scan(scan, {})
    changes = store.catalog.compare_folder(store.root.id, "", [found("b", inode=5)])
    assert [file.relative_path for file in changes.to_read] == ["b"]


def test_taking_over_a_root_keeps_its_paths_byte_for_byte_in_one_statement(store: Store) -> None:
    catalog = store.catalog
    names = ("a", "caf\udce9/\udcff\udcfe \n'", "é/deep/é", "x/y")
    inner = catalog.add_root("/photos/\udce8 d", {})
    scan = catalog.begin_scan()
    entries = [entry(inner.id, name, name.encode("utf-8", "replace").decode()) for name in names]
    problem = Problem(inner.id, found("caf\udce9/bad"), "truncated", True)
    catalog.commit_batch(store.model.id, scan, entries, [problem])
    statements: list[str] = []
    catalog._driver().set_trace_callback(statements.append)
    catalog.absorb_root(store.root, inner, {})
    catalog._driver().set_trace_callback(None)
    assert sum(one.startswith("UPDATE file") for one in statements) == 1
    prefix = "\udce8 d"
    with closing(sqlite3.connect(store.folder / "catalog.sqlite")) as connection:
        rows = connection.execute(
            "SELECT folder, relative_path, typeof(folder), typeof(relative_path) FROM file"
            " UNION ALL SELECT folder, relative_path, typeof(folder), typeof(relative_path)"
            " FROM problem"
        ).fetchall()
    paths = [os.fsencode(f"{prefix}/{name}") for name in (*names, "caf\udce9/bad")]
    assert sorted(rows) == sorted(
        (path.rpartition(b"/")[0], path, "blob", "blob") for path in paths
    )


def test_a_root_inside_another_is_taken_over_with_its_photos(store: Store) -> None:
    catalog = store.catalog
    store.scan({"2024/a": "old", "b": "B"})
    inner = catalog.add_root("/photos/2024", {})
    scan = catalog.begin_scan()
    catalog.commit_batch(
        store.model.id,
        scan,
        [entry(inner.id, "a", "A"), entry(inner.id, "06/c", "C")],
        [Problem(inner.id, found("06/bad"), "truncated", True)],
    )
    catalog.finish_scan(scan, {})
    catalog.absorb_root(store.root, inner, {"exclude": ["x"]})
    assert [(root.path, root.options) for root in catalog.roots()] == [
        ("/photos", {"exclude": ["x"]})
    ]
    assert rows_by_path(store) == {"/photos/b": 1, "/photos/2024/a": 2, "/photos/2024/06/c": 3}
    assert list(catalog.folders_of(store.root.id)) == ["", "2024", "2024/06"]
    assert catalog.compare_folder(store.root.id, "2024/06", [found("2024/06/c")]).unchanged == 1
    catalog.finish_scan(catalog.begin_scan(), {})
    assert check(store.folder, look_for_photos=False) == []
