"""The caption that a photo carries already, written by its owner or by a photo program."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from clipsearch.photos import exif, jpeg
from clipsearch.photos.decode import exif_block, opened_picture, read_photo

_DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_IPTC_RESOURCE = 0x0404
_CAPTION_ABSTRACT = b"\x1c\x02\x78"  # record 2, data set 120
_IS_UTF8 = b"\x1c\x01\x5a\x00\x03\x1b%G"  # record 1, data set 90: coded character set

# What cameras and programs put there of their own accord; compared without case.
_BRAND = (
    r"(olympus|(konica\s+)?minolta|kodak|sony|samsung|ricoh|pentax|canon|nikon|fujifilm|casio|"
    r"panasonic|hp|lg|htc|nokia|motorola|vivitar|polaroid|jenoptik|sanyo|toshiba|epson|concord)"
)
_BOILERPLATE = re.compile(
    rf"""
    ({_BRAND}(\s+\S+){{0,3}}\s+)?digital\s+(still\s+)?camera\W*  # OLYMPUS DIGITAL CAMERA
    | {_BRAND}(\s+(dsc|camera|pictures?|corporation))*\W*         # SONY DSC
    | exif_jpeg_picture | jpeg\s+picture | default | untitled | screenshot | image | photo | picture
    | ((dav|cof|sdr|hdr|mde|ptrs?|oznor|btf|edf|nor|rbt|rhdr|fbt|mtk|bty|rpt)_?)+  # Huawei's modes
    | dcim\W.* | (created|processed|edited)\s+with\b.* | charset=.*
    | \W* | \d+ | (img|dscn?|dscf|pict|p)_?\d+(\.\w+)?            # numbers, its own file name
    """,
    re.VERBOSE | re.IGNORECASE,
)


def embedded_caption(photo: bytes | Path | str) -> str | None:
    """The caption in a photo's metadata, as one line of text; None if there is none.

    Looked for in this order, the more deliberate first: XMP `dc:description` (its default
    language), IPTC Caption/Abstract (2:120), EXIF ImageDescription, Windows' XPComment. A text
    that cameras and programs put there by themselves ('OLYMPUS DIGITAL CAMERA') is passed over.

    Args:
        photo: the bytes of the file, or its path.
    Raises:
        SkippedPhoto: the file at that path cannot be read, or holds no picture.
    """
    data, kind = read_photo(photo)
    packet, iptc, block = _metadata(data, kind)
    main = exif.Directory.first(block)
    for text in (
        _xmp_description(packet),
        _iptc_caption(iptc),
        main.text(exif.IMAGE_DESCRIPTION),
        main.raw(exif.XP_COMMENT).decode("utf-16-le", "ignore").split("\0", 1)[0],
    ):
        caption = exif.one_line(text or "")
        if caption and not _BOILERPLATE.fullmatch(caption):
            return caption
    return None


def _metadata(data: bytes, kind: str) -> tuple[bytes, bytes, bytes]:
    """XMP packet, IPTC record and EXIF's TIFF block; each b'' if there is none."""
    if kind == "JPEG":
        return (
            jpeg.payload(data, jpeg.APP1, jpeg.XMP) or b"",
            _photoshop_iptc(jpeg.payload(data, jpeg.APP13, jpeg.PHOTOSHOP) or b""),
            exif_block(data, kind, {}),
        )
    if kind in ("TIFF", "RAW"):
        main = exif.Directory.first(data)
        return main.raw(exif.XMP_PACKET), main.raw(exif.IPTC_RECORD), data
    if kind not in ("PNG", "WEBP", "AVIF", "HEIF"):
        return b"", b"", b""
    # A picture that does not decode may still have a caption, but nobody needs it then.
    try:
        with opened_picture(data, kind) as image:
            if kind == "PNG":
                image.load()  # chunks may follow the pixels
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
            packet = packet.encode() if isinstance(packet, str) else packet
            return packet, b"", exif_block(data, kind, image.info)
    except Exception:  # as in decode: damaged bytes, one file
        return b"", b"", b""


def _xmp_description(packet: bytes) -> str | None:
    # A packet has no business declaring entities, which could be made to grow without end.
    if not packet or b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return None
    try:
        tree = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    for description in tree.iter(_DESCRIPTION):
        items = list(description.iter(_ITEM))
        default = [item for item in items if item.get(_LANGUAGE) == "x-default"]
        for item in default + items:
            if item.text and item.text.strip():
                return item.text
        if not items and description.text:
            return description.text
    for element in tree.iter():  # the short form, as an attribute
        if text := element.get(_DESCRIPTION):
            return text
    return None


def _photoshop_iptc(resources: bytes) -> bytes:
    """The IPTC record among Photoshop's image resources."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        number = int.from_bytes(resources[at + 4 : at + 6])
        at += 6 + (resources[at + 6] | 1) + 1  # the name, padded to an even length
        size = int.from_bytes(resources[at : at + 4])
        if number == _IPTC_RESOURCE:
            return resources[at + 4 : at + 4 + size]
        at += 4 + size + (size & 1)
    return b""


def _iptc_caption(record: bytes) -> str | None:
    at = 0
    is_utf8 = False
    while record[at : at + 1] == b"\x1c" and at + 5 <= len(record):
        size = int.from_bytes(record[at + 3 : at + 5])
        if size & 0x8000:
            return None  # an extended data set, longer than captions are
        if record.startswith(_IS_UTF8, at):
            is_utf8 = True
        if record.startswith(_CAPTION_ABSTRACT, at):
            raw = record[at + 5 : at + 5 + size]
            return raw.decode("utf-8", "replace") if is_utf8 else exif.decoded(raw)
        at += 5 + size
    return None
