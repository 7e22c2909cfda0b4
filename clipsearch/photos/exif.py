"""What a camera wrote about a photo: when, where, with what.

Written for this one purpose and not taken from Pillow, whose reader warns through a process-wide
filter, and reads maker notes that nobody asked for. Every offset and count is checked against the
block; whatever does not hold is as if it were not there.

Source: CIPA DC-008-2023 (Exif 3.0) for tags and types, TIFF 6.0 for the directories.
"""

from __future__ import annotations

import datetime
import math
import re
import struct
from typing import NamedTuple

MAKE, MODEL, ORIENTATION, DATE_TIME = 0x010F, 0x0110, 0x0112, 0x0132
IMAGE_DESCRIPTION, XP_COMMENT = 0x010E, 0x9C9C
EXIF_DIRECTORY, GPS_DIRECTORY = 0x8769, 0x8825
SUB_DIRECTORIES, PHOTOMETRIC, DNG_VERSION = 0x014A, 0x0106, 0xC612
XMP_PACKET, IPTC_RECORD = 0x02BC, 0x83BB
LENS_SPECIFICATION, LENS_MODEL = 0xA432, 0xA434

# The moment the shutter opened; when it was stored; when the file was last changed, which for
# files that say nothing else is mostly the same. Each with the tag of its offset from UTC.
_TAKEN = ((0x9003, 0x9011), (0x9004, 0x9012), (DATE_TIME, 0x9010))

# Olympus and Panasonic put a word of their own where TIFF has 42, and keep to it otherwise.
_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"IIRO": "<", b"IIRS": "<", b"IIU\0": "<", b"MMOR": ">"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}
_MOST_ENTRIES = 4096
_LONGEST_TEXT = 200


class CameraFacts(NamedTuple):
    """The part of `records.PhotoFacts` that EXIF holds; None where it is silent or wrong."""

    taken_at: str | None = None
    taken_offset_minutes: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None
    lens: str | None = None


def camera_facts(block: bytes) -> CameraFacts:
    """The facts in a TIFF block (what follows `Exif\\0\\0`, or a whole TIFF file). Never raises."""
    if not block:
        return CameraFacts()
    main = Directory.first(block)
    exif = main.directory(EXIF_DIRECTORY)
    taken_at, offset = _taken(main, exif)
    latitude, longitude = _position(main.directory(GPS_DIRECTORY))
    return CameraFacts(taken_at, offset, latitude, longitude, _camera(main), _lens(exif))


def orientation(block: bytes) -> int:
    """1 to 8 as in EXIF; 1 (upright) where nothing valid is said."""
    value = Directory.first(block).integer(ORIENTATION)
    return value if value is not None and 1 <= value <= 8 else 1


