"""What fails while photos are read: nothing known is lost, and nothing goes unsaid."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from clipsearch.errors import StorageError
from clipsearch.library import Library
from clipsearch.photos import decode
from clipsearch.store.catalog import Catalog


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library.open(tmp_path / "library")


def test_a_catalogue_that_fails_is_not_taken_for_a_damaged_photo(
    library: Library, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index([photo_folder])
    os.utime(photo_folder / "photo00.jpg")

    def failing(*_: object) -> None:
        raise StorageError("the disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "_ask", failing)
        with pytest.raises(StorageError):
            library.index()
    report = library.index()
    assert (report.touched, report.embedded, report.photos) == (1, 0, 12)
    assert library.problems() == []


def failing_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every read fails, as from a disk that is dying or was pulled out."""

    def failing(file: int, size: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(decode, "_all_bytes", failing)


def test_a_known_photo_that_cannot_be_read_for_now_is_kept(
    library: Library, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.index([photo_folder])
    touched, gone = photo_folder / "photo00.jpg", photo_folder / "photo03.jpg"
    os.utime(touched)
    os.utime(gone)
    reason = "it cannot be read (input/output error)"
    with monkeypatch.context() as patch:
        failing_disk(patch)
        report = library.index()
        assert (report.photos, report.removed) == (12, 0)
        assert report.skipped == [(str(touched), reason), (str(gone), reason)]
        assert library.problems() == report.skipped
        assert str(touched) in {hit.path for hit in library.query("a photo", k=20)}
    gone.unlink()
    report = library.index()
    assert (report.touched, report.removed, report.embedded, report.photos) == (1, 1, 0, 11)
    assert library.problems() == []


def test_a_new_photo_that_cannot_be_read_for_now_is_tried_again(
    library: Library, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing_disk(patch)
        assert len(library.index([photo_folder]).skipped) == 12
    assert library.index().added == 12
    assert library.problems() == []


def rot(photo: Path) -> None:
    """Spoil a file without a trace in its size and its date."""
    before = photo.stat()
    with photo.open("r+b") as file:
        file.seek(200)
        file.write(bytes(before.st_size - 200))
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_photo_that_rotted_is_named_when_it_must_be_embedded_again(
    library: Library, photo_folder: Path
) -> None:
    library.index([photo_folder])
    with sqlite3.connect(library.folder / "catalog.sqlite") as catalog:
        (path,) = catalog.execute(
            "SELECT relative_path FROM file JOIN embedding USING (photo_id) WHERE row = 1"
        ).fetchone()
        catalog.execute("UPDATE embedding SET vector = zeroblob(length(vector)) WHERE row = 1")
    photo = photo_folder / path.decode()
    whole = photo.read_bytes()
    rot(photo)
    library.check(repair=True)
    for _ in range(2):
        report = library.index()
        assert [path for path, _ in report.skipped] == [str(photo)]
        assert report.photos == 11
        assert library.problems() == report.skipped
    status = library.status()
    assert (status.photos, status.models[0].photos) == (12, 11)
    assert library.check() == []
    photo.write_bytes(whole)
    assert (library.index().embedded, library.problems()) == (1, [])


def test_a_photo_that_keeps_a_model_from_taking_over_is_named_and_kept(
    library: Library, photo_folder: Path, other_model: Path
) -> None:
    library.index([photo_folder])
    photo = photo_folder / "photo00.jpg"
    rot(photo)
    shutil.copy(photo_folder / "photo03.jpg", photo_folder / "copy.jpg")
    report = library.index(model=str(other_model))
    assert [path for path, _ in report.skipped] == [str(photo)]
    assert library.problems() == report.skipped
    ((message, hint),) = report.warnings
    assert "pocket still answers" in message
    assert "`clipsearch problems`" in (hint or "")
    assert "disks" not in (hint or "")
    assert str(photo) in {hit.path for hit in library.query("a photo", k=20)}
    library.index()  # with pocket, which lacks nothing
    assert library.problems() == []
    assert library.remove([photo]) == (1, 1)
    assert library.index(model=str(other_model)).model == str(other_model)
