"""What keeps the program quick, as counts that are the same on every machine.

How long anything takes is measured in `benchmarks/`; nothing here looks at a clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_photo
from PIL import Image, JpegImagePlugin

from clipsearch.library import Library, pipeline, reading
from clipsearch.library.pipeline import Pipeline, Reading
from clipsearch.models import encoder
from clipsearch.models.encoder import LocalEncoder
from clipsearch.models.preprocess import Preprocess
from clipsearch.models.runtimes import openvino_core
from clipsearch.photos import decode
from clipsearch.store.catalog import Catalog
from clipsearch.store.reader import Reader

PHOTOS = 23


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(PHOTOS):
        draw_photo(folder / f"{number % 3}" / f"{number:02}.jpg", number)
    return folder


@pytest.fixture
def library(tmp_path: Path, photos: Path) -> Library:
    library = Library.open(tmp_path / "library", threads=1)
    library.index([photos])
    return library


class Counter:
    """Calls that were let through, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.calls: dict[str, int] = {}
        self.sizes: list[int] = []

    def count(self, owner: object, name: str, size=lambda *arguments: 0) -> None:
        original = getattr(owner, name)

        def counted(*arguments, **settings):
            self.calls[name] = self.calls.get(name, 0) + 1
            result = original(*arguments, **settings)
            self.sizes.append(size(*arguments, result))
            return result

        self._monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def test_each_photo_is_decoded_once_and_encoded_in_whole_batches(
    tmp_path: Path, photos: Path, counter: Counter
):
    counter.count(decode, "_decode")
    counter.count(LocalEncoder, "images")
    library = Library.open(tmp_path / "library", threads=1)
    library.index([photos])
    size = library._encoder("pocket").batch_size
    assert counter.calls == {"_decode": PHOTOS, "images": -(-PHOTOS // size)}


def test_a_photo_is_read_once_and_no_byte_twice_but_its_header(
    tmp_path: Path, photos: Path, counter: Counter
):
    counter.count(decode.os, "read", size=lambda file, count, data: len(data))
    for photo in sorted(photos.rglob("*.jpg")):
        decode.decode_photo(photo, side_px=64)
    total = sum(photo.stat().st_size for photo in photos.rglob("*.jpg"))
    assert counter.calls == {"read": 2 * PHOTOS}
    assert sum(counter.sizes) <= total + PHOTOS * 512


def test_a_jpeg_is_handed_to_its_decoder_at_once(tmp_path: Path, counter: Counter):
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(noise).save(photo, quality=95)
    assert photo.stat().st_size > 4 * 65536  # Pillow's own piece
    counter.count(JpegImagePlugin.JpegImageFile, "load_read")
    decode.decode_photo(photo, side_px=260)
    assert counter.calls == {"load_read": 1}


def test_unchanged_files_are_neither_opened_nor_loaded_a_model_for(
    library: Library, photos: Path, counter: Counter
):
    counter.count(reading, "decode_photo")
    counter.count(decode.os, "read")
    counter.count(LocalEncoder, "_openvino_tower")
    for photo in list(photos.rglob("*.jpg"))[:5]:
        photo.rename(photo.with_name("moved-" + photo.name))
    again = Library.open(library.folder, threads=1)
    report = again.index()
    assert report.moved == 5
    # A moved file is read for its digest; its picture is not needed. The first is read twice: it
    # tells whether to load the model while the other files are still being looked at.
    assert counter.calls == {"decode_photo": 5, "read": 12}


def test_a_look_that_finds_nothing_new_does_not_look_for_a_gpu(library: Library, counter: Counter):
    counter.count(encoder, "resolve_device")  # which imports torch where there is a sign of one
    report = Library.open(library.folder, threads=1).index()
    assert report.unchanged == PHOTOS
    assert counter.calls == {}


def test_the_model_is_loaded_while_files_are_looked_at_and_compiled_once(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = threading.Event()
    compiled: list[str] = []
    found: list[int] = []
    compile_tower, compare_folder = openvino_core.compile_tower, Catalog.compare_folder

    def counted(graph, precision, **settings):
        compiled.append(precision)
        loaded.set()
        return compile_tower(graph, precision, **settings)

    def compared(*arguments):
        # Photos were found: the model must come without this walk going on.
        assert not sum(found) or loaded.wait(60)
        changes = compare_folder(*arguments)
        found.append(len(changes.to_read))
        return changes

    monkeypatch.setattr(openvino_core, "compile_tower", counted)
    monkeypatch.setattr(Catalog, "compare_folder", compared)
    Library.open(tmp_path / "library", threads=1, precision="fp32").index([photos])
    assert compiled == ["fp32"]


class BlockedEncoder:
    """Two pictures at a time; does not begin before `expected` pictures were read."""

    batches_at_once = 1
    batch_size = 2
    preprocess = Preprocess(size=4)

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._read = threading.Condition()
        self.read = 0
        self.ahead: list[int] = []
        self.encoded = 0

    def note(self) -> None:
        with self._read:
            self.read += 1
            self._read.notify_all()

    def images(self, pixels: list[np.ndarray]) -> np.ndarray:
        with self._read:
            assert self._read.wait_for(lambda: self.read >= self._expected, 60)
            self.ahead.append(self.read - self.encoded)
        self.encoded += len(pixels)
        return np.ones((len(pixels), 3), np.float32)


def test_more_is_read_ahead_while_the_tower_is_loaded_and_never_more_later(
    monkeypatch: pytest.MonkeyPatch,
):
    picture = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(pipeline, "_BYTES_AT_FIRST", 20 * picture.nbytes)
    blocked = BlockedEncoder(20)

    def read(jobs: list[int]) -> list[Reading[int]]:
        blocked.note()
        return [Reading(job, digest=b"%d" % job, pixels=picture) for job in jobs]

    with Pipeline[int](blocked, threads=2) as running:
        batches = list(running.run(range(200), read))
    assert [one.job for batch in batches for one in batch] == list(range(200))
    assert max(blocked.ahead) <= 20
    # Three batches that wait to be taken, three that are read ahead, and one in each thread's hand.
    assert max(blocked.ahead[20:]) <= 2 * (3 + 3) + 2


def test_looking_again_takes_as_many_statements_for_many_files_as_for_few(tmp_path: Path):
    def statements(files: int) -> int:
        folder = tmp_path / f"{files}"
        photos = folder / "photos"
        for number in range(files):
            path = photos / f"{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no picture")
        library = Library.open(folder / "library", threads=1)
        library.index([photos])
        seen: list[str] = []
        original = Catalog.open.__func__

        def traced(cls, place):
            catalog = original(cls, place)
            catalog._driver().set_trace_callback(seen.append)
            return catalog

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Catalog, "open", classmethod(traced))
            library.index()
        return len(seen)

    assert statements(400) == statements(10)


QUERY = """
import sys
from clipsearch.cli.run import run
assert run(['query', 'sea', '--library', sys.argv[1]]) == 0
modules = {name for name in sys.modules}
threads = len(__import__('os').listdir('/proc/self/task')) if sys.platform == 'linux' else 1
print(threads, *modules, file=sys.stderr)
"""


def test_a_query_starts_no_thread_and_few_imports(library: Library):
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    for _ in range(2):  # the second run finds the text's vector in the cache
        done = subprocess.run(
            [sys.executable, "-c", QUERY, str(library.folder)],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        threads, *modules = done.stderr.splitlines()[-1].split()
        assert threads == "1"
        # 130 of them are numpy's. Each module of its own costs about 0.3 ms.
        ours_and_standard = [name for name in modules if not name.startswith("numpy")]
        assert len(ours_and_standard) < 200, sorted(ours_and_standard)


def test_a_text_query_reads_only_the_rows_of_its_words(
    library: Library, monkeypatch: pytest.MonkeyPatch
):
    """The token table is half of the text tower; a query maps it and touches its own words."""
    from clipsearch.models.weights import WeightsFile

    touched: list[int] = []
    original = WeightsFile.float32

    def counted(self, name, rows=None):
        found = original(self, name, rows)
        if name.endswith("token_embedding.weight"):
            touched.append(len(found))
        return found

    monkeypatch.setattr(WeightsFile, "float32", counted)
    library.query("two dogs on a beach")
    assert touched == [7]


def test_a_folder_that_was_asked_for_is_worked_out_once(
    library: Library, photos: Path, counter: Counter
):
    counter.count(Reader, "rows_matching")
    assert library.query("sea", folder=photos)
    assert counter.calls == {"rows_matching": 1}
