"""The sample album is what its tables say, and its renderer paints the same picture twice."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATA = Path(__file__).resolve().parent.parent / "data"
PHOTOS = sorted((DATA / "album").glob("*.jpg"))


@pytest.fixture(scope="module")
def renderer() -> object:
    sys.path.insert(0, str(DATA))
    try:
        from renderer import album
    finally:
        sys.path.remove(str(DATA))
    return album


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def small(path: Path) -> np.ndarray:
    with Image.open(path) as photo:
        grey = photo.convert("L").resize((16, 16), Image.Resampling.BOX)
        return np.asarray(grey, np.float64)


def test_about_sixty_photos_of_album_size_within_eight_megabytes() -> None:
    assert 55 <= len(PHOTOS) <= 65
    assert sum(path.stat().st_size for path in PHOTOS) <= 8_000_000
    for path in PHOTOS:
        with Image.open(path) as photo:
            assert photo.format == "JPEG"
            assert 640 <= max(photo.size) <= 1600


def test_every_photo_tells_date_place_camera_and_lens() -> None:
    years, orientations = set(), set()
    for path in PHOTOS:
        with Image.open(path) as photo:
            exif = photo.getexif()
        detail, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        years.add(detail[0x9003][:4])
        orientations.add(exif[0x0112])
        assert exif[0x010F]
        assert exif[0x0110]
        assert detail[0xA434]
        assert gps[1] in "NS"
        assert gps[3] in "EW"
        assert 0 <= float(gps[2][0]) <= 90
        assert 0 <= float(gps[4][0]) <= 180
    assert len(years) >= 6
    assert orientations == {1, 6}


def test_no_two_photos_look_alike() -> None:
    thumbs = [small(path) for path in PHOTOS]
    for i, one in enumerate(thumbs):
        for j in range(i):
            assert np.abs(one - thumbs[j]).mean() > 4, (PHOTOS[i].name, PHOTOS[j].name)


def test_every_photo_has_two_captions_of_its_own() -> None:
    captions: dict[str, set[str]] = {}
    for row in rows("pairs.csv"):
        captions.setdefault(row["filepath"], set()).add(row["caption"])
    assert set(captions) == {f"album/{path.name}" for path in PHOTOS}
    assert all(len(own) >= 2 for own in captions.values())
    every = [caption for own in captions.values() for caption in own]
    assert len(every) == len(set(every))


def test_queries_are_25_and_each_names_its_own_photo() -> None:
    queries = rows("queries.csv")
    assert len(queries) == 25
    assert queries[0]["query"] == "sunset over ocean"
    assert len({row["query"] for row in queries}) == 25
    assert len({row["filepath"] for row in queries}) == 25
    assert all((DATA / row["filepath"]).is_file() for row in queries)


def test_a_scene_is_painted_alike_twice_and_is_the_album_s_photo(renderer) -> None:  # type: ignore[no-untyped-def]
    for number in (0, 13, 37):
        once, twice = renderer.paint(number, 0.25), renderer.paint(number, 0.25)
        assert np.array_equal(np.asarray(once), np.asarray(twice))
    assert {f"{shot.name}.jpg" for shot in renderer.SHOTS} == {path.name for path in PHOTOS}


@pytest.mark.parametrize("command", ["training", "products"])
def test_pictures_for_training_come_with_captions_and_repeat(command: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = [command, str(tmp_path / name), "--count", "6", "--seed", "5"]
        subprocess.run([sys.executable, str(DATA / "render.py"), *arguments], check=True)
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert first == second
    assert len(first) == 7
    with (tmp_path / "one" / "pairs.csv").open(encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert {row["filepath"] for row in pairs} == set(first) - {"pairs.csv"}
    assert all(row["caption"].strip() for row in pairs)
