"""What a camera wrote: read where it is right, passed over where it is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from exif_writer import Blob, Entry, jpeg_bytes, long, rational, short, tiff_block
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from clipsearch.photos.decode import decode_photo
from clipsearch.photos.exif import CameraFacts, camera_facts, orientation
from clipsearch.records import PhotoFacts

IMAGE = Image.new("RGB", (48, 32), (90, 120, 30))
GPS: dict[int, Entry] = {
    1: "N",
    2: rational((47, 1), (22, 1), (1234, 100)),
    3: "E",
    4: rational((8, 1), (32, 1), (30, 1)),
}
FULL: dict[int, Entry] = {
    0x010F: "NIKON CORPORATION",
    0x0110: "NIKON D90",
    0x0132: "2024:01:01 00:00:00",
    0x8769: {
        0x9003: "2023:07:14 19:05:09",
        0x9011: "+02:00",
        0xA434: "AF-S DX NIKKOR 18-105mm f/3.5-5.6G ED VR",
    },
    0x8825: GPS,
}
FACTS = CameraFacts(
    taken_at="2023-07-14T19:05:09",
    taken_offset_minutes=120,
    latitude=pytest.approx(47.370094, abs=1e-6),  # type: ignore[arg-type]
    longitude=pytest.approx(8.541667, abs=1e-6),  # type: ignore[arg-type]
    camera="NIKON D90",
    lens="AF-S DX NIKKOR 18-105mm f/3.5-5.6G ED VR",
)


def facts_of(data: bytes, folder: Path) -> PhotoFacts:
    path = folder / "photo"
    path.write_bytes(data)
    return decode_photo(path, side_px=16).facts


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_facts_of_a_full_block_are_read_in_both_byte_orders(order: str) -> None:
    assert camera_facts(tiff_block(FULL, order)) == FACTS


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "MPO"])
def test_every_format_that_carries_exif_tells_its_facts(tmp_path: Path, form: str) -> None:
    out = io.BytesIO()
    several = {"save_all": True, "append_images": [IMAGE]} if form == "MPO" else {}
    IMAGE.save(out, form, exif=b"Exif\0\0" + tiff_block(FULL), **several)
    assert facts_of(out.getvalue(), tmp_path) == PhotoFacts(48, 32, form, *FACTS)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_tells_its_facts(tmp_path: Path, order: str) -> None:
    picture: dict[int, Entry] = {
        0x0100: long(48),
        0x0101: long(32),
        0x0102: short(8, 8, 8),
        0x0103: short(1),
        0x0106: short(2),
        0x0111: Blob(IMAGE.tobytes()),
        0x0115: short(3),
        0x0116: long(32),
        0x0117: long(48 * 32 * 3),
    }
    assert facts_of(tiff_block(FULL | picture, order), tmp_path) == PhotoFacts(
        48, 32, "TIFF", *FACTS
    )


def test_exif_in_a_png_text_chunk_is_read(tmp_path: Path) -> None:
    block = b"Exif\0\0" + tiff_block(FULL)
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    out = io.BytesIO()
    IMAGE.save(out, "PNG", pnginfo=text)
    assert facts_of(out.getvalue(), tmp_path) == PhotoFacts(48, 32, "PNG", *FACTS)


def taken(main: dict[int, Entry], exif: dict[int, Entry]) -> tuple[Any, Any]:
    facts = camera_facts(tiff_block({**main, 0x8769: exif}))
    return facts.taken_at, facts.taken_offset_minutes


@pytest.mark.parametrize(
    ("main", "exif", "expected"),
    [
        ({}, {0x9003: "2020:02:29 01:02:03"}, ("2020-02-29T01:02:03", None)),
        ({}, {0x9003: "2020-02-29T01:02:03"}, ("2020-02-29T01:02:03", None)),
        ({}, {0x9003: "2020:02:29 01:02"}, ("2020-02-29T01:02:00", None)),
        ({}, {0x9003: "2020:02:29 01:02:03", 0x9011: "-03:30"}, ("2020-02-29T01:02:03", -210)),
        ({}, {0x9003: "2020:02:29 01:02:03", 0x9011: "Z"}, ("2020-02-29T01:02:03", 0)),
        ({}, {0x9003: "2020:02:29 01:02:03", 0x9011: "+99:00"}, ("2020-02-29T01:02:03", None)),
        # an offset belongs to its own time only
        ({}, {0x9003: "2020:02:29 01:02:03", 0x9012: "+01:00"}, ("2020-02-29T01:02:03", None)),
        (
            {0x0132: "2021:01:01 00:00:00"},
            {0x9003: "0000:00:00 00:00:00", 0x9004: "2020:02:29 01:02:03", 0x9012: "+01:00"},
            ("2020-02-29T01:02:03", 60),
        ),
        ({0x0132: "2021:01:01 00:00:00"}, {0x9010: "+01:00"}, ("2021-01-01T00:00:00", 60)),
        ({}, {0x9003: "2021:02:29 01:02:03"}, (None, None)),
        ({}, {0x9003: "    :  :     :  :  "}, (None, None)),
        ({}, {0x9003: "0001:01:01 00:00:00"}, (None, None)),
        ({}, {0x9003: "yesterday"}, (None, None)),
    ],
)
def test_when_a_photo_was_taken(
    main: dict[int, Entry], exif: dict[int, Entry], expected: tuple[Any, Any]
) -> None:
    assert taken(main, exif) == expected


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({1: "S", 3: "W"}, (-47.3700944, -8.5416667)),
        ({2: rational((47, 1), (3, 2))}, (47.025, 8.5416667)),
        ({2: rational((47, 1), (3, 2), (0, 0))}, (47.025, 8.5416667)),
        ({2: rational((0, 1), (0, 1), (0, 1)), 4: rational((0, 1), (0, 1), (0, 1))}, (None, None)),
        ({2: rational((91, 1))}, (None, None)),
        ({2: rational((0, 0))}, (None, None)),
        ({4: rational((181, 1))}, (None, None)),
        ({1: "X"}, (None, None)),
        ({2: "47"}, (None, None)),
    ],
)
def test_where_a_photo_was_taken(
    gps: dict[int, Entry], expected: tuple[float | None, float | None]
) -> None:
    facts = camera_facts(tiff_block({0x8825: GPS | gps}))
    assert (facts.latitude, facts.longitude) == expected


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D90", "NIKON D90"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("Apple  ", " iPhone\x0115 ", "Apple iPhone 15"),
        ("Apple", "", "Apple"),
        ("", "X100", "X100"),
        (" ", "\0", None),
        ("Caméra", "Nº 5", "Caméra Nº 5"),
    ],
)
def test_the_camera_is_named_once(make: str, model: str, camera: str | None) -> None:
    assert camera_facts(tiff_block({0x010F: make, 0x0110: model})).camera == camera


@pytest.mark.parametrize(
    ("exif", "lens"),
    [
        ({0xA434: "EF50mm f/1.8 II"}, "EF50mm f/1.8 II"),
        ({0xA434: "----"}, None),
        ({0xA432: rational((18, 1), (105, 1), (35, 10), (56, 10))}, "18-105mm f/3.5-5.6"),
        ({0xA432: rational((50, 1), (50, 1), (18, 10), (18, 10))}, "50mm f/1.8"),
        ({0xA432: rational((50, 1), (50, 1), (0, 0), (0, 0))}, "50mm"),
        ({0xA432: rational((0, 0), (0, 0), (0, 0), (0, 0))}, None),
    ],
)
def test_the_lens_is_named_or_described(exif: dict[int, Entry], lens: str | None) -> None:
    assert camera_facts(tiff_block({0x8769: exif})).lens == lens


def test_an_orientation_out_of_range_is_upright() -> None:
    assert [orientation(tiff_block({0x0112: short(n)})) for n in (0, 1, 6, 8, 9)] == [1, 1, 6, 8, 1]


def test_directories_that_point_at_themselves_come_to_an_end() -> None:
    block = bytearray(tiff_block({0x8769: {}, 0x8825: {}, 0x0110: "Loop"}))
    first = int.from_bytes(block[4:8], "little")
    for entry in (0, 1, 2):
        at = first + 2 + 12 * entry
        if block[at : at + 2] != b"\x10\x01":
            block[at + 8 : at + 12] = block[4:8]
    assert camera_facts(bytes(block)).camera == "Loop"


@given(st.binary(max_size=400))
@example(b"II*\0\xff\xff\xff\xff")
@example(b"MM\0*\0\0\0\x08\xff\xff")
@settings(deadline=None)
def test_no_bytes_whatever_break_the_reader(block: bytes) -> None:
    for start in (b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        facts = camera_facts(start + block)
        for value in facts:
            assert value is None or isinstance(value, str | int | float)
            str(value).encode()
        assert 1 <= orientation(start + block) <= 8


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_broken_exif_never_costs_the_photo(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    block = bytearray(tiff_block(FULL))
    for _ in range(data.draw(st.integers(1, 12))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    del block[data.draw(st.integers(0, len(block))) :]
    block[:2] = data.draw(st.sampled_from([b"II", b"MM", b"XX", b""]))
    out = io.BytesIO()
    IMAGE.save(out, form, exif=b"Exif\0\0" + bytes(block))
    facts = facts_of(out.getvalue(), tmp_path_factory.getbasetemp())
    assert {facts.width, facts.height} == {48, 32}


def test_huge_counts_and_offsets_are_not_believed(tmp_path: Path) -> None:
    entries = bytearray(tiff_block({0x010F: "Acme", 0x0110: "One", 0x0132: "2021:01:01 00:00:00"}))
    first = int.from_bytes(entries[4:8], "little")
    for entry in range(3):
        entries[first + 2 + 12 * entry + 4 : first + 2 + 12 * entry + 8] = b"\xff" * 4
    assert camera_facts(bytes(entries)) == CameraFacts()
    facts = facts_of(jpeg_bytes(IMAGE, bytes(entries)), tmp_path)
    assert facts == PhotoFacts(48, 32, "JPEG")
