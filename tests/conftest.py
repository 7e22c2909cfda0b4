"""Shared fixtures: folders of real pictures, libraries, the program as its users run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ALBUM = Path(__file__).resolve().parent.parent / "data" / "album"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--photos",
        default=os.environ.get("CLIPSEARCH_TEST_PHOTOS"),
        help="folder of real photos in tars (else CLIPSEARCH_TEST_PHOTOS); without it the tests "
        "that want them are skipped and say so",
    )


@pytest.fixture(scope="session")
def real_photos(request: pytest.FixtureRequest) -> Path:
    """The folder of real photos in tars."""
    given = request.config.getoption("--photos")
    if given is None:
        pytest.skip("needs real photos: pytest --photos=DIR")
    return Path(given).resolve()


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings, models or libraries of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("CLIPSEARCH_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("CLIPSEARCH_LIBRARY", str(home / "library"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("NO_COLOR", "1")


def draw_photo(path: Path, seed: int, *, size: tuple[int, int] = (320, 240)) -> Path:
    """A small JPEG of coloured shapes, another one for every seed."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(v) for v in generator.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = generator.integers(0, size[0]), generator.integers(0, size[1])
        side = int(generator.integers(20, 120))
        colour = tuple(int(v) for v in generator.integers(0, 256, 3))
        shape = pen.ellipse if generator.random() < 0.5 else pen.rectangle
        shape((x, y, x + side, y + side), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=88)
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A dozen photos in three folders."""
    folder = tmp_path / "photos"
    for seed in range(12):
        draw_photo(folder / ("", "2023", "2024/summer")[seed % 3] / f"photo{seed:02}.jpg", seed)
    return folder


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli() -> Cli:
    """Run the program in a process of its own, as its users do."""

    def run(
        *arguments: str | Path, cwd: Path | None = None, check: int | None = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "clipsearch", *map(str, arguments)],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=120,
        )
        if check is not None:
            assert result.returncode == check, f"{result.args}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return run


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """A second model: pocket with its image projection turned about, so that vectors differ."""
    from safetensors.numpy import load_file, save_file

    import clipsearch.models

    source = Path(clipsearch.models.__file__).parent / "pocket"
    target = tmp_path / "other-model"
    target.mkdir()
    shutil.copy(source / "open_clip_config.json", target)
    weights = load_file(source / "open_clip_model.safetensors")
    for name, values in weights.items():
        if name.startswith("visual.head") and values.ndim == 2:
            weights[name] = np.ascontiguousarray(values[::-1])
    save_file(weights, target / "open_clip_model.safetensors")
    return target


def paths_of(result: subprocess.CompletedProcess[str]) -> Sequence[str]:
    """The paths of a query's plain output, best first."""
    return [line.split("\t")[1] for line in result.stdout.splitlines()]
