"""JPEGs left to a GPU: which ones, what becomes of their pixels, and when it is not believed.

nvJPEG itself runs in tests/test_gpu.py, where there is a GPU. Here Pillow stands in for it, and
torch does the rest on the CPU: resizing, turning, cropping and padding are what a GPU does too.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_photo
from PIL import Image

from clipsearch.errors import SkippedPhoto
from clipsearch.library.reading import GpuPhotoReader, PhotoReader, ReadPhoto
from clipsearch.models.preprocess import Preprocess
from clipsearch.models.runtimes import gpu_jpeg
from clipsearch.models.runtimes.gpu_jpeg import GpuJpegs
from clipsearch.models.torchvision_shim import import_torchvision
from clipsearch.photos.decode import decode_photo

ORIENTATION = 0x112


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many JPEGs each call of the stand-in got."""
    import_torchvision()
    import torchvision.io

    found: list[int] = []

    def decode_jpeg(contents, mode, device):
        assert device == "cpu"
        found.append(len(contents))
        pictures = []
        for content in contents:
            data = content.numpy().tobytes()
            if b"poison" in data:
                raise RuntimeError("nvjpegDecodeBatched failed")
            pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
            pictures.append(torch.from_numpy(pixels).permute(2, 0, 1))
        return pictures

    monkeypatch.setattr(torchvision.io, "decode_jpeg", decode_jpeg)
    return found


def saved(path: Path, size: tuple[int, int], turn: int = 1, **settings: object) -> Path:
    """A drawn JPEG of this stored size."""
    draw_photo(path, sum(size) + turn, size=size)
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    with Image.open(path) as image:
        image.load()
    image.save(path, exif=exif, **{"quality": 92, **settings})
    return path


def left(path: Path, takes: Callable[[int, int], bool] = lambda width, height: True):
    return decode_photo(path, side_px=64, leaves=takes).encoded


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_pixels_are_the_usual_ones(mode, turn: int, tmp_path: Path, calls: list[int]) -> None:
    preprocess = Preprocess(64, mode, "bilinear" if turn % 2 else "bicubic", fill_color=99)
    jpegs = GpuJpegs(preprocess, device="cpu")
    sizes = [(100, 75), (75, 100), (90, 90), (64, 65), (127, 40), (110, 109)]
    files = [saved(tmp_path / f"{n}.jpg", size, turn) for n, size in enumerate(sizes)]
    found = jpegs.pixels([left(file) for file in files])
    assert calls == [6]
    for file, pixels in zip(files, found, strict=True):
        image = decode_photo(file, side_px=64).image
        assert image is not None
        usual = preprocess.pixels(image)
        assert pixels is not None
        assert (pixels.shape, pixels.dtype) == (usual.shape, usual.dtype)
        levels = np.abs(pixels.astype(int) - usual)
        # Pillow rounds between its two passes.
        assert levels.mean() < 0.5, file
        assert levels.max() <= 8, file


def test_large_photos_are_averaged_first(tmp_path: Path, calls: list[int]) -> None:
    preprocess = Preprocess(64)
    file = saved(tmp_path / "large.jpg", (1500, 1100), 6)
    (pixels,) = GpuJpegs(preprocess, device="cpu").pixels([left(file)])
    image = decode_photo(file, side_px=1 << 20).image
    assert image is not None
    assert pixels is not None
    assert np.abs(pixels.astype(int) - preprocess.pixels(image)).mean() < 1.0


def test_facts_and_digest_are_the_usual_ones(tmp_path: Path) -> None:
    file = saved(tmp_path / "photo.jpg", (120, 80), 6)
    usual = decode_photo(file, side_px=64)
    other = decode_photo(file, side_px=64, leaves=lambda width, height: True)
    assert other.image is None
    assert other.encoded == (file.read_bytes(), 120, 80, 6)
    assert (other.digest, other.facts) == (usual.digest, usual.facts)


