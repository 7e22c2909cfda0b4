"""What runs on a GPU gives what the CPU gives; every test here needs a CUDA device."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_photo, wait_for
from odd_readers import MarkingGpuReader
from PIL import Image
from test_gradcache import assert_same_gradients, gradients, plain_gradients, some_inputs
from tiny_models import VIT, write_model
from tiny_training import tiny_model, tiny_pairs

from clipsearch import Library
from clipsearch.errors import ModelError
from clipsearch.library import indexing
from clipsearch.library.processes import ReaderProcesses
from clipsearch.library.reading import GpuPhotoReader, PhotoReader
from clipsearch.models import LocalEncoder, load_encoder
from clipsearch.models.config import read_config
from clipsearch.models.encoder import unit_rows
from clipsearch.models.preprocess import Preprocess
from clipsearch.models.runtimes.cuda_tower import LARGEST_BATCH, CudaImageTower
from clipsearch.models.runtimes.gpu_jpeg import GpuJpegs
from clipsearch.models.runtimes.torch_towers import TorchImageTower
from clipsearch.photos.decode import decode_photo
from clipsearch.train import Settings, finetune
from clipsearch.train.gradcache import Objective, backward
from clipsearch.train.towers import load_towers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """(24, side, side, 3) uint8 of drawn photos, as pocket wants them."""
    folder = tmp_path_factory.mktemp("drawn")
    preprocess = load_encoder("pocket").preprocess
    pictures = []
    for seed in range(24):
        with Image.open(draw_photo(folder / f"{seed}.jpg", seed)) as image:
            pictures.append(preprocess.pixels(image))
    return np.stack(pictures)


@pytest.fixture(scope="module")
def exact(pixels: np.ndarray) -> np.ndarray:
    """Their vectors by torch on the CPU in fp32."""
    config = read_config(load_encoder("pocket").folder)
    return unit_rows(TorchImageTower(config, device="cpu", precision="fp32")(pixels))


@cache
def on_gpu(precision: str = "bf16", model: str | Path = "pocket") -> LocalEncoder:
    """One for all tests that leave it as it is."""
    return load_encoder(model, device="cuda", precision=precision)


@pytest.mark.parametrize(
    ("precision", "least"),
    [
        # Convolutions in fp32 run as TF32 on tensor cores: 10 bits of mantissa, like fp16's.
        ("fp32", 0.9999),
        ("fp16", 0.9999),
        # 7 bits of mantissa; what the CPU's bf16 may differ by too (tests/test_encoder.py).
        ("bf16", 0.99),
    ],
)
def test_vectors_equal_the_cpus(
    precision: str, least: float, pixels: np.ndarray, exact: np.ndarray
) -> None:
    encoder = on_gpu(precision)
    cosines = (encoder.images(pixels) * exact).sum(axis=1)
    print(f"{precision}: mean {cosines.mean():.6f}, worst {cosines.min():.6f}")
    assert encoder.precision == precision
    assert cosines.min() > least
    assert cosines.mean() > 1 - (1 - least) / 2


def test_whole_batches_in_a_graph_equal_parts_without_one(pixels: np.ndarray) -> None:
    encoder = on_gpu("fp32")
    encoder.load()
    repeats = -(-encoder.batch_size // len(pixels))
    batch = np.concatenate([pixels] * repeats)[: encoder.batch_size]
    # Two lanes take turns; from its second batch on, each replays its graph.
    found = [encoder.images(np.roll(batch, turn, axis=0)) for turn in range(8)]
    few = encoder.images(batch[:5])
    for turn, rows in enumerate(found):
        # Another size of batch may take another kernel, which sums in another order.
        assert (np.roll(rows, -turn, axis=0)[:5] * few).sum(axis=1).min() > 0.9999
    np.testing.assert_allclose(np.roll(found[7], -7, axis=0), found[0], atol=1e-3)  # TF32


def test_a_graph_is_made(pixels: np.ndarray) -> None:
    tower = CudaImageTower(read_config(on_gpu().folder), precision="bf16", lanes=1)
    batch = np.concatenate([pixels] * 11)[: tower.batch_size]
    tower(batch)
    (lane,) = [tower._lanes.get()]
    assert lane._graph is not None


def test_threads_at_once_get_the_rows_of_one(pixels: np.ndarray) -> None:
    encoder = on_gpu("fp32")
    encoder.load()
    size = encoder.batch_size
    generator = np.random.default_rng(0)
    batches = [
        pixels[generator.integers(0, len(pixels), size if turn % 3 else 7)] for turn in range(24)
    ]
    alone = [encoder.images(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(encoder.images, batches))
    assert encoder.batches_at_once == 2
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)  # TF32, eager or in a graph


def test_a_transformer_runs_in_every_precision(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "vit", vision=VIT)
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    expected = unit_rows(
        TorchImageTower(read_config(folder), device="cpu", precision="fp32")(pixels)
    )
    for precision in ("fp32", "fp16", "bf16"):
        rows = on_gpu(precision, folder).images(pixels)
        assert (rows * expected).sum(axis=1).min() > 0.99, precision


def test_texts_on_the_gpu_equal_numpys() -> None:
    texts = ["sunset over ocean", "a dog", "", "two children on a red sofa " * 9]
    expected = load_encoder("pocket", device="cpu").texts(texts)
    assert (on_gpu("fp32").texts(texts) * expected).sum(axis=1).min() > 0.9999
    assert (on_gpu().texts(texts) * expected).sum(axis=1).min() > 0.99


def test_a_folder_is_indexed_and_searched(photo_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.jpg"  # the photo that is asked with is not among its own hits
    with Image.open(photo_folder / "photo00.jpg") as image:
        image.save(again, quality=60)
    with Library.open(tmp_path / "library", device="cuda") as library:
        report = library.index([photo_folder])
        assert report.embedded == 12
        assert not report.skipped
        hits = library.query(image=again, k=3)
        assert hits[0].path.endswith("photo00.jpg")
        assert hits[0].score > 0.95
        assert len(library.query("a picture of shapes", k=5)) == 5


@pytest.fixture
def little_memory():
    """Leave torch some of the GPU's memory, and give it all back afterwards."""

    def leave(more_bytes: int) -> None:
        gc.collect()  # models of other tests would make room meanwhile
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + more_bytes) / total
        )

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_batch_too_large_for_the_gpu_is_halved(little_memory, pixels: np.ndarray) -> None:
    encoder = load_encoder("pocket", device="cuda", precision="fp32")
    encoder.load()
    assert encoder.batch_size == LARGEST_BATCH  # which the limit below does not leave room for
    expected = encoder.images(pixels)
    little_memory(256 << 20)
    batch = np.concatenate([pixels] * 11)[:LARGEST_BATCH]
    rows = encoder.images(batch)
    assert encoder.batch_size < LARGEST_BATCH
    assert (rows[: len(pixels)] * expected).sum(axis=1).min() > 0.9999
    with ThreadPoolExecutor(2) as pool:  # both lanes, in what is left
        for again in pool.map(encoder.images, [batch] * 4):
            assert (again * rows).sum(axis=1).min() > 0.9999


