"""Files read by processes of their own give what they give here, whatever becomes of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_photo, wait_for
from odd_readers import (
    CrashingReader,
    FailingReader,
    LateReader,
    MarkingReader,
    UnwillingReader,
)

from clipsearch import Library
from clipsearch.errors import SkippedPhoto
from clipsearch.library import indexing
from clipsearch.library.processes import ReaderProcesses
from clipsearch.library.reading import Found, PhotoReader, ReadPhoto
from clipsearch.models.preprocess import Preprocess
from clipsearch.photos.decode import NotAPhoto
from clipsearch.store.known import KnownPhotos
from clipsearch.store.reader import Reader

PREPROCESS = Preprocess(96, "squash")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Photos, and what is none, with odd names among them."""
    folder = tmp_path / "photos"
    photos = [draw_photo(folder / f"{seed}.jpg", seed) for seed in range(5)]
    photos.append(draw_photo(folder / os.fsdecode(b"caf\xe9 \n.png"), 7))
    cut = folder / "cut.jpg"
    cut.write_bytes(photos[0].read_bytes()[:2000])
    words = folder / "words.txt"
    words.write_text("no picture")
    return [str(path) for path in (*photos, cut, words, folder / "gone.jpg", folder)]


def told(found: Found) -> object:
    """All that a reader says of a file, to be compared."""
    if isinstance(found, SkippedPhoto):
        return type(found), found.path, found.reason, found.hint, found.retry, str(found)
    pixels = found.pixels
    return found.digest, found.facts, None if pixels is None else (pixels.shape, pixels.tobytes())


def test_processes_find_what_the_thread_finds(files: list[str]) -> None:
    here = PhotoReader(PREPROCESS)
    with ReaderProcesses(here, 2) as readers:
        found = readers.read(files)
        assert len(readers._alive) == 1  # or all would have been read here
        assert [told(one) for one in found] == [told(one) for one in here.read(files)]
    assert [isinstance(one, ReadPhoto) for one in found] == [True] * 6 + [False] * 4
    assert isinstance(found[7], NotAPhoto)
    assert all(one.pixels.dtype == np.uint8 for one in found[:6])


def test_a_limit_and_its_hint_reach_the_processes(files: list[str]) -> None:
    here = PhotoReader(PREPROCESS, max_megapixels=0.01)
    with ReaderProcesses(here, 1) as readers:
        (found,) = readers.read(files[:1])
        assert readers._alive
    assert isinstance(found, SkippedPhoto)
    assert "more than the limit of 0.01" in found.reason
    assert "--max-megapixels" in (found.hint or "")


def test_many_threads_each_get_their_own_answers(files: list[str]) -> None:
    here = PhotoReader(PREPROCESS)
    groups = [files[start : start + 1 + start % 4] for start in range(10)] * 6
    with ReaderProcesses(here, 3) as readers, ThreadPoolExecutor(5) as pool:
        found = list(pool.map(readers.read, groups))
        assert len(readers._alive) == 3
    for group, answers in zip(groups, found, strict=True):
        assert [told(one) for one in answers] == [told(one) for one in here.read(group)]


def test_pixels_of_known_photos_are_not_decoded(tmp_path: Path, files: list[str]) -> None:
    library = tmp_path / "library"
    Library.open(library).index([Path(files[0]).parent])
    new = draw_photo(tmp_path / "new.jpg", 60)
    with Reader.open(library) as reader:
        model = reader.active_model()
    assert model is not None
    here = PhotoReader(PREPROCESS, known=KnownPhotos(library, model.id))
    with ReaderProcesses(here, 1) as readers:
        found = readers.read([files[0], str(new)])
        assert readers._alive
    assert found[0].pixels is None
    assert found[1].pixels is not None


