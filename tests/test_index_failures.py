"""What fails while photos are read: nothing known is lost, and nothing goes unsaid."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from conftest import draw_photo
from PIL import Image

from clipsearch.errors import StorageError
from clipsearch.library import Library
from clipsearch.photos import decode
from clipsearch.store.known import KnownPhotos


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
        patch.setattr(KnownPhotos, "_finds", failing)
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


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1"
# A TIFF whose only entry is DNG's version.
DNG = b"II*\0\x08\0\0\0\x01\0\x12\xc6\x01\0\x04\0\0\0\x01\x04\0\0" + bytes(4)


def without(monkeypatch: pytest.MonkeyPatch, *extras: str) -> None:
    for extra in extras:
        monkeypatch.setitem(sys.modules, extra, None)  # which is how an import fails


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that are read whole from now on."""
    sizes: list[int] = []
    whole = decode._all_bytes

    def counted(file: int, size: int) -> bytes:
        sizes.append(size)
        return whole(file, size)

    monkeypatch.setattr(decode, "_all_bytes", counted)
    return sizes


def test_what_nothing_here_can_decode_is_not_read_past_its_header(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "pillow_heif", "rawpy")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, header in (("a.heic", HEIC), ("b.dng", DNG), ("c.jxl", b"\xff\x0a")):
        (folder / name).write_bytes(header + os.urandom(3_000_000))
    sizes = read_files(monkeypatch)
    report = library.index([folder])
    assert [reason for _, reason in report.skipped] == [
        decode.HEIF_REASON,
        decode.RAW_REASON,
        "JPEG XL is not supported",
    ]
    assert report.mendable == {decode.HEIF_REASON, decode.RAW_REASON}
    assert len(library.index().skipped) == 2  # no extra brings JPEG XL
    assert len(library.problems()) == 3
    assert sizes == []


def test_a_known_photo_is_followed_also_without_the_extra_it_needed(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = draw_photo(tmp_path / "one.jpg", 5)
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(photo) as image:
        pillow_heif.from_pillow(image).save(folder / "one.heic")
    assert library.index([folder]).added == 1
    (folder / "one.heic").rename(folder / "moved.heic")
    without(monkeypatch, "pillow_heif")
    report = library.index()
    assert (report.moved, report.skipped, report.photos) == (1, [], 1)


def test_the_same_files_skipped_again_are_no_news(library: Library, photo_folder: Path) -> None:
    library.index([photo_folder])
    draw_photo(photo_folder / "large.jpg", 90, size=(640, 480))
    assert library.index(max_megapixels=0.1).changed_anything
    report = library.index(max_megapixels=0.1)
    assert len(report.skipped) == 1
    assert not report.changed_anything
    draw_photo(photo_folder / "larger.jpg", 91, size=(800, 600))
    assert library.index(max_megapixels=0.1).changed_anything