def test_a_model_too_large_for_the_gpu_says_so(little_memory) -> None:
    little_memory(1 << 20)
    with pytest.raises(ModelError, match="not enough memory"):
        load_encoder("pocket", device="cuda", precision="fp32").load()


def test_finetuning_in_mixed_precision_learns(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    pairs = tiny_pairs(tmp_path / "pairs", 96)
    settings = Settings(
        method="full", epochs=2, batch_size=24, micro_batch=12, learning_rate=3e-3, patience=9,
        anchor=0, precision="bf16",
    )  # fmt: skip
    seen = []
    report = finetune(
        pairs, output=tmp_path / "run", model=base, settings=settings, device="cuda",
        progress=seen.append,
    )  # fmt: skip
    assert report is not None
    losses = [step.loss for step in seen]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_gradients_equal_the_whole_batchs(precision: str, tmp_path: Path) -> None:
    towers = load_towers(tiny_model(tmp_path / "tiny"), device="cuda")
    inputs = some_inputs(towers, 24, crops=True)
    for name in ("photos", "captions", "labels", "tokens"):
        setattr(inputs, name, getattr(inputs, name).to("cuda"))
    towers.training_mode()
    if precision == "fp32":
        loss, expected = plain_gradients(towers, inputs)
        tolerance = 1e-4
    else:
        loss = backward(towers, inputs, Objective(), micro_batch=24, precision=precision)
        expected = gradients(towers)
        # Rows of a batch may be summed by another kernel than those of a part of it.
        tolerance = 2e-2
    towers.model.zero_grad()
    mine = backward(towers, inputs, Objective(), micro_batch=5, precision=precision)
    assert mine == pytest.approx(loss, rel=tolerance)
    assert_same_gradients(gradients(towers), expected, tolerance)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of several sizes, lying in all eight ways."""
    folder = tmp_path_factory.mktemp("lying")
    files = []
    for seed in range(48):
        file = draw_photo(folder / f"{seed:02}.jpg", seed, size=(400 + 8 * seed, 420 - 3 * seed))
        exif = Image.Exif()
        exif[0x112] = 1 + seed % 8
        with Image.open(file) as image:
            image.load()
        image.save(file, quality=90, exif=exif)
        files.append(file)
    return files


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_nvjpeg_gives_the_usual_pixels(mode, drawn: list[Path]) -> None:
    preprocess = Preprocess(256, mode)
    jpegs = GpuJpegs(preprocess)
    left = [decode_photo(file, side_px=256, leaves=jpegs.takes).encoded for file in drawn]
    found = jpegs.pixels([one for one in left if one])
    assert len(found) == len(drawn)
    for file, pixels in zip(drawn, found, strict=True):
        image = decode_photo(file, side_px=256).image
        assert image is not None
        assert pixels is not None
        assert np.abs(pixels.astype(int) - preprocess.pixels(image)).mean() < 1.5, file


def test_what_nvjpeg_cannot_decode_costs_itself_only(drawn: list[Path]) -> None:
    jpegs = GpuJpegs(Preprocess(256))
    left = [decode_photo(file, side_px=256, leaves=jpegs.takes).encoded for file in drawn[:6]]
    encoded = [one for one in left if one]
    # Its tables are gone: no decoder can make anything of the scan.
    encoded[2] = encoded[2]._replace(data=encoded[2].data[:200] + b"\xff\xd9")
    found = jpegs.pixels(encoded)
    assert [pixels is None for pixels in found] == [place == 2 for place in range(6)]


def test_processes_with_a_gpu_read_the_usual_pixels(drawn: list[Path]) -> None:
    files = [str(file) for file in drawn]
    preprocess = Preprocess(256, "squash")
    usual = PhotoReader(preprocess).read(files)
    with ReaderProcesses(PhotoReader(preprocess), 1) as readers:
        readers.add(GpuPhotoReader(readers.here), 1)
        wait_for(lambda: readers._extra.qsize() > 0)
        readers.read(files)
        found = readers.read(files)
    differences = [
        np.abs(one.pixels.astype(int) - other.pixels).mean()
        for one, other in zip(found, usual, strict=True)
    ]
    assert max(differences) < 1.5
    assert sum(difference > 0 for difference in differences) > 40  # by the GPU, not as usual


def test_a_long_run_is_read_with_the_gpu(
    tmp_path: Path, drawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LEAST_FILES", "LEAST_FILES_FOR_GPU"):
        monkeypatch.setattr(indexing, name, 1)
    monkeypatch.setattr(indexing, "GpuPhotoReader", MarkingGpuReader)
    add = ReaderProcesses.add

    def add_and_wait(self: ReaderProcesses, reader: PhotoReader, count: int) -> None:
        add(self, reader, count)
        wait_for(lambda: self._extra.qsize() > 0)

    monkeypatch.setattr(ReaderProcesses, "add", add_and_wait)
    with Library.open(tmp_path / "library", device="cuda", threads=4) as library:
        report = library.index([drawn[0].parent])
        assert (report.embedded, report.skipped) == (48, [])
        assert list(drawn[0].parent.glob("*.gpu"))
        for file in drawn[::12]:
            (best,) = library.query(image=file, k=1, include_self=True)
            assert Path(best.path) == file
            assert best.score > 0.99