class Directory:
    """One image file directory of a TIFF block: tags to values, each read when asked for."""

    def __init__(self, block: bytes, order: str, offset: int) -> None:
        self._block = block
        self._order = order
        self._entries: dict[int, tuple[int, int, int]] = {}  # tag: type, count, where
        if not 8 <= offset <= len(block) - 2:
            return
        (count,) = struct.unpack_from(order + "H", block, offset)
        count = min(count, _MOST_ENTRIES, (len(block) - offset - 2) // 12)
        for at in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(order + "HHI", block, at)
            size = _TYPE_BYTES.get(kind, 0) * values
            where = at + 8
            if size > 4:
                (where,) = struct.unpack_from(order + "I", block, where)
            if size and where + size <= len(block):
                self._entries.setdefault(tag, (kind, values, where))

    @classmethod
    def first(cls, block: bytes) -> Directory:
        """The block's first directory; an empty one if the block is no TIFF block."""
        order = _ORDERS.get(block[:4])
        if order is None or len(block) < 8:
            return cls(b"", "<", 0)
        return cls(block, order, struct.unpack_from(order + "I", block, 4)[0])

    def directory(self, tag: int) -> Directory:
        """The directory that `tag` points at; an empty one if it does not."""
        return Directory(self._block, self._order, self.integer(tag) or 0)

    def directories(self, tag: int) -> list[Directory]:
        """All the directories that `tag` points at, at most 16."""
        return [Directory(self._block, self._order, at) for at in self.integers(tag)[:16]]

    def integer(self, tag: int) -> int | None:
        values = self.integers(tag)
        return values[0] if values else None

    def integers(self, tag: int) -> tuple[int, ...]:
        kind, count, where = self._entries.get(tag, (0, 0, 0))
        letter = _INTEGERS.get(kind)
        if letter is None:
            return ()
        return struct.unpack_from(f"{self._order}{min(count, 64)}{letter}", self._block, where)

    def rationals(self, tag: int) -> list[float]:
        """Fractions as floats, NaN for one without a value; at most 8."""
        kind, count, where = self._entries.get(tag, (0, 0, 0))
        if kind not in (5, 10):
            return []
        letter = "I" if kind == 5 else "i"
        pairs = struct.unpack_from(f"{self._order}{2 * min(count, 8)}{letter}", self._block, where)
        return [
            above / below if below else math.nan
            for above, below in zip(pairs[::2], pairs[1::2], strict=True)
        ]

    def raw(self, tag: int) -> bytes:
        kind, count, where = self._entries.get(tag, (0, 0, 0))
        return bytes(self._block[where : where + count * _TYPE_BYTES.get(kind, 0)])

    def text(self, tag: int) -> str | None:
        """One line: UTF-8 as Exif 3 has it (ASCII before), else Latin-1; up to the first NUL."""
        return one_line(decoded(self.raw(tag).split(b"\0", 1)[0]))


def decoded(raw: bytes) -> str:
    """UTF-8, else Latin-1, which takes any bytes."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def one_line(text: str) -> str | None:
    """`text` with its control characters and runs of blanks as single blanks; None if empty."""
    return " ".join(re.sub(r"[\x00-\x20\x7f-\xa0]+", " ", text).split()) or None


def _taken(main: Directory, exif: Directory) -> tuple[str | None, int | None]:
    for tag, offset_tag in _TAKEN:
        text = (main if tag == DATE_TIME else exif).text(tag) or ""
        found = re.match(r"(\d{4})\D(\d\d)\D(\d\d)[ T](\d\d)\D(\d\d)(?:\D(\d\d))?", text)
        if not found:
            continue
        try:
            taken = datetime.datetime(*(int(part or 0) for part in found.groups()))  # type: ignore[arg-type]
        except ValueError:
            continue  # 0000:00:00, a 13th month, a 61st second
        if taken.year < 1800:  # before there were photographs
            continue
        return taken.isoformat(timespec="seconds"), _offset_minutes(exif.text(offset_tag))
    return None, None


def _offset_minutes(text: str | None) -> int | None:
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)|Z", text or "")
    if not found:
        return None
    if text == "Z":
        return 0
    minutes = int(found[2]) * 60 + int(found[3])
    # The easternmost offset in use is +14:00.
    return None if minutes > 14 * 60 or int(found[3]) > 59 else int(f"{found[1]}{minutes}")


def _position(gps: Directory) -> tuple[float | None, float | None]:
    latitude = _degrees(gps.rationals(2), gps.text(1), "N", "S", 90)
    longitude = _degrees(gps.rationals(4), gps.text(3), "E", "W", 180)
    if latitude is None or longitude is None or latitude == longitude == 0:
        return None, None  # half a position is none; 0, 0 is what cameras without a fix write
    return latitude, longitude


def _degrees(
    parts: list[float], reference: str | None, plus: str, minus: str, most: float
) -> float | None:
    sign = {plus: 1.0, minus: -1.0}.get((reference or "")[:1].upper())
    if sign is None or not parts:
        return None
    # Some cameras leave out the seconds, or write them as 0/0.
    degrees, minutes, seconds = [*parts[:3], 0.0, 0.0][:3]
    value = degrees
    value += 0.0 if math.isnan(minutes) else minutes / 60
    value += 0.0 if math.isnan(seconds) else seconds / 3600
    return round(sign * value, 7) if 0 <= value <= most else None


def _camera(main: Directory) -> str | None:
    make, model = main.text(MAKE), main.text(MODEL)
    if not make or not model:
        name = model or make
    elif model.casefold().startswith(make.split()[0].casefold()):
        name = model  # 'NIKON CORPORATION' and 'NIKON D90'
    else:
        name = f"{make} {model}"
    return name[:_LONGEST_TEXT] if name else None


def _lens(exif: Directory) -> str | None:
    name = exif.text(LENS_MODEL)
    if name and name.strip("-. "):  # '----' where the camera does not know it
        return name[:_LONGEST_TEXT]
    numbers = exif.rationals(LENS_SPECIFICATION)
    if len(numbers) != 4 or not (0 < numbers[0] <= numbers[1] < 10_000):
        return None
    shortest, longest, widest, widest_at_longest = numbers
    name = f"{shortest:g}mm" if shortest == longest else f"{shortest:g}-{longest:g}mm"
    if 0 < widest < 100:
        name += f" f/{widest:g}"
        if 0 < widest_at_longest < 100 and widest_at_longest != widest:
            name += f"-{widest_at_longest:g}"
    return name
