"""The segments of a JPEG file, without decoding it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
ADOBE = b"Adobe"
PHOTOSHOP = b"Photoshop 3.0\0"
MULTI_PICTURE = b"MPF\0"

END = b"\xff\xd9"  # within a scan these two bytes cannot occur
SOF0 = 0xC0  # a baseline picture
SOS = 0xDA
COM = 0xFE
APP1, APP2, APP13, APP14 = 0xE1, 0xE2, 0xED, 0xEE


class Segment(NamedTuple):
    """`data[start:end]` is marker, length and payload; the payload starts at `start + 4`."""

    marker: int
    start: int
    end: int

    @property
    def is_metadata(self) -> bool:
        """APPn or COM: says things about the picture, hardly ever how to decode it."""
        return 0xE0 <= self.marker <= 0xEF or self.marker == COM


def segments(data: bytes) -> Iterator[Segment]:
    """The segments before the first scan, then one of marker SOS that reaches to the file's end.

    A file that breaks the rules ends the same way: from there on all is one segment.
    """
    at = 2
    while True:
        start = at
        while data[at : at + 2] == b"\xff\xff":  # fill bytes are allowed before a marker
            at += 1
        if data[at : at + 1] != b"\xff" or len(data) < at + 4 or data[at + 1] == SOS:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end > len(data) or end < at + 4:
            break
        yield Segment(data[at + 1], at, end)
        at = end
    yield Segment(SOS, start, len(data))


def payload(
    data: bytes, marker: int, name: bytes, among: Iterable[Segment] | None = None
) -> bytes | None:
    """What follows `name` in the first segment of this marker that begins with it.

    Args:
        among: the segments of `data`, where the caller has them already.
    """
    for segment in segments(data) if among is None else among:
        if segment.marker == marker and data.startswith(name, segment.start + 4):
            return data[segment.start + 4 + len(name) : segment.end]
    return None
