"""Readers: one snapshot each, filters, places, and folders that may not be written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_kit import FACTS, Store, delete_rows, digest, entry, fill, found, unit, vector_of

from clipsearch.records import PhotoFacts, file_stamp
from clipsearch.store.reader import FILTERS, Filter, Reader, decode_vectors
from clipsearch.store.text_cache import TextCache


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.catalog.close()


def test_a_reader_sees_one_moment_while_a_writer_goes_on(store: Store) -> None:
    store.scan({"a": "A", "b": "B"})
    with Reader.open(store.folder) as before:
        store.scan({"b": "B", "c": "C"})
        with Reader.open(store.folder) as after:
            assert before.counts().photos == after.counts().photos == 2
            assert before.rows_of_digest(store.model.id, digest("A")).tolist() == [0]
            assert after.rows_of_digest(store.model.id, digest("A")).tolist() == []
            assert before.tombstones(store.model.id).tolist() == []
            assert after.tombstones(store.model.id).tolist() == [0]
            assert before.active_model().rows == 2  # type: ignore[union-attr]
            assert after.active_model().rows == 3  # type: ignore[union-attr]
            np.testing.assert_array_equal(
                before.vectors(store.model.id, [0])[0], vector_of("A").astype(np.float16)
            )


def test_a_reader_does_not_wait_for_an_open_transaction(store: Store) -> None:
    store.scan({"a": "A"})
    with store.catalog._transaction() as connection:
        connection.exec_driver_sql("DELETE FROM file")
        with Reader.open(store.folder) as reader:
            assert reader.counts().files == 1


def test_reading_loads_neither_sqlalchemy_nor_faiss_and_changes_nothing(store: Store) -> None:
    store.scan({"2024/a": "A"})
    store.catalog.close()
    script = """
import sys
from pathlib import Path
import numpy as np
from clipsearch.store import ann
from clipsearch.store.reader import Filter, Reader
folder = Path(sys.argv[1])
with Reader.open(folder) as reader:
    model = reader.active_model()
    index, notice = ann.open_index(folder, model)
    rows = reader.rows_matching(model.id, [Filter("folder", "/photos/2024")])
    found = ann.nearest(reader, index, model, np.ones((1, 8), "f4"), 5, allowed=rows)
    assert found.rows[0].tolist() == [0, -1, -1, -1, -1]
    try:
        reader.connection.execute("DELETE FROM file")
    except Exception as error:
        assert "readonly" in str(error)
    else:
        raise AssertionError
assert not {"sqlalchemy", "faiss", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(store.folder)], check=True)


def test_filters_go_by_whole_folders_dates_and_cameras(store: Store) -> None:
    taken = {
        "2024/a": ("2024-01-01T00:00:00", "Canon EOS R5"),
        "2024/06/b": ("2024-06-15T12:00:00", "NIKON Z 6"),
        "2024-best/c": ("2024-12-31T23:59:59", "Canon PowerShot"),
        "d": (None, None),
    }
    entries = [
        entry(
            store.root.id,
            path,
            path,
            facts=PhotoFacts(1, 1, "JPEG", taken_at=moment, camera=camera),
        )
        for path, (moment, camera) in taken.items()
    ]
    store.catalog.commit_batch(store.model.id, store.catalog.begin_scan(), entries)
    with Reader.open(store.folder) as reader:

        def passing(*filters: Filter) -> str:
            rows = reader.rows_matching(store.model.id, filters)
            assert rows is not None
            return "".join("abcd"[row] for row in rows)

        assert reader.rows_matching(store.model.id, []) is None
        assert passing(Filter("folder", "/photos/2024")) == "ab"
        assert passing(Filter("folder", "/photos/2024/")) == "ab"
        assert passing(Filter("folder", "/photos/2024/06")) == "b"
        for all_there_is in ("/photos", "/photos/", "/"):
            everything = Filter("folder", all_there_is)
            assert reader.rows_matching(store.model.id, [everything]) is None
            assert passing(everything, Filter("folder", "/x"), Filter("camera", "canon")) == "ac"
        assert passing(Filter("folder", "/Photos")) == passing(Filter("folder", "/photo")) == ""
        assert passing(Filter("folder", "/photos/20_4")) == ""
        assert (
            passing(Filter("folder", "/photos/2024/06"), Filter("folder", "/photos/2024-best"))
            == "bc"
        )
        assert passing(Filter("after", "2024-06-15")) == "bc"
        assert passing(Filter("before", "2024-06-15T12:00:00")) == "a"
        assert passing(Filter("after", "2024-02"), Filter("before", "2024-12")) == "b"
        assert passing(Filter("camera", "canon")) == "ac"
        assert passing(Filter("camera", "canon"), Filter("folder", "/photos/2024")) == "a"
        assert passing(Filter("camera", "'; DROP TABLE photo; --")) == ""
    assert Filter("folder", "/x").phrase == "in /x"
    assert set(FILTERS) == {"folder", "after", "before", "camera"}