def test_a_file_that_crashes_its_process_costs_itself_only(tmp_path: Path) -> None:
    names = ["0", "twice", "1", "always", "2", "always-too"]
    files = [str(draw_photo(tmp_path / f"{name}.jpg", seed)) for seed, name in enumerate(names)]
    here = CrashingReader(PREPROCESS)
    with ReaderProcesses(here, 1) as readers:
        found = readers.read(files)
        again = readers.read(files[:1])
        alone = readers.read(files[3:4])
    lost = [Path(one.path).stem for one in found if isinstance(one, SkippedPhoto)]
    assert lost == ["always", "always-too"]
    # The next run may be a short one, which reads in its own process.
    assert not found[3].retry
    assert "crash" in found[3].reason
    assert told(alone[0]) == told(found[3])
    assert told(found[0]) == told(again[0]) == told(PhotoReader(PREPROCESS).read(files[:1])[0])


def test_an_error_that_is_no_photos_fault_is_met_here(files: list[str]) -> None:
    here = FailingReader(PREPROCESS)
    with ReaderProcesses(here, 1) as readers:
        assert [told(one) for one in readers.read(files)] == [told(one) for one in here.read(files)]
        assert readers._alive


def test_those_added_come_first(files: list[str]) -> None:
    with ReaderProcesses(PhotoReader(PREPROCESS), 2) as readers:
        readers.add(MarkingReader(PREPROCESS), 2)
        wait_for(lambda: readers._extra.qsize() == 2)
        found = readers.read(files[:3])
        assert [told(one) for one in found] == [
            told(one) for one in PhotoReader(PREPROCESS).read(files[:3])
        ]
        assert readers._usual.qsize() == 2
        assert len(readers._alive) == 2
    assert Path(files[0] + ".read").exists()


def test_one_added_that_is_lost_is_done_without_and_no_other_with_it(tmp_path: Path) -> None:
    files = [str(draw_photo(tmp_path / f"{name}.jpg", 1)) for name in ("0", "always", "2")]
    usual = PhotoReader(PREPROCESS)
    with ReaderProcesses(usual, 1) as readers:
        readers.add(CrashingReader(PREPROCESS), 2)
        readers.add(UnwillingReader(PREPROCESS), 1)
        wait_for(lambda: readers._extra.qsize() == 2)
        found = readers.read(files)
        assert readers._extra.qsize() == 1
        assert [told(one) for one in found] == [told(one) for one in usual.read(files)]


@pytest.mark.parametrize("busy", [False, True])
def test_leaving_waits_for_nobody(files: list[str], busy: bool) -> None:
    here = MarkingReader(PREPROCESS)
    here.seconds = 60
    with ThreadPoolExecutor(1) as pool:
        with ReaderProcesses(here, 1) as readers:
            if busy:
                reading = pool.submit(readers.read, files)
                wait_for(Path(files[0] + ".read").exists)
            else:
                readers.add(LateReader(PREPROCESS), 2)
                wait_for(lambda: len(readers._alive) == 2)
            started = time.monotonic()
        if busy:
            with pytest.raises(CancelledError):
                reading.result()
    assert time.monotonic() - started < 30
    wait_for(lambda: not readers._alive)


