"""A file on disk to pixels: every format, its colours, its orientation, its digest."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exif_writer import dng_bytes, jpeg_bytes, short, tiff_block
from PIL import Image, ImageCms, PngImagePlugin

from clipsearch.errors import SkippedPhoto
from clipsearch.photos.decode import (
    DecodedPhoto,
    decode_photo,
    default_max_megapixels,
    digest_photo,
)

RED, GREEN, BLUE, YELLOW = (230, 30, 20), (20, 200, 40), (30, 40, 220), (240, 220, 30)


def quarters(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green above; blue, yellow below: tells every turn and flip from every other."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def corners(image: Image.Image) -> list[tuple[int, int, int]]:
    """The colours in the middles of the four quarters, row by row."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    return [
        tuple(int(v) for v in pixels[y, x])
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]


def close(found: list[tuple[int, int, int]], expected: list[Any], tolerance: int = 6) -> bool:
    return bool(np.abs(np.subtract(found, expected)).max() <= tolerance)


def decoded(folder: Path, data: bytes, name: str = "photo", side_px: int = 64) -> DecodedPhoto:
    path = folder / name
    path.write_bytes(data)
    return decode_photo(path, side_px=side_px)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


# Formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 95}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
        ("TIFF", {"big_tiff": True}),
        ("BMP", {}),
        ("JPEG2000", {}),
        ("JPEG2000", {"no_jp2": True}),
        ("PPM", {}),
        ("QOI", {}),
    ],
)
def test_a_format_is_told_by_its_content(
    tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    photo = decoded(tmp_path, saved(quarters(), form, **options), "photo.wrong")
    assert photo.facts.format == form
    assert (photo.facts.width, photo.facts.height) == photo.image.size == (96, 64)
    assert photo.image.mode == "RGB"
    assert close(corners(photo.image), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_of_several_frames_the_first_counts(tmp_path: Path, form: str) -> None:
    others = [Image.new("RGB", (96, 64), "black"), Image.new("RGB", (96, 64), "white")]
    data = saved(quarters(), form, save_all=True, append_images=others)
    photo = decoded(tmp_path, data)
    assert photo.facts.format == form
    assert close(corners(photo.image), [RED, GREEN, BLUE, YELLOW], 12)


def test_a_photoshop_file_gives_its_flat_picture(tmp_path: Path) -> None:
    pixels = np.asarray(quarters()).transpose(2, 0, 1)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 64, 96, 8, 3)
    data = header + struct.pack(">IIIH", 0, 0, 0, 0) + pixels.tobytes()
    photo = decoded(tmp_path, data)
    assert photo.facts.format == "PSD"
    assert corners(photo.image) == [RED, GREEN, BLUE, YELLOW]


def test_heic_is_read_with_its_extra(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    turned = pillow_heif.from_pillow(quarters())
    turned.info["exif"] = b"Exif\0\0" + tiff_block({0x0110: "Acme One", 0x0112: short(6)})
    turned.save(out, quality=95)
    photo = decoded(tmp_path, out.getvalue())
    assert photo.facts.format == "HEIF"
    assert photo.facts.camera == "Acme One"
    # libheif applies the turn that the container states, so EXIF must not turn it once more.
    assert (photo.facts.width, photo.facts.height) == (64, 96)
    assert close(corners(photo.image), [BLUE, RED, YELLOW, GREEN], 12)


def test_heic_without_its_extra_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # which is how an import fails
    header = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(SkippedPhoto) as caught:
        decoded(tmp_path, header + bytes(100), "IMG_1.HEIC")
    assert 'pip install "clipsearch[heif]"' in caught.value.reason


def test_raw_without_its_extra_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(SkippedPhoto) as caught:
        decoded(tmp_path, dng_bytes((64, 48), 1, None), "IMG_1.DNG")
    assert 'pip install "clipsearch[raw]"' in caught.value.reason


@pytest.mark.parametrize("header", [b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"IIU\0\x08\0\0\0"])
def test_raw_files_of_other_makers_are_known_by_their_first_bytes(
    tmp_path: Path, header: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(SkippedPhoto, match="RAW"):
        decoded(tmp_path, header + bytes(100))


def test_raw_gives_its_embedded_preview_first(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    preview = jpeg_bytes(quarters(192, 128), quality=95)
    photo = decoded(tmp_path, dng_bytes((384, 256), 1, preview))
    assert photo.facts.format == "RAW"
    assert (photo.facts.width, photo.facts.height) == (384, 256)
    assert close(corners(photo.image), [RED, GREEN, BLUE, YELLOW], 12)
    assert photo.facts.taken_at == "2021-03-04T05:06:07"
    assert (photo.facts.camera, photo.facts.lens) == ("Acme One", "Acme 35mm")


def test_a_raw_preview_is_turned_upright(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    preview = jpeg_bytes(quarters(192, 128), quality=95)
    photo = decoded(tmp_path, dng_bytes((384, 256), 6, preview))
    assert (photo.facts.width, photo.facts.height) == (256, 384)
    assert close(corners(photo.image), [BLUE, RED, YELLOW, GREEN], 12)


@pytest.mark.parametrize("preview", [None, jpeg_bytes(quarters(48, 32))])
def test_raw_is_developed_where_no_large_preview_is(tmp_path: Path, preview: bytes | None) -> None:
    pytest.importorskip("rawpy")
    photo = decoded(tmp_path, dng_bytes((384, 256), 6, preview))
    assert (photo.facts.width, photo.facts.height) == (256, 384)
    assert photo.image.height > photo.image.width >= 128
    red, green, blue = np.asarray(photo.image).reshape(-1, 3).mean(axis=0)
    assert red > green + 40
    assert red > blue + 40


# Colours -----------------------------------------------------------------------------------------


def slope(bits: int) -> np.ndarray[Any, Any]:
    """(64, 96) from 0 to the greatest value of so many bits, left to right."""
    row = np.linspace(0, 2**bits - 1, 96).astype(np.uint16)
    return np.broadcast_to(row, (64, 96)).copy()


def png_16_bit_rgb(samples: np.ndarray[Any, Any]) -> bytes:
    """Pillow writes no 16-bit colour."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        out += struct.pack(">I", len(content)) + name + content
        out += struct.pack(">I", zlib.crc32(name + content))
    return out


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, form: str) -> None:
    photo = decoded(tmp_path, saved(Image.fromarray(slope(16)), form))
    expected = np.repeat((slope(16) >> 8)[..., None], 3, axis=2)
    assert np.abs(np.asarray(photo.image).astype(int) - expected).max() <= 1


def test_16_bit_colour_png_is_scaled_not_clipped(tmp_path: Path) -> None:
    samples = np.stack([slope(16), slope(16)[:, ::-1], np.full((64, 96), 0x80FF)], axis=2)
    photo = decoded(tmp_path, png_16_bit_rgb(samples))
    assert np.abs(np.asarray(photo.image).astype(int) - (samples >> 8)).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_colour_tiff_is_scaled_not_clipped(tmp_path: Path, order: str) -> None:
    samples = np.stack([slope(16), slope(16)[:, ::-1], np.full((64, 96), 0x80FF)], axis=2)
    from exif_writer import Blob, long

    data = tiff_block(
        {
            0x0100: long(96),
            0x0101: long(64),
            0x0102: short(16, 16, 16),
            0x0103: short(1),
            0x0106: short(2),
            0x0111: Blob(samples.astype(order + "u2").tobytes()),
            0x0115: short(3),
            0x0116: long(64),
            0x0117: long(samples.size * 2),
        },
        order,
    )
    photo = decoded(tmp_path, data)
    assert np.abs(np.asarray(photo.image).astype(int) - (samples >> 8)).max() <= 1


@pytest.mark.parametrize("form", ["TIFF", "PPM"])
def test_floating_samples_from_0_to_1_become_grey(tmp_path: Path, form: str) -> None:
    samples = (slope(16) / 65_535).astype(np.float32)
    photo = decoded(tmp_path, saved(Image.fromarray(samples), form))
    assert np.abs(np.asarray(photo.image)[..., 0] - samples * 255.0).max() <= 1


@pytest.mark.parametrize(
    ("form", "mode", "tolerance"),
    [
        ("JPEG", "L", 4),
        ("PNG", "L", 0),
        ("PNG", "P", 0),
        ("PNG", "1", 255),
        ("TIFF", "CMYK", 1),
        ("JPEG", "CMYK", 6),
        ("TIFF", "LAB", 12),
    ],
)
def test_every_colour_mode_becomes_rgb(
    tmp_path: Path, form: str, mode: str, tolerance: int
) -> None:
    source = quarters().quantize(4) if mode == "P" else quarters().convert(mode)
    photo = decoded(tmp_path, saved(source, form))
    assert photo.image.mode == "RGB"
    expected = quarters().convert("L").convert("RGB") if mode in "L1" else quarters()
    assert close(corners(photo.image), corners(expected), tolerance)


def test_cmyk_goes_through_its_own_profile(tmp_path: Path) -> None:
    # No CMYK profile ships with Pillow, so the one claim to hold here: one that does not fit
    # costs nothing.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for broken in (profile, b"no profile"):
        data = saved(quarters().convert("CMYK"), "TIFF", icc_profile=broken)
        assert close(corners(decoded(tmp_path, data).image), [RED, GREEN, BLUE, YELLOW], 1)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF", "TIFF"])
def test_what_is_transparent_is_white_paper(tmp_path: Path, form: str) -> None:
    image = quarters()
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 48, 32))
    alpha.paste(128, (48, 0, 96, 32))
    image.putalpha(alpha)
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form == "AVIF" else {}
    photo = decoded(tmp_path, saved(image, form, **options))
    half_green = tuple(round(v * 128 / 255 + 255 * 127 / 255) for v in GREEN)
    assert close(corners(photo.image), [(255, 255, 255), half_green, BLUE, YELLOW])


def test_transparent_grey_palette_and_colour_key_are_white_paper(tmp_path: Path) -> None:
    grey = Image.new("LA", (96, 64), (0, 0))
    assert corners(decoded(tmp_path, saved(grey, "PNG")).image) == [(255,) * 3] * 4
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    for form in ("PNG", "GIF"):
        key = palette.getpixel((1, 1))
        shown = corners(decoded(tmp_path, saved(palette, form, transparency=key)).image)
        assert close(shown, [(255,) * 3, GREEN, BLUE, YELLOW])
    keyed = saved(quarters(), "PNG", transparency=RED)
    assert corners(decoded(tmp_path, keyed).image) == [(255,) * 3, GREEN, BLUE, YELLOW]


# Orientation -------------------------------------------------------------------------------------

STORED_TO_SHOWN = {
    1: [RED, GREEN, BLUE, YELLOW],
    2: [GREEN, RED, YELLOW, BLUE],
    3: [YELLOW, BLUE, GREEN, RED],
    4: [BLUE, YELLOW, RED, GREEN],
    5: [RED, BLUE, GREEN, YELLOW],
    6: [BLUE, RED, YELLOW, GREEN],
    7: [YELLOW, GREEN, BLUE, RED],
    8: [GREEN, YELLOW, RED, BLUE],
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("turn", STORED_TO_SHOWN)
def test_a_photo_stands_upright_whatever_its_orientation(
    tmp_path: Path, form: str, turn: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    options: dict[str, Any] = {"exif": exif} if form != "TIFF" else {"tiffinfo": {0x0112: turn}}
    photo = decoded(tmp_path, saved(quarters(), form, **options))
    size = (96, 64) if turn < 5 else (64, 96)
    assert photo.image.size == (photo.facts.width, photo.facts.height) == size
    assert close(corners(photo.image), STORED_TO_SHOWN[turn], 12)


# Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("size", [(1200, 900), (900, 1200), (260, 2000), (100, 80), (1, 300)])
def test_a_picture_keeps_at_least_the_side_and_not_much_more(
    tmp_path: Path, form: str, size: tuple[int, int]
) -> None:
    photo = decoded(tmp_path, saved(quarters(*size), form), side_px=64)
    assert (photo.facts.width, photo.facts.height) == size
    least = 64 if form == "JPEG" else 128
    assert min(least, *size) <= min(photo.image.size) < 2 * least
    ratio = photo.image.width / photo.image.height / (size[0] / size[1])
    assert ratio == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize(
    ("size", "side_px", "expected"),
    [
        ((4000, 3000), 256, (500, 375)),  # 12 megapixels: at an eighth, not at a quarter
        ((2731, 2048), 256, (342, 256)),
        ((2731, 2040), 256, (683, 510)),  # an eighth would be 255
        ((512, 384), 192, (256, 192)),
        ((512, 384), 193, (512, 384)),
    ],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_leaves_the_side(
    tmp_path: Path, size: tuple[int, int], side_px: int, expected: tuple[int, int]
) -> None:
    photo = decoded(tmp_path, saved(quarters(*size), "JPEG"), side_px=side_px)
    assert photo.image.size == expected


def test_reading_smaller_hardly_changes_the_pixels_that_a_model_sees(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((2000, 1500), Image.Resampling.BICUBIC)
    photo = decoded(tmp_path, saved(image, "JPEG", quality=92), side_px=224)
    small = np.asarray(photo.image.resize((299, 224), Image.Resampling.BICUBIC)).astype(int)
    whole = np.asarray(image.resize((299, 224), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(small - whole).mean() < 1.5  # grey levels, JPEG's own error included


def png_header(width: int, height: int) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + bytes(4)


def test_a_gigantic_picture_is_refused_by_its_header_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    header = png_header(65_000, 65_000)
    path.write_bytes(header[:-4] + struct.pack(">I", zlib.crc32(header[12:-4])) + bytes(100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SkippedPhoto, match=r"65,000 x 65,000 .* 4,225 megapixels") as caught:
            decode_photo(path, side_px=64, max_megapixels=500)
    assert "--max-megapixels" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {}) for form in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "JPEG2000")),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": tiff_block({0x0110: "Acme One"})}),  # an extended header
    ],
)
def test_the_megapixel_limit_holds_for_every_format(
    tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "photo"
    path.write_bytes(saved(quarters(200, 150), form, **options))
    with pytest.raises(SkippedPhoto, match=r"more than the limit of 0\.02"):
        decode_photo(path, side_px=64, max_megapixels=0.02)
    decode_photo(path, side_px=64, max_megapixels=0.04)


def test_a_picture_beyond_pillows_own_limit_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (20_000, 9_500)).save(path)  # 190 megapixels; Pillow's error comes at 179
    photo = decode_photo(path, side_px=64, max_megapixels=200)
    assert (photo.facts.width, photo.facts.height) == (20_000, 9_500)


def test_the_default_limit_lets_todays_telephones_in() -> None:
    assert default_max_megapixels() >= 64


# Digest ------------------------------------------------------------------------------------------


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    extra = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return data[:2] + extra + data[2:]


def test_tagging_a_jpeg_again_keeps_its_digest(tmp_path: Path) -> None:
    plain = jpeg_bytes(quarters())
    first = decoded(tmp_path, plain).digest
    assert len(first) == 16
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    for tagged in (
        jpeg_bytes(quarters(), tiff_block({0x010E: "a caption", 0x0112: short(1)})),
        with_segments(plain, (0xE1, xmp), (0xED, b"Photoshop 3.0\0"), (0xFE, b"a comment")),
        jpeg_bytes(quarters(), comment=b"another"),
    ):
        assert tagged != plain
        assert decoded(tmp_path, tagged).digest == first


def test_turning_a_jpeg_by_its_tag_makes_another_photo(tmp_path: Path) -> None:
    digests = {
        decoded(tmp_path, jpeg_bytes(quarters(), tiff_block({0x0112: short(turn)}))).digest
        for turn in range(1, 9)
    }
    assert len(digests) == 8
    assert decoded(tmp_path, jpeg_bytes(quarters())).digest in digests


def test_a_jpeg_said_to_hold_other_colours_has_another_digest(tmp_path: Path) -> None:
    """The same scan is red or green by Adobe's word alone."""
    red = Image.new("RGB", (64, 48), (200, 30, 30))
    red.save(tmp_path / "rgb.jpg", keep_rgb=True)
    data = bytearray((tmp_path / "rgb.jpg").read_bytes())
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for number in range(3):  # 'R', 'G', 'B' would say it too
        data[frame + 10 + 3 * number] = data[scan + 5 + 2 * number] = number + 1
    (tmp_path / "told.jpg").write_bytes(data)
    adobe = data.index(b"\xff\xee")
    length = int.from_bytes(data[adobe + 2 : adobe + 4], "big")
    (tmp_path / "untold.jpg").write_bytes(data[:adobe] + data[adobe + 2 + length :])
    told, untold = (decode_photo(tmp_path / f"{n}.jpg", side_px=32) for n in ("told", "untold"))
    assert told.image is not None
    assert untold.image is not None
    assert told.image.getpixel((5, 5)) != untold.image.getpixel((5, 5))
    assert told.digest != untold.digest
    # What is said of most JPEGs from Photoshop changes nothing.
    data[adobe + 1 + length] = 1
    (tmp_path / "usual.jpg").write_bytes(data)
    assert decode_photo(tmp_path / "usual.jpg", side_px=32).digest == untold.digest


def test_other_pixels_or_other_bytes_make_another_digest(tmp_path: Path) -> None:
    jpeg = jpeg_bytes(quarters())
    assert decoded(tmp_path, jpeg).digest != decoded(tmp_path, jpeg + b"\0").digest
    png = saved(quarters(), "PNG")
    tagged = PngImagePlugin.PngInfo()
    tagged.add_text("Comment", "x")
    assert (
        decoded(tmp_path, png).digest
        != decoded(tmp_path, saved(quarters(), "PNG", pnginfo=tagged)).digest
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "MPO", "WEBP"])
def test_the_digest_can_be_had_without_decoding(tmp_path: Path, form: str) -> None:
    path = tmp_path / "photo"
    path.write_bytes(saved(quarters(), form))
    assert digest_photo(path) == decode_photo(path, side_px=64).digest


def test_a_known_photo_is_not_decoded_and_tells_its_new_facts(tmp_path: Path) -> None:
    first = decoded(tmp_path, jpeg_bytes(quarters()))
    path = tmp_path / "tagged.jpg"
    whole = jpeg_bytes(quarters(), tiff_block({0x0110: "Acme One"}))
    path.write_bytes(whole)
    again = decode_photo(path, side_px=64, is_known=lambda digest: digest == first.digest)
    assert again.image is None
    assert again.facts is not None
    assert again.facts.camera == "Acme One"
    assert (again.facts.width, again.facts.height) == (96, 64)
    assert decode_photo(path, side_px=64, is_known=lambda digest: False).image is not None


# Use ---------------------------------------------------------------------------------------------


def test_a_path_may_be_text_or_bytes_and_need_not_be_utf8(tmp_path: Path) -> None:
    path = bytes(tmp_path) + b'/caf\xe9 [odd] "n".jpg'
    Path(os_text := path.decode("utf-8", "surrogateescape")).write_bytes(jpeg_bytes(quarters()))
    digests = {decode_photo(form, side_px=64).digest for form in (path, os_text, Path(os_text))}
    assert len(digests) == 1


def test_a_decoded_photo_holds_no_part_of_the_file(tmp_path: Path) -> None:
    photo = decoded(tmp_path, jpeg_bytes(quarters(), tiff_block({0x010E: "a" * 9000})))
    assert type(photo.image) is Image.Image
    assert photo.image.info == {}


def test_several_threads_decode_at_a_time(tmp_path: Path) -> None:
    paths = []
    for number in range(24):
        path = tmp_path / str(number)
        form = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF")[number % 6]
        path.write_bytes(saved(quarters(200 + number, 150), form))
        paths.append(path)
    alone = [decode_photo(path, side_px=64) for path in paths]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda path: decode_photo(path, side_px=64), paths * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert (one.digest, one.facts) == (other.digest, other.facts)
        assert one.image.tobytes() == other.image.tobytes()


def test_photos_are_opened_for_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg_bytes(quarters()))
    path.chmod(0o444)
    before = path.stat()
    decode_photo(path, side_px=64)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
