"""What fails while photos are read: nothing known is lost, and nothing goes unsaid."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipsearch.errors import StorageError
from clipsearch.library import Library
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