@given(
    folders=st.lists(
        st.lists(st.sampled_from(["a", "a0", "a-", "A", "é", "%", "_"]), max_size=3),
        min_size=1,
        max_size=6,
    ),
    asked=st.lists(st.sampled_from(["a", "a0", "a-", "A", "é", "%", "_"]), max_size=3),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_folder_filter_is_a_prefix_of_path_components(
    folders: list[list[str]], asked: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        store = Store(Path(temporary))
        paths = ["/".join([*parts, f"{n}.jpg"]) for n, parts in enumerate(folders)]
        store.catalog.commit_batch(
            store.model.id,
            store.catalog.begin_scan(),
            [entry(store.root.id, path, path) for path in paths],
        )
        store.catalog.close()
        with Reader.open(store.folder) as reader:
            folder = "/".join(["/photos", *asked])
            rows = reader.rows_matching(store.model.id, [Filter("folder", folder)])
            assert (rows is None) == (not asked)
            expected = [n for n, parts in enumerate(folders) if parts[: len(asked)] == asked]
            assert rows is None or rows.tolist() == expected
            assert reader.has_photos_in(store.model.id, folder) == bool(expected)


def test_vectors_come_in_the_order_asked_for_and_in_blocks(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = unit(generator.standard_normal((1000, 16), dtype=np.float32))
    model = fill(tmp_path, vectors)
    gone = [0, 3, 4, 500, 999]
    delete_rows(tmp_path, gone)
    alive = np.setdiff1d(np.arange(1000), gone)
    stored = vectors.astype(np.float16).astype(np.float32)
    with Reader.open(tmp_path) as reader:
        wanted = generator.permutation(alive)[:50]
        wanted = np.concatenate([wanted, wanted[:3]])
        np.testing.assert_array_equal(reader.vectors(model.id, wanted), stored[wanted])
        assert reader.vectors(model.id, []).shape == (0, 16)
        with pytest.raises(KeyError):
            reader.vectors(model.id, [1, 3])
        for first, end in ((0, None), (2, 600), (997, None), (999, None)):
            blocks = list(reader.vector_blocks(model.id, first, end, block=64))
            rows = np.concatenate([rows for rows, _ in blocks] or [np.empty(0, np.int64)])
            np.testing.assert_array_equal(
                rows, alive[(alive >= first) & (alive < (1000 if end is None else end))]
            )
            for rows, block in blocks:
                np.testing.assert_array_equal(block, stored[rows])
        np.testing.assert_array_equal(reader.stored_rows(model.id), alive)
        assert reader.count_rows(model.id) == len(alive)
        assert 3 not in reader.places(model.id, [3, 5])


def test_decoding_is_exact_for_every_finite_half() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    np.testing.assert_array_equal(
        decode_vectors(halves.astype("<f2").tobytes(), 1)[:, 0], halves.astype(np.float32)
    )


def test_absent_roots_are_said_to_be_absent_and_lose_nothing(store: Store) -> None:
    disk = store.catalog.add_root("/disk", {})
    other = replace(entry(disk.id, "a", "A"), file=found("a", size=20))
    scan = store.catalog.begin_scan()
    store.catalog.commit_batch(store.model.id, scan, [other, entry(store.root.id, "z", "A")])
    store.catalog.set_root_available(disk.id, False)
    with Reader.open(store.folder) as reader:
        place = reader.places(store.model.id, [0])[0]
        assert place.paths == ["/photos/z", "/disk/a"]
        assert place.sizes == [10, 20]
        assert place.available
        assert place.facts == FACTS
        assert [root.available for root in reader.roots()] == [True, False]


READ_ONLY = """
import os, sys
from pathlib import Path
from clipsearch.errors import ClipsearchError
from clipsearch.store.reader import Reader
if os.geteuid() == 0:  # rights do not bind root
    os.seteuid(65534)
try:
    with Reader.open(Path(sys.argv[1])) as reader:
        print(reader.counts().photos)
except ClipsearchError as error:
    print(error)
"""


def read_without_rights(folder: Path) -> str:
    """What a process that may not write to `folder` reads there."""
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
    finally:
        folder.chmod(0o755)
    return done.stdout.strip()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder below /tmp that other users may enter, which pytest's own may not be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name == "nt", reason="rights of folders work otherwise there")
def test_a_library_in_a_read_only_folder_can_be_read(open_folder: Path) -> None:
    store = Store(open_folder)
    store.scan({"a": "A"})
    store.catalog.close()
    assert sorted(path.name for path in open_folder.iterdir()) == ["catalog.sqlite"]
    assert read_without_rights(open_folder) == "1"
    assert sorted(path.name for path in open_folder.iterdir()) == ["catalog.sqlite"]


@pytest.mark.skipif(os.name == "nt", reason="rights of folders work otherwise there")
def test_a_log_that_cannot_be_read_is_not_passed_over(open_folder: Path) -> None:
    store = Store(open_folder)
    store.scan({"a": "A"})
    # as after a crash: a log with batches, and no index of it
    copy = open_folder / "copy"
    copy.mkdir()
    for name in ("catalog.sqlite", "catalog.sqlite-wal"):
        shutil.copy(open_folder / name, copy / name)
    store.catalog.close()
    told = read_without_rights(copy)
    assert "catalog.sqlite-wal" in told
    with Reader.open(copy) as reader:  # with the rights to make it
        assert reader.counts().photos == 1


def test_text_vectors_are_cached_by_fingerprint_and_the_oldest_go(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, kept=3)
    assert cache.get("m", "f", "snow") is None
    assert cache.vectors("f", 10).shape == (0, 0)
    for text in ("snow", "sea", "sun"):
        cache.put("m", "f", text, vector_of(text), {})
    found = cache.get("m", "f", "snow")
    assert found is not None
    np.testing.assert_array_equal(found, vector_of("snow"))
    assert cache.get("m", "g", "snow") is None
    cache.put("m", "f", "boat", vector_of("boat"), {})
    assert cache.get("m", "f", "sea") is None  # used least recently
    assert cache.get("m", "f", "snow") is not None
    assert cache.vectors("f", 2).shape == (2, 8)
    cache.put("m", "f", "\udcff", vector_of("boat"), {})  # not text at all: not kept, no error
    assert cache.get("m", "f", "\udcff") is None


def test_text_vectors_are_not_those_of_a_model_whose_files_changed(tmp_path: Path) -> None:
    cache = TextCache(tmp_path)
    weights = tmp_path / "weights"
    weights.write_bytes(b"first")
    before = {str(weights): file_stamp(weights)}
    cache.put("m", "f", "snow", vector_of("snow"), before)
    assert cache.get("m", "f", "snow") is not None
    assert cache.get("copy of m", "f", "snow") is None  # its files are not known
    (tmp_path / "others").write_bytes(b"other")
    (tmp_path / "others").replace(weights)
    assert cache.get("m", "f", "snow") is None
    cache.put("m", "f", "sea", vector_of("sea"), {str(weights): file_stamp(weights)})
    assert cache.get("m", "f", "snow") is not None  # the same by its fingerprint
    weights.unlink()
    assert cache.get("m", "f", "snow") is None


def test_a_text_cache_that_does_not_work_is_no_error(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "nowhere")
    cache.put("m", "f", "snow", vector_of("snow"), {})
    assert cache.get("m", "f", "snow") is None
    cache = TextCache(tmp_path)
    path = tmp_path / "cache" / "texts.sqlite"
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    assert cache.get("m", "f", "snow") is None
    cache.put("m", "f", "snow", vector_of("snow"), {})  # throws the damaged one away
    cache.put("m", "f", "snow", vector_of("snow"), {})
    assert cache.get("m", "f", "snow") is not None
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache.put("m", "f", "sea", vector_of("sea"), {})
        other.rollback()
    other.close()
    assert cache.get("m", "f", "sea") is None


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE text SET vector = zeroblob(32)",
        "UPDATE text SET vector = 'snow'",
        "UPDATE text SET vector = x'0000'",
        "UPDATE model SET files = '[]'",
    ],
)
def test_what_is_no_text_vector_any_more_is_made_anew(tmp_path: Path, damage: str) -> None:
    cache = TextCache(tmp_path)
    cache.put("m", "f", "snow", vector_of("snow"), {})
    with sqlite3.connect(tmp_path / "cache" / "texts.sqlite") as other:
        other.execute(damage)
    other.close()
    assert cache.get("m", "f", "snow") is None
    assert cache.vectors("f", 2).shape in {(0, 0), (1, 8)}
    cache.put("m", "f", "snow", vector_of("snow"), {})
    assert cache.get("m", "f", "snow") is not None


def test_what_a_query_asks_for_is_looked_up_and_never_found_by_reading_all_vectors(
    store: Store,
) -> None:
    store.scan({"2024/a": "A", "b": "B"})
    statements: list[str] = []
    with Reader.open(store.folder) as reader:
        reader.connection.set_trace_callback(statements.append)
        reader.tombstones(store.model.id)
        reader.count_rows(store.model.id)
        reader.counts()
        reader.stored_rows(store.model.id)
        reader.vectors(store.model.id, [0, 1])
        reader.places(store.model.id, [0])
        reader.rows_of_digest(store.model.id, digest("A"))
        for name, value in (("folder", "/photos/2024"), ("after", "2024"), ("camera", "x")):
            reader.rows_matching(store.model.id, [Filter(name, value)])
        reader.connection.set_trace_callback(None)
        assert len(statements) >= 10
        for statement in statements:
            plan = reader.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            scans = [detail for *_, detail in plan if detail.startswith("SCAN embedding")]
            assert all("COVERING INDEX" in detail for detail in scans), (statement, scans)


def test_a_folder_filter_reads_what_lies_in_the_folder_and_no_more(store: Store) -> None:
    places = {"2024/a": "A", "2024/summer/b": "B", "2024!": "C"}
    steps = []
    for others in (1, 30):
        store.scan(places | {f"2023/{number}": f"other {number}" for number in range(others)})
        ticks: list[None] = []
        with Reader.open(store.folder) as reader:
            # It returns None, which lets SQLite go on.
            reader.connection.set_progress_handler(partial(ticks.append, None), 1)
            rows = reader.rows_matching(store.model.id, [Filter("folder", "/photos/2024")])
            assert reader.has_photos_in(store.model.id, "/photos/2024")
            reader.connection.set_progress_handler(None, 1)
        assert rows is not None
        assert len(rows) == 2
        steps.append(len(ticks))
    assert steps[1] == steps[0]