def test_only_plain_and_whole_jpegs_are_left(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.jpg", (120, 80))
    data = plain.read_bytes()
    assert left(plain) is not None
    assert left(plain, lambda width, height: (width, height) != (120, 80)) is None
    assert left(saved(tmp_path / "progressive.jpg", (120, 80), progressive=True)) is None
    for mode in ("L", "CMYK"):
        with Image.open(plain) as image:
            image.convert(mode).save(tmp_path / f"{mode}.jpg")
        assert left(tmp_path / f"{mode}.jpg") is None
    with Image.open(plain) as image:
        image.save(tmp_path / "png.jpg", format="PNG")
        image.save(tmp_path / "rgb.jpg", keep_rgb=True)
    assert left(tmp_path / "png.jpg") is None
    assert left(tmp_path / "rgb.jpg") is None  # whose colours were not changed into YCbCr
    long = tmp_path / "long.jpg"
    long.write_bytes(data + bytes(70_000))  # its end may be there, or not
    assert left(long) is None
    followed = tmp_path / "followed.jpg"
    followed.write_bytes(data + b"a film")
    assert left(followed) is not None
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(data[:-40])
    with pytest.raises(SkippedPhoto, match="cut short"):
        left(cut)


def test_sizes_that_a_gpu_is_not_tried_with(calls: list[int]) -> None:
    jpegs = GpuJpegs(Preprocess(64), device="cpu")
    assert jpegs.takes(4000, 3000)
    assert not jpegs.takes(10, 300)
    assert not jpegs.takes(64, 64 * 33)
    assert not jpegs.takes(20_000, 20_000)


def test_one_that_fails_costs_itself_only(tmp_path: Path, calls: list[int]) -> None:
    files = [saved(tmp_path / f"{n}.jpg", (100, 75 + n)) for n in range(5)]
    encoded = [left(file) for file in files]
    encoded[3] = encoded[3]._replace(data=encoded[3].data + b"poison")
    found = GpuJpegs(Preprocess(64), device="cpu").pixels(encoded)
    assert [pixels is None for pixels in found] == [False, False, False, True, False]
    assert calls == [5, 2, 3, 1, 2, 1, 1]


def test_few_pixels_are_decoded_at_a_time(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_jpeg, "_PIXELS_AT_ONCE", 20_000)
    files = [saved(tmp_path / f"{n}.jpg", (100, 75)) for n in range(5)]
    large = saved(tmp_path / "large.jpg", (200, 150))
    found = GpuJpegs(Preprocess(64), device="cpu").pixels([left(one) for one in (*files, large)])
    assert all(pixels is not None for pixels in found)
    assert calls == [2, 2, 1, 1]


class ReaderOnCpu(GpuPhotoReader):
    CHECKED = 4

    def prepare(self) -> None:
        self._gpu = GpuJpegs(self.preprocess, device="cpu")


@pytest.fixture
def reader(calls: list[int]) -> ReaderOnCpu:
    reader = ReaderOnCpu(PhotoReader(Preprocess(64)))
    reader.prepare()
    return reader


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    photos = [saved(tmp_path / f"{n}.jpg", (100, 75 + n), 1 + n) for n in range(8)]
    saved(photos[2], (100, 77), progressive=True)
    odd = tmp_path / "odd.jpg"
    odd.write_bytes(photos[0].read_bytes()[:900])
    return [str(path) for path in (*photos[:4], odd, *photos[4:], tmp_path / "gone.jpg")]


def test_a_reader_believes_the_gpu_after_a_few_photos(
    files: list[str], reader: ReaderOnCpu, calls: list[int]
) -> None:
    usual = PhotoReader(reader.preprocess).read(files)
    first, again = reader.read(files), reader.read(files)
    assert calls == [7, 7]
    for found in (first, again):
        for one, expected in zip(found, usual, strict=True):
            assert type(one) is type(expected)
            if isinstance(one, SkippedPhoto):
                assert str(one) == str(expected)
                continue
            assert (one.digest, one.facts) == (expected.digest, expected.facts)
            assert np.abs(one.pixels.astype(int) - expected.pixels).mean() < 0.5
    equal = [
        isinstance(one, ReadPhoto) and np.array_equal(one.pixels, expected.pixels)
        for one, expected in zip(first, usual, strict=True)
    ]
    assert equal[:4] == [True] * 4  # by both, or by the usual decoder alone
    assert not all(equal[5:-1])


def test_a_gpu_that_gives_other_pixels_is_not_believed(
    files: list[str], reader: ReaderOnCpu, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = GpuJpegs.pixels
    monkeypatch.setattr(
        GpuJpegs,
        "pixels",
        # Red and blue traded, as a decoder might.
        lambda self, jpegs: [one[:, :, ::-1] for one in pixels(self, jpegs)],
    )
    first, again, third = reader.read(files[:4]), reader.read(files[:2]), reader.read(files)
    assert calls == [3, 2]  # none of the third
    usual = PhotoReader(reader.preprocess).read(files)
    expected = [*usual[:4], *usual[:2], *usual]
    for one, other in zip([*first, *again, *third], expected, strict=True):
        assert type(one) is type(other)
        if isinstance(one, ReadPhoto):
            assert np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_a_decoder_that_gives_nothing_is_told_apart(mode, calls: list[int]) -> None:
    jpegs = GpuJpegs(Preprocess(96, mode), device="cpu")
    assert jpegs.works()
    decode = jpegs._decode_jpeg
    jpegs._decode_jpeg = lambda *arguments, **named: [
        0 * one for one in decode(*arguments, **named)
    ]
    assert not jpegs.works()

    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("torchvision was built without nvJPEG")

    jpegs._decode_jpeg = fail
    assert not jpegs.works()


def test_a_gpu_that_stops_working_is_done_without(
    tmp_path: Path, reader: ReaderOnCpu, calls: list[int]
) -> None:
    files = [str(saved(tmp_path / f"{n}.jpg", (100, 75 + n))) for n in range(9)]
    reader.read(files)
    for file in files:
        Path(file).write_bytes(Path(file).read_bytes() + b"poison")
    tried = len(calls)
    found = reader.read(files)
    assert len(calls) == tried + 17  # together, then by halves
    again = reader.read(files)
    assert len(calls) == tried + 17
    for one, other, usual in zip(
        found, again, PhotoReader(reader.preprocess).read(files), strict=True
    ):
        assert np.array_equal(one.pixels, usual.pixels)
        assert np.array_equal(other.pixels, usual.pixels)
