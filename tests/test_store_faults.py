"""Killed, full, read-only: the library is as it was after some batch."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from store_kit import FINGERPRINTS, Store, clustered, entry, fill

from clipsearch.errors import LibraryLocked, StorageError
from clipsearch.store import ann
from clipsearch.store.catalog import Catalog
from clipsearch.store.check import check
from clipsearch.store.failures import UNCHANGED
from clipsearch.store.reader import Reader

posix = pytest.mark.skipif(os.name == "nt", reason="fork, SIGKILL and rights of folders")

# Forks writers that add, move, copy, swap and remove photos, and kills each after a random time.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from store_kit import Store, digest, vector_of
from clipsearch.store.check import check
from clipsearch.store.lock import writer_lock
from clipsearch.store.reader import Reader
import sqlalchemy.dialects.sqlite

folder, kills = Path(sys.argv[2]), int(sys.argv[3])

def write(seed):
    chance = random.Random(seed)
    with writer_lock(folder):
        store = Store(folder)
        while True:
            names = [f"{chance.randrange(4)}/{n}" for n in range(30)]
            store.scan({name: str(chance.randrange(40)) for name in chance.sample(names, 20)})

def look():
    # Every photo has its own vector, every row is a photo's or a tombstone; nothing lies twice.
    findings = check(folder, look_for_photos=False)
    assert findings == [], findings
    contents = {digest(str(n)): str(n) for n in range(40)}
    with Reader.open(folder) as reader:
        connection = reader.connection
        for key, photo_digest, blob in connection.execute(
            "SELECT key, digest, vector FROM embedding JOIN photo ON photo.id = photo_id"
        ):
            assert blob == vector_of(contents[photo_digest]).astype("<f2").tobytes()
        rows = [m.rows for m in reader.models()]
        (lacking,) = connection.execute(
            "SELECT count(*) FROM photo WHERE id NOT IN (SELECT photo_id FROM embedding)"
        ).fetchone()
        assert lacking == 0
        return rows[0] if rows else 0

chance = random.Random(1)
before = 0
committed = 0
Store(folder).catalog.close()
for turn in range(kills):
    child = os.fork()
    if child == 0:
        write(turn)
    time.sleep(chance.uniform(0.02, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rows = look()
    assert rows >= before, "rows were given out again"
    committed += rows > before
    before = rows
print(committed)
"""


@posix
def test_a_library_whose_writer_is_killed_at_any_moment_is_sound(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLS, str(Path(__file__).parent), tmp_path, "30"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10  # the writers really were in the middle of something


def test_a_full_disk_costs_the_batch_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.scan({f"{n}": f"{n}" for n in range(5)})
    driver = store.catalog._driver()
    (pages,) = driver.execute("PRAGMA page_count").fetchone()
    driver.execute(f"PRAGMA max_page_count = {pages + 1}")  # SQLite's own SQLITE_FULL
    scan = store.catalog.begin_scan()
    many = [entry(store.root.id, f"{'long name ' * 20}{n}", f"new {n}") for n in range(500)]
    with pytest.raises(StorageError, match=UNCHANGED) as caught:
        store.catalog.commit_batch(store.model.id, scan, many)
    assert "full" in str(caught.value)
    assert "GB free" in str(caught.value)  # no disk is full here, and none is said to be
    assert "`clipsearch check`" in (caught.value.hint or "")
    assert caught.value.exit_code == 1
    assert store.catalog.count_photos() == 5
    driver.execute("PRAGMA max_page_count = 1000000")
    changes = store.catalog.commit_batch(store.model.id, scan, many)  # goes on there
    assert changes.added == 500
    store.catalog.close()
    assert check(tmp_path, look_for_photos=False) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from store_kit import Store, entry
from clipsearch.errors import StorageError
from clipsearch.store import ann
from clipsearch.store.reader import Reader
folder = Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    if sys.argv[4] == "catalogue":
        store = Store(folder)
        for batch in range(1000):
            scan = store.catalog.begin_scan()
            store.catalog.commit_batch(
                store.model.id,
                scan,
                [entry(store.root.id, f"{batch}/{n}", f"{batch}/{n}") for n in range(50)],
            )
            print(batch + 1, flush=True)
    else:
        with Reader.open(folder) as reader:
            ann.build(folder, reader, reader.models()[0], seed=5)
except StorageError as error:
    print("StorageError:", error)
"""


def run_limited(folder: Path, limit: int, what: str) -> list[str]:
    """What a process prints that may not write files longer than `limit` bytes."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(Path(__file__).parent), folder, str(limit), what],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@posix
def test_writes_that_the_system_refuses_cost_the_batch_only(tmp_path: Path) -> None:
    *batches, told = run_limited(tmp_path, 400_000, "catalogue")
    assert told.startswith("StorageError:")
    assert UNCHANGED in told
    assert check(tmp_path, look_for_photos=False) == []
    with Reader.open(tmp_path) as reader:
        assert reader.counts().photos == 50 * int(batches[-1])


@posix
def test_an_index_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    model = fill(tmp_path, clustered(10_500, 1, 32)[0])
    with Reader.open(tmp_path) as reader:
        ann.build(tmp_path, reader, model)
    folder = tmp_path / "ann" / FINGERPRINTS.image
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (told,) = run_limited(tmp_path, 200_000, "index")
    assert told.startswith("StorageError:")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert check(tmp_path, look_for_photos=False) == []


WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
import sqlalchemy.dialects.sqlite
from clipsearch.errors import ClipsearchError
from clipsearch.store.catalog import Catalog
from clipsearch.store.lock import writer_lock
if os.geteuid() == 0:  # rights do not bind root
    os.seteuid(65534)
for action in (lambda: Catalog.open(Path(sys.argv[1])), writer_lock(Path(sys.argv[1])).__enter__):
    try:
        action()
    except ClipsearchError as error:
        print(type(error).__name__)
"""


@posix
@pytest.mark.parametrize("filled", [True, False])
def test_a_folder_that_may_not_be_written_is_a_storage_error(filled: bool) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if filled:
            Catalog.open(folder).close()
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_RIGHTS, folder],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
        folder.chmod(stat.S_IRWXU)
        assert done.stdout.split() == ["StorageError", "StorageError"]


def test_a_catalogue_that_another_program_holds_is_said_to_be_held(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.catalog._driver().execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None)
    with closing(other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LibraryLocked, match="another program"):
            store.catalog.begin_scan()
        other.execute("ROLLBACK")
    store.catalog.begin_scan()
    store.catalog.close()
