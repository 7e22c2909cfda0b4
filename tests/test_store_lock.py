"""One writer at a time; the lock ends with its process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from clipsearch.errors import LibraryLocked, StorageError
from clipsearch.store.lock import writer_lock

HOLD = """
import sys, time
from pathlib import Path
from clipsearch.store.lock import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        try:
            with pytest.raises(LibraryLocked, match=f"pid {holder.pid}") as caught:
                writer_lock(tmp_path).__enter__()
            assert caught.value.exit_code == 3
            assert "--wait" in str(caught.value.hint)
            started = time.monotonic()
            with pytest.raises(LibraryLocked):
                writer_lock(tmp_path, wait=0.3).__enter__()
            assert 0.25 < time.monotonic() - started < 5
        finally:
            holder.kill()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        waited: list[bool] = []

        def wait() -> None:
            with writer_lock(tmp_path, wait=True):
                waited.append(True)

        waiter = threading.Thread(target=wait)
        waiter.start()
        holder.kill()
        waiter.join(timeout=10)
        assert waited == [True]


def test_two_threads_do_not_share_the_lock_and_it_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            writer_lock(tmp_path),
            pytest.raises(LibraryLocked, match=f"pid {os.getpid()}"),
            writer_lock(tmp_path),
        ):
            pass


def test_a_lock_file_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StorageError):
        writer_lock(tmp_path).__enter__()
