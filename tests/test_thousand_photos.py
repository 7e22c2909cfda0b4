"""A thousand real photos through the command line, then the changes of a busy week."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import Cli, draw_photo, paths_of


@pytest.fixture(scope="module")
def unpacked(real_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 photos and their captions."""
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(real_photos / "eval" / "flickr8k-1k.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_a_thousand_photos_and_a_busy_week(cli: Cli, unpacked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(unpacked, folder)
    assert "1,000 added" in cli("index", folder).stderr

    # Sixty captions, each from another photo: by chance one would find its photo among the ten.
    captions = {
        file.with_suffix(".jpg"): json.loads(file.read_text())["captions"][0]
        for file in sorted(folder.glob("*.json"))[:600:10]
    }
    found = sum(
        str(photo) in paths_of(cli("query", caption, "-k", 10))
        for photo, caption in list(captions.items())[:20]
    )
    assert found >= 5  # chance is 0.2 of 20; recall@10 is measured by benchmarks/pocket

    photos = sorted(folder.glob("*.jpg"))
    for number, photo in enumerate(photos[:25]):
        kind, turn = divmod(number, 5)
        if kind == 0:
            draw_photo(folder / "new" / f"{turn}.jpg", 200 + turn)
        elif kind == 1:
            draw_photo(photo, 300 + turn)
        elif kind == 2:
            (folder / "moved").mkdir(exist_ok=True)
            photo.rename(folder / "moved" / photo.name)
        elif kind == 3:
            photo.unlink()
        else:
            photo.write_bytes(photo.read_bytes()[:500])
    result = cli("index", "-v")
    assert "5 added, 5 moved, 5 changed, 5 removed, 980 unchanged" in result.stderr
    assert "skipped 5 files" in result.stderr
    problems = {line.split("\t")[0] for line in cli("problems").stdout.splitlines()}
    assert problems == {str(photo) for photo in photos[20:25]}
    state = json.loads(cli("status", "--json").stdout)
    assert state["photos"] == 1000 - 5 - 5 + 5
    # Rows count up with every embedding: 1,000 at first, then five new and five changed photos.
    assert state["models"][0]["photos"] == state["photos"]
    cli("check")
