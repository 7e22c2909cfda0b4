"""The caption that a photo carries already: XMP, IPTC, EXIF, in this order."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from exif_writer import jpeg_bytes, tiff_block
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from clipsearch.errors import SkippedPhoto
from clipsearch.photos.captions import embedded_caption

IMAGE = Image.new("RGB", (24, 16), (90, 120, 30))


def xmp(description: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        f"{description}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()


def xmp_alternatives(**by_language: str) -> bytes:
    items = "".join(
        f'<rdf:li xml:lang="{language.replace("_", "-")}">{text}</rdf:li>'
        for language, text in by_language.items()
    )
    return xmp(f"><dc:description><rdf:Alt>{items}</rdf:Alt></dc:description>")


def iptc(*data_sets: tuple[int, int, bytes]) -> bytes:
    record = b"".join(
        struct.pack(">BBBH", 0x1C, record, number, len(raw)) + raw
        for record, number, raw in data_sets
    )
    named = b"8BIM" + struct.pack(">H", 0x03ED) + b"\x03odd" + struct.pack(">I", 3) + b"abc\0"
    resource = b"8BIM" + struct.pack(">H", 0x0404) + b"\0\0" + struct.pack(">I", len(record))
    return b"Photoshop 3.0\0" + named + resource + record


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    return (
        data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]
    )


def tagged(*, exif: bytes = b"", packet: bytes = b"", resources: bytes = b"") -> bytes:
    data = jpeg_bytes(IMAGE, exif)
    if resources:
        data = with_segment(data, 0xED, resources)
    if packet:
        data = with_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)
    return data


XMP = xmp_alternatives(de="Das Boot", x_default="The boat")
IPTC = iptc((2, 5, b"title"), (2, 120, b"A red boat"))
EXIF = tiff_block({0x010E: "Boat on the lake"})
XP = tiff_block({0x9C9C: "Boot, rot \u2603".encode("utf-16-le") + b"\0\0"})


@pytest.mark.parametrize(
    ("parts", "caption"),
    [
        ({"packet": XMP, "resources": IPTC, "exif": EXIF}, "The boat"),
        ({"resources": IPTC, "exif": EXIF}, "A red boat"),
        ({"exif": EXIF}, "Boat on the lake"),
        ({"exif": XP}, "Boot, rot \u2603"),
        ({}, None),
    ],
)
def test_the_more_deliberate_caption_wins(parts: dict[str, Any], caption: str | None) -> None:
    assert embedded_caption(tagged(**parts)) == caption


@pytest.mark.parametrize(
    ("packet", "caption"),
    [
        (xmp_alternatives(fr="Le bateau", de="Das Boot"), "Le bateau"),
        (xmp(' dc:description="In short form">'), "In short form"),
        (xmp("><dc:description>Plain</dc:description>"), "Plain"),
        (xmp_alternatives(x_default="  two\n  lines &amp; more "), "two lines & more"),
        (xmp_alternatives(x_default=""), None),
        (b"<broken", None),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + XMP, None),
    ],
)
def test_xmp_descriptions_in_every_form(packet: bytes, caption: str | None) -> None:
    assert embedded_caption(tagged(packet=packet)) == caption


def test_iptc_text_is_utf8_or_latin_1() -> None:
    declared = iptc((1, 90, b"\x1b%G"), (2, 120, "Zürich".encode()))
    assert embedded_caption(tagged(resources=declared)) == "Zürich"
    assert embedded_caption(tagged(resources=iptc((2, 120, b"Z\xfcrich")))) == "Zürich"


@pytest.mark.parametrize(
    "text",
    [
        "OLYMPUS DIGITAL CAMERA         ",
        "KONICA MINOLTA DIGITAL CAMERA",
        "KODAK Digital Still Camera",
        "DIGITAL CAMERA",
        "SONY DSC",
        "SAMSUNG CAMERA PICTURES",
        "Exif_JPEG_PICTURE",
        "DCIM\\100MEDIA\\DJI_0042.JPG",
        "dav",
        "cof_mde",
        "Created with GIMP",
        "IMG_20200101.jpg",
        "DSC_1234",
        "...",
        "\0\0",
    ],
)
def test_what_cameras_write_by_themselves_is_no_caption(text: str) -> None:
    assert embedded_caption(tagged(exif=tiff_block({0x010E: text}))) is None


@pytest.mark.parametrize(
    "text",
    [
        "A girl holds a digital camera",
        "Sony, our dog",
        "Photo of my brother",
        "Created by hand: a clay pot",
        "Grandma, 1962",
    ],
)
def test_captions_that_merely_look_alike_stay(text: str) -> None:
    assert embedded_caption(tagged(exif=tiff_block({0x010E: text}))) == text


def test_boilerplate_gives_way_to_the_next_place() -> None:
    block = tiff_block({0x010E: "SONY DSC", 0x9C9C: "The boat".encode("utf-16-le")})
    assert embedded_caption(tagged(exif=block)) == "The boat"


@pytest.mark.parametrize("form", ["PNG", "WEBP", "AVIF"])
def test_other_formats_carry_xmp_and_exif_too(form: str) -> None:
    out = io.BytesIO()
    IMAGE.save(out, form, exif=b"Exif\0\0" + EXIF)
    assert embedded_caption(out.getvalue()) == "Boat on the lake"
    out = io.BytesIO()
    if form == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        IMAGE.save(out, form, pnginfo=text)
    else:
        IMAGE.save(out, form, xmp=XMP)
    assert embedded_caption(out.getvalue()) == "The boat"


def test_a_tiff_carries_all_three() -> None:
    out = io.BytesIO()
    IMAGE.save(out, "TIFF", tiffinfo={0x010E: "Boat on the lake"})
    assert embedded_caption(out.getvalue()) == "Boat on the lake"
    out = io.BytesIO()
    IMAGE.save(out, "TIFF", tiffinfo={0x02BC: XMP, 0x010E: "Boat on the lake"})
    assert embedded_caption(out.getvalue()) == "The boat"


def test_a_caption_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(tagged(packet=XMP))
    assert embedded_caption(tmp_path / "a.jpg") == "The boat"
    (tmp_path / "b.jpg").write_bytes(b"words")
    with pytest.raises(SkippedPhoto):
        embedded_caption(tmp_path / "b.jpg")


def test_bytes_that_are_no_picture_have_no_caption() -> None:
    assert embedded_caption(b"words") is None
    assert embedded_caption(b"") is None


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_damaged_metadata_gives_a_text_or_none(data: st.DataObject) -> None:
    content = bytearray(tagged(packet=XMP, resources=IPTC, exif=EXIF))
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(2, 900))] = data.draw(st.integers(0, 255))
    caption = embedded_caption(bytes(content))
    assert caption is None or caption.strip() == caption != ""