def test_modules_in_the_current_folder_are_not_run(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("pickle", "struct", "clipsearch"):
        (folder / f"{name}.py").write_text("open('was-run', 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(folder)
    with ReaderProcesses(PhotoReader(PREPROCESS), 1) as readers:
        readers.read(files[:1])
        assert readers._alive
    assert not (folder / "was-run").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_an_interrupt_is_for_the_one_that_asks(tmp_path: Path) -> None:
    script = (
        f"import os, signal, sys; sys.path = {sys.path!r}\n"
        "from clipsearch.library.processes import ReaderProcesses\n"
        "from clipsearch.library.reading import PhotoReader\n"
        "from clipsearch.models.preprocess import Preprocess\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "readers = ReaderProcesses(PhotoReader(Preprocess(96)), 1)\n"
        "from clipsearch.library import processes\n"
        "began = processes._Process.begin\n"
        "def begin(self, reader):\n"
        "    os.killpg(0, signal.SIGINT)\n"  # to all of the group, as a terminal does
        "    began(self, reader)\n"
        "processes._Process.begin = begin\n"
        "with readers:\n"
        f"    found = readers.read([{str(draw_photo(tmp_path / 'a.jpg', 1))!r}])\n"
        "    assert readers._alive and found[0].pixels is not None\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_where_no_process_starts_files_are_read_here(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    here = PhotoReader(PREPROCESS)
    with ReaderProcesses(here, 2) as readers:
        assert [told(one) for one in readers.read(files)] == [told(one) for one in here.read(files)]


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    status = Path(f"/proc/{process}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
@pytest.mark.parametrize("way", ["closed", "killed"])
def test_processes_end_with_the_one_that_asked(tmp_path: Path, way: str) -> None:
    file = draw_photo(tmp_path / "photo.jpg", 1)
    seen = Path(f"{file}.read")
    if way == "closed":
        with ReaderProcesses(MarkingReader(PREPROCESS), 1) as readers:
            readers.read([str(file)])
    else:
        script = (
            f"import os, sys; sys.path = {sys.path!r}\n"
            "from odd_readers import MarkingReader\n"
            "from clipsearch.library.processes import ReaderProcesses\n"
            "from clipsearch.models.preprocess import Preprocess\n"
            "readers = ReaderProcesses(MarkingReader(Preprocess(96)), 1)\n"
            f"readers.read([{str(file)!r}])\n"
            "os.kill(os.getpid(), 9)\n"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    process = int(seen.read_text())
    assert process != os.getpid()
    wait_for(lambda: not alive(process))


@pytest.mark.parametrize("processes", [False, True])
def test_processes_read_where_they_pay(
    processes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many files, many cores, and a tower that takes more than threads can read."""
    asked: list[int] = []
    read = ReaderProcesses.read
    monkeypatch.setattr(
        ReaderProcesses, "read", lambda self, paths: asked.append(len(paths)) or read(self, paths)
    )
    for seed in range(40):
        draw_photo(tmp_path / "photos" / f"{seed}.jpg", seed)
    monkeypatch.setattr(indexing, "LEAST_FILES", 40 if processes else 41)
    monkeypatch.setattr(indexing, "LEAST_PROCESSES", 2)
    monkeypatch.setattr(indexing, "FAST_DEVICES", ("cpu",))
    Library.open(tmp_path / "library", threads=2).index([tmp_path / "photos"])
    assert asked == ([32, 8] if processes else [])


def test_a_library_made_by_processes_is_the_same(
    tmp_path: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Indexed, indexed again after changes, and embedded again by another model."""
    outcomes = []
    for name in ("threads", "processes"):
        folder = tmp_path / name / "photos"
        for seed in range(40):  # some of them twice
            draw_photo(folder / f"{seed % 3}" / f"{seed:02}.jpg", seed % 33)
        (folder / "0" / "cut.jpg").write_bytes((folder / "0" / "00.jpg").read_bytes()[:1500])
        if name == "processes":
            monkeypatch.setattr(indexing.IndexRun, "_best", lambda self, readers, files: readers)
        library = Library.open(tmp_path / name / "library", threads=2)
        reports = [library.index([folder])]
        (folder / "1" / "01.jpg").rename(folder / "2" / "moved.jpg")
        draw_photo(folder / "2" / "02.jpg", 50)
        draw_photo(folder / "new.jpg", 51)
        reports.append(library.index())
        (folder / "0" / "03.jpg").write_text("no longer what it was")
        reports.append(library.index(model=str(other_model)))
        counts = [
            (one.added, one.copied, one.moved, one.changed, one.embedded, one.unchanged)
            for one in reports
        ]
        skipped = [(Path(path).name, reason) for path, reason in reports[-1].skipped]
        hits = library.query(image=folder / "new.jpg", k=50)
        found = [(Path(hit.path).name, round(hit.score, 3)) for hit in hits]
        outcomes.append((counts, skipped, sorted(found)))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][2]) == 34
