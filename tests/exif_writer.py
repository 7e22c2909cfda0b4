"""Writes TIFF blocks for the tests: EXIF as cameras write it, and whole DNG files."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

from PIL import Image


class Value(NamedTuple):
    kind: int
    letter: str
    numbers: tuple[int, ...]


class Blob(bytes):
    """Bytes that lie elsewhere in the block; the tag gets their place."""


Entry = Value | Blob | str | bytes | dict[int, "Entry"]


def byte(*numbers: int) -> Value:
    return Value(1, "B", numbers)


def short(*numbers: int) -> Value:
    return Value(3, "H", numbers)


def long(*numbers: int) -> Value:
    return Value(4, "I", numbers)


def rational(*fractions: tuple[int, int]) -> Value:
    return Value(5, "I", tuple(number for fraction in fractions for number in fraction))


def signed_rational(*fractions: tuple[int, int]) -> Value:
    return Value(10, "i", tuple(number for fraction in fractions for number in fraction))


def tiff_block(directory: dict[int, Entry], order: str = "<") -> bytes:
    """str is ASCII, bytes are UNDEFINED, a dict is a directory of its own."""
    out = bytearray(8)

    def put(raw: bytes) -> int:
        out.extend(b"\0" * (len(out) % 2))
        out.extend(raw)
        return len(out) - len(raw)

    def put_directory(entries: dict[int, Entry]) -> int:
        rows = b""
        for tag, entry in sorted(entries.items()):
            if isinstance(entry, dict):
                kind, count, raw = 4, 1, struct.pack(order + "I", put_directory(entry))
            elif isinstance(entry, Blob):
                kind, count, raw = 4, 1, struct.pack(order + "I", put(entry))
            elif isinstance(entry, str):
                raw = entry.encode() + b"\0"
                kind, count = 2, len(raw)
            elif isinstance(entry, bytes):
                kind, count, raw = 7, len(entry), entry
            else:
                raw = struct.pack(f"{order}{len(entry.numbers)}{entry.letter}", *entry.numbers)
                kind = entry.kind
                count = len(entry.numbers) // (2 if kind in (5, 10) else 1)
            if len(raw) > 4:
                raw = struct.pack(order + "I", put(raw))
            rows += struct.pack(order + "HHI", tag, kind, count) + raw.ljust(4, b"\0")
        return put(struct.pack(order + "H", len(entries)) + rows + b"\0\0\0\0")

    first = put_directory(directory)
    out[:8] = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", first)
    return bytes(out)


def jpeg_bytes(image: Image.Image, exif: bytes = b"", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", exif=b"Exif\0\0" + exif if exif else b"", **options)
    return out.getvalue()


def dng_bytes(
    size: tuple[int, int], orientation: int, preview: bytes | None, make: str = "Acme"
) -> bytes:
    """A DNG whose sensor saw an even reddish surface, with a JPEG preview or none."""
    width, height = size
    # RGGB: a white balance of 1, so red 3 times as bright as the others
    row_red = struct.pack("<2H", 45_000, 15_000) * (width // 2)
    row_blue = struct.pack("<2H", 15_000, 15_000) * (width // 2)
    sensor: dict[int, Entry] = {
        0x00FE: long(0),
        0x0100: long(width),
        0x0101: long(height),
        0x0102: short(16),
        0x0103: short(1),
        0x0106: short(32803),
        0x0111: Blob((row_red + row_blue) * (height // 2)),
        0x0115: short(1),
        0x0116: long(height),
        0x0117: long(2 * width * height),
        0x828D: short(2, 2),
        0x828E: byte(0, 1, 1, 2),
        0xC61A: short(0),
        0xC61D: long(65_535),
    }
    camera: dict[int, Entry] = {
        0x010F: make,
        0x0110: "Acme One",
        0x0112: short(orientation),
        0x8769: {0x9003: "2021:03:04 05:06:07", 0xA434: "Acme 35mm"},
        0xC612: byte(1, 4, 0, 0),
        0xC614: "Acme One",
        0xC621: signed_rational(*((n, 1) for n in (1, 0, 0, 0, 1, 0, 0, 0, 1))),
        0xC628: rational((1, 1), (1, 1), (1, 1)),
        0xC65A: short(21),
    }
    if preview is None:
        return tiff_block(camera | sensor)
    with Image.open(io.BytesIO(preview)) as image:
        shown: dict[int, Entry] = {
            0x00FE: long(1),
            0x0100: long(image.width),
            0x0101: long(image.height),
            0x0102: short(8, 8, 8),
            0x0103: short(7),
            0x0106: short(6),
            0x0111: Blob(preview),
            0x0115: short(3),
            0x0116: long(image.height),
            0x0117: long(len(preview)),
        }
    return tiff_block(camera | shown | {0x014A: sensor})
