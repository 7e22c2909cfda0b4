"""The few records that rooms share, and the stamp of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float16Array = npt.NDArray[np.float16]
UInt8Array = npt.NDArray[np.uint8]
RowArray = npt.NDArray[np.int64]


class FoundFile(NamedTuple):
    """A file as one `stat` saw it; nothing of it has been read.

    `relative_path` is relative to the root, with '/' between its parts whatever the platform;
    bytes that are not valid UTF-8 are kept as surrogate escapes (PEP 383).
    """

    relative_path: str
    size: int
    mtime_ns: int
    inode: int
    device: int


def file_stamp(path: Path) -> list[int] | None:
    """What changes whenever another file, or other content, comes to lie at `path`.

    None where no file can be seen. Size and modification time alone will not do: copying and
    unpacking set both at will. Inode and time of change cannot be set.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What a file says of its picture. Anything a file does not say is None.

    `width` and `height` are pixels of the upright picture. `taken_at` is local wall time,
    'YYYY-MM-DDTHH:MM:SS'; `taken_offset_minutes` east of UTC where the camera wrote it.
    Latitude and longitude are degrees, north and east positive.
    """

    width: int
    height: int
    format: str
    taken_at: str | None = None
    taken_offset_minutes: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None
    lens: str | None = None


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """The names of the two halves of a model, by content: 32 hexadecimal digits each.

    Vectors are comparable if and only if their `image` fingerprints are equal; cached text
    vectors are valid as long as `text` is.
    """

    image: str
    text: str
