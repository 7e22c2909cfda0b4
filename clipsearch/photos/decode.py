"""One file, read once: its digest, what it says of itself, and a small upright RGB picture.

The kind of a file is told by its content; its name only decides whether a file that holds no
picture is worth a word (`SkippedPhoto`) or was never meant to be one (`NotAPhoto`).

**Digest.** BLAKE2b of 16 bytes over the file's bytes. For a JPEG, APPn and COM segments are left
out, so that captions, ratings, positions and thumbnails can change without the photo becoming
another one. Orientation lives among them, and a photo turned by its tag is a different upright
picture: one other than 1 joins the digest. So does Adobe's word on what the colours are, where it
is not the one that decoders go by anyway. Equal digests so mean equal pictures.

**Colours.** RGB is taken as it is, whatever its profile: the models were trained so. CMYK goes
through its own profile where it has one that works. 16-bit samples keep their upper 8 bits;
samples whose range no format states (32-bit, floating point) are stretched from their least to
their greatest value.

**Memory.** The megapixel limit here stands in for Pillow's, which is switched off for the whole
process: Pillow can only warn through a filter all threads share, or fail at a fixed 179 megapixels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin

from clipsearch.errors import SkippedPhoto, VanishedPhoto
from clipsearch.photos import exif, jpeg
from clipsearch.records import PhotoFacts

Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata that has no bearing on the picture.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_SUFFIXES = (
    "jpg jpeg jpe jfif png apng webp avif gif tif tiff bmp dib jp2 j2k jpx jpf pbm pgm ppm pnm "
    "pfm qoi mpo psd heic heif hif jxl "
    "dng cr2 cr3 crw nef nrw arw srf sr2 raf orf rw2 pef srw raw rwl x3f 3fr fff iiq mrw kdc "
    "dcr erf mef mos"
)
PHOTO_SUFFIXES = frozenset(_SUFFIXES.split())

HEIF_REASON = 'a HEIC photo, which needs an extra: pip install "clipsearch[heif]"'
RAW_REASON = 'a RAW photo, which needs an extra: pip install "clipsearch[raw]"'

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_COLOUR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892
# What decodes a kind that Pillow does not, and the reason to skip it where that is missing.
_EXTRAS = {"HEIF": ("pillow_heif", HEIF_REASON), "RAW": ("rawpy", RAW_REASON)}
_HEADER_BYTES = 512
_DIRECTORIES_BYTES = 1 << 20  # of a camera's RAW: what says that it is one lies in them
# Adobe's transform byte of YCbCr, which a JPEG is in where nothing says otherwise.
_AS_USUAL = b"\x01"
_TAIL_BYTES = 1 << 16  # in which a JPEG's end is looked for
_WHOLE_FILE = 1 << 30  # bytes at most that a file in memory is handed to the decoder at once
# A pixel takes 4 bytes in Pillow; as read and as RGB. Two files are decoded at a time, and half of
# the memory is left to others.
_BYTES_PER_PIXEL = 8


class NotAPhoto(SkippedPhoto):
    """The file holds no picture and is not named like one either."""


class EncodedJpeg(NamedTuple):
    """A JPEG before it is decoded; `width` and `height` are as stored, `turn` is EXIF's 1..8."""

    data: bytes
    width: int
    height: int
    turn: int


@dataclass(frozen=True, slots=True)
class DecodedPhoto:
    """A photo as it was read.

    Attributes:
        digest: 16 bytes, the photo's identity.
        facts: what the file says; width and height are those of the whole upright picture. None
            if the caller knew the photo and the file cannot say anything else than before.
        image: RGB, upright, made smaller as far as its short side stays at least the `side_px`
            that was asked for (JPEG, which its decoder does on the way) or twice as much (others);
            None if the caller knew the photo already, or decodes it himself.
        encoded: what the caller decodes himself.
    """

    digest: bytes
    facts: PhotoFacts | None
    image: Image.Image | None
    encoded: EncodedJpeg | None = None


def decode_photo(
    path: Path | str | bytes,
    *,
    side_px: int,
    max_megapixels: float | None = None,
    is_known: Callable[[bytes], bool] | None = None,
    may_know: Callable[[str], bool] | None = None,
    leaves: Callable[[int, int], bool] | None = None,
) -> DecodedPhoto:
    """Read and decode one photo. Several threads may do so at a time.

    Args:
        path: a regular file, by text or by the bytes of its name.
        side_px: the least short side to leave, where the picture has as much: what a model says
            it needs (`Preprocess.source_px`).
        max_megapixels: refuse a picture of more, before any of its pixels is decoded; None for
            what this machine's memory allows.
        is_known: asked with the digest; where it answers True, no pixel is decoded. What it raises
            goes through.
        may_know: asked with a kind ('HEIF') that cannot be decoded here; where it answers False,
            `is_known` would too, and the file is not read past its header.
        leaves: asked with width and height of a JPEG that any decoder takes and that is not cut
            short; where it answers True, the JPEG is given as it is (`DecodedPhoto.encoded`), for a
            decoder of the caller's own.
    Raises:
        SkippedPhoto: it cannot be read or decoded. `NotAPhoto`: nobody would have expected it.
    """
    name = os.fsdecode(path)
    limit = default_max_megapixels() if max_megapixels is None else max_megapixels
    data, kind = _read(name, limit, _knows_none if is_known is None else may_know)
    with _failures_told(name, kind):
        # Found once: threads that decode take turns at what is done in Python.
        segments = _segments(data, kind)
        digest = _digest(data, segments)
    # What fails in answering is no fault of the photo.
    known = is_known is not None and is_known(digest)
    with _failures_told(name, kind):
        if known:
            return DecodedPhoto(digest, _retold_facts(data, kind, segments), None)
        if leaves is not None and (left := _plain_jpeg(data, segments, limit, leaves)):
            encoded, facts = left
            return DecodedPhoto(digest, facts, None, encoded)
        image, facts = _decode(data, kind, segments, side_px, limit)
        return DecodedPhoto(digest, facts, image)


def _knows_none(kind: str) -> bool:
    return False


def digest_photo(
    path: Path | str | bytes, *, may_know: Callable[[str], bool] | None = None
) -> bytes:
    """The digest that `decode_photo` would give, without decoding; 16 bytes.

    Args:
        may_know: as for `decode_photo`.
    Raises:
        SkippedPhoto: it cannot be read, or its content is none of the known kinds.
    """
    data, kind = _read(os.fsdecode(path), default_max_megapixels(), may_know)
    return _digest(data, _segments(data, kind))


@functools.cache
def default_max_megapixels() -> float:
    """The size of picture that two threads can decode in half of the memory available now.

    At least 64 megapixels: below that, today's telephones would be shut out.
    """
    return max(64.0, round(_available_bytes() / (2 * 2 * _BYTES_PER_PIXEL) / 1e6))


class _RefusedError(Exception):
    """A reason to skip, found where the path is not known."""

    def __init__(self, reason: str, hint: str | None = None, *, retry: bool = True) -> None:
        super().__init__(reason)
        self.hint = hint
        self.retry = retry

    def told_of(self, name: str) -> SkippedPhoto:
        """What callers get, with the path."""
        return SkippedPhoto(name, str(self), hint=self.hint, retry=self.retry)


@contextlib.contextmanager
def _failures_told(name: str, kind: str) -> Iterator[None]:
    """Whatever is raised while a photo is decoded, as `SkippedPhoto`."""
    try:
        yield
    except _RefusedError as error:
        raise error.told_of(name) from None
    # Decoders fed with damaged bytes raise whatever they come across, from struct.error to
    # zlib.error; each of them concerns this one file.
    except Exception as error:
        retry = isinstance(error, MemoryError)
        raise SkippedPhoto(name, _failure(error, kind), retry=retry) from error


def _available_bytes() -> int:
    available = 4 << 30
    with contextlib.suppress(OSError, ValueError, AttributeError):
        # Where the system does not tell what is free (macOS), half of what there is.
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):  # a container's share (cgroup v2)
        group = Path("/sys/fs/cgroup")
        share = int((group / "memory.max").read_text())
        available = min(available, share - int((group / "memory.current").read_text()))
    return available


# Reading -----------------------------------------------------------------------------------------


def read_photo(photo: Path | str | bytes) -> tuple[bytes, str]:
    """A photo's bytes and the name of its kind; '' for bytes of no known kind.

    Args:
        photo: the path of a file, or what such a file holds.
    Raises:
        SkippedPhoto: the file cannot be read, or its content is none of the known kinds.
    """
    if not isinstance(photo, bytes):
        return _read(os.fspath(photo), default_max_megapixels())
    kind = _kind(photo[:_HEADER_BYTES])
    return photo, "RAW" if kind == "TIFF" and _is_raw(photo) else kind


def _read(
    name: str, max_megapixels: float, may_know: Callable[[str], bool] | None = None
) -> tuple[bytes, str]:
    """The file's bytes and kind; a file of no known kind is not read past its header.

    With `may_know`, nor is one that cannot be decoded here and cannot be known either.
    """
    try:
        with _opened(name) as (file, size):
            kind = _kind(os.read(file, _HEADER_BYTES))
            if not kind:
                raise _unknown(name, size)
            if may_know is not None:
                _refuse_unless_known(file, kind, may_know)
            # No format needs more bytes for a picture within the limit, metadata included.
            if size > max_megapixels * 16e6 + (256 << 20):
                raise SkippedPhoto(
                    name, f"{size / 1e9:,.1f} GB, too large to be read at once", retry=True
                )
            os.lseek(file, 0, os.SEEK_SET)
            data = _all_bytes(file, size)
    except FileNotFoundError as error:
        raise VanishedPhoto(name, "there is no such file", retry=True) from error
    except OSError as error:
        raise SkippedPhoto(name, _unreadable(error), retry=True) from error
    except _RefusedError as error:
        raise error.told_of(name) from None
    return data, "RAW" if kind == "TIFF" and _is_raw(data) else kind


def _refuse_unless_known(file: int, kind: str, may_know: Callable[[str], bool]) -> None:
    # Most kinds of RAW begin as a TIFF does. Where they can be decoded, `_decode` tells them.
    if kind == "TIFF" and _refusal("RAW") is not None:
        os.lseek(file, 0, os.SEEK_SET)
        if _is_raw(os.read(file, _DIRECTORIES_BYTES)):
            kind = "RAW"
    refusal = _refusal(kind)
    if refusal is not None and not may_know(kind):
        raise refusal


def _refusal(kind: str) -> _RefusedError | None:
    """Why no picture of this kind can be decoded here; None where it can."""
    if kind == "JPEG XL":
        return _RefusedError("JPEG XL is not supported", retry=False)
    module, reason = _EXTRAS.get(kind, ("", ""))
    return _RefusedError(reason) if module and importlib.util.find_spec(module) is None else None


@contextlib.contextmanager
def _opened(name: str) -> Iterator[tuple[int, int]]:
    """A descriptor of a regular file, and its size.

    Without O_NONBLOCK, opening a pipe would wait for its writer. O_NOATIME (ours only) spares a
    write per photo read.
    """
    flags = os.O_RDONLY
    for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, flag, 0)
    try:
        file = os.open(name, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        file = os.open(name, flags)
    except ValueError as error:  # a NUL in the name
        raise SkippedPhoto(name, "no file can have this name") from error
    try:
        found = os.fstat(file)
        if stat.S_ISDIR(found.st_mode):
            raise SkippedPhoto(name, "a folder, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise SkippedPhoto(name, "a pipe or a device, not a file")
        yield file, found.st_size
    finally:
        os.close(file)


def _all_bytes(file: int, size: int) -> bytes:
    data = os.read(file, size)
    if len(data) == size:
        return data  # nearly always: one call, no copy
    parts = [data]  # a single read gives at most 2 GiB, and a network may give less
    while parts[-1]:
        parts.append(os.read(file, 1 << 24))
    return b"".join(parts)


def _unreadable(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"it cannot be read ({(error.strerror or str(error)).lower()})"


def _unknown(name: str, size: int) -> SkippedPhoto:
    suffix = Path(name).suffix.lower()
    found = "empty (0 bytes)" if size == 0 else "no picture of a known kind"
    if suffix[1:] in PHOTO_SUFFIXES:
        return SkippedPhoto(name, found if size == 0 else f"named {suffix}, but {found}")
    return NotAPhoto(name, found)


def _kind(header: bytes) -> str:
    """A name for the kind of picture that begins with these bytes; '' if for none."""
    for magic, kind in (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
        (b"\xff\x4f\xff\x51", "JPEG2000"),
        (b"qoif", "QOI"),
        (b"8BPS", "PSD"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"FUJIFILMCCD-RAW", "RAW"),
        (b"IIRO", "RAW"),  # Olympus
        (b"IIRS", "RAW"),
        (b"MMOR", "RAW"),
        (b"IIU\0", "RAW"),  # Panasonic, Leica
        (b"FOVb", "RAW"),  # Sigma
        (b"\0MRM", "RAW"),  # Minolta
        (b"II\x1a\0\0\0HEAPCCDR", "RAW"),  # Canon CRW
    ):
        if header.startswith(magic):
            return kind
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "WEBP"
    if header[4:8] == b"ftyp":
        return _kind_of_box(header)
    if header[:2] == b"\xff\x0a":
        return "JPEG XL"
    if header[:2] == b"BM" and int.from_bytes(header[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if re.match(rb"P([1-6f]|0 ?PyRGBA|yP)(\s+(#[^\n]*\n\s*)*)\d+\s", header):
        return "PPM"
    return ""


def _kind_of_box(header: bytes) -> str:
    """HEIF, AVIF and Canon's CR3 all are ISO base media files: their brands tell."""
    end = min(int.from_bytes(header[:4]), len(header))
    brands = [header[8:12], *(header[at : at + 4] for at in range(16, end, 4))]
    if brands[0] == b"crx ":
        return "RAW"
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "AVIF"
    return "HEIF" if _HEIF_BRANDS.intersection(brands) else ""


def _is_raw(data: bytes) -> bool:
    """Whether a TIFF file is a camera's RAW: it says DNG, or holds a sensor's colour mosaic."""
    main = exif.Directory.first(data)
    return bool(main.raw(exif.DNG_VERSION)) or any(
        directory.integer(exif.PHOTOMETRIC) in (_COLOUR_FILTER_ARRAY, _LINEAR_RAW)
        for directory in (main, *main.directories(exif.SUB_DIRECTORIES))
    )


Segments = Sequence[jpeg.Segment]  # of a JPEG; none of any other kind


def _segments(data: bytes, kind: str) -> Segments:
    return list(jpeg.segments(data)) if kind == "JPEG" else ()


def _digest(data: bytes, segments: Segments) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    if not segments:
        digest.update(data)
        return digest.digest()
    view = memoryview(data)
    for segment in segments:
        if not segment.is_metadata:
            digest.update(view[segment.start : segment.end])
    turn = exif.orientation(jpeg.payload(data, jpeg.APP1, jpeg.EXIF, segments) or b"")
    if turn != 1:
        digest.update(b"orientation %d" % turn)
    transform = (jpeg.payload(data, jpeg.APP14, jpeg.ADOBE, segments) or b"")[6:7]
    if transform not in (b"", _AS_USUAL):
        digest.update(b"transform %d" % transform[0])
    return digest.digest()


# Decoding ----------------------------------------------------------------------------------------


def _decode(
    data: bytes, kind: str, segments: Segments, side_px: int, max_megapixels: float
) -> tuple[Image.Image, PhotoFacts]:
    if refusal := _refusal(kind):
        raise refusal
    if kind == "RAW":
        return _decode_raw(data, side_px, max_megapixels)
    _check_size(_size_in_header(data, kind), max_megapixels)
    with opened_picture(data, kind) as image:
        _check_size(image.size, max_megapixels)
        width, height = image.size
        if kind == "JPEG":
            image.draft(None, (side_px, side_px))
        image.load()
        if kind != "JPEG":
            width, height = image.size  # Pillow turns a TIFF while it loads it
        block = exif_block(data, kind, image.info, segments)
        # libheif and Pillow's TIFF reader turn the picture themselves.
        turn = 1 if kind in ("HEIF", "TIFF") else exif.orientation(block)
        small = _upright(_reduced(_to_rgb(image), side_px), turn)
        if small is image:
            # The same pixels without the file's bytes. image.copy() took a sixth of the whole time.
            small = image._new(image.im)
    small.info = {}
    return small, _facts(data, kind, segments, (width, height), block, turn)


def _facts(
    data: bytes, kind: str, segments: Segments, size: tuple[int, int], block: bytes, turn: int
) -> PhotoFacts:
    width, height = size if turn < 5 else (size[1], size[0])
    if jpeg.payload(data, jpeg.APP2, jpeg.MULTI_PICTURE, segments) is not None:
        kind = "MPO"
    return PhotoFacts(width, height, kind, **exif.camera_facts(block)._asdict())


def _plain_jpeg(
    data: bytes, segments: Segments, max_megapixels: float, leaves: Callable[[int, int], bool]
) -> tuple[EncodedJpeg, PhotoFacts] | None:
    """A JPEG of the plain kind: baseline, 8 bits, YCbCr, with its end; None for anything else.

    Where its end is missing, decoders differ in what they make of the rest.
    """
    if not any(segment.marker == jpeg.SOF0 for segment in segments):
        return None
    with _JpegFile(io.BytesIO(data)) as image:
        _check_size(image.size, max_megapixels)
        if image.info.get("adobe_transform", 1) != 1 or not leaves(*image.size):
            return None
        if [layer[0] for layer in image.layer] != [1, 2, 3]:
            return None
        # What telephones append to a picture may be longer than the picture.
        scan = segments[-1].start
        if data.rfind(jpeg.END, max(scan, len(data) - _TAIL_BYTES)) < 0:
            return None
        facts, turn = _jpeg_facts(data, segments, image)
        return EncodedJpeg(data, *image.size, turn), facts


def _retold_facts(data: bytes, kind: str, segments: Segments) -> PhotoFacts | None:
    """The facts of a photo whose digest is known; None where equal digests mean equal bytes."""
    if kind != "JPEG":
        return None
    with opened_picture(data, kind) as image:
        return _jpeg_facts(data, segments, image)[0]


def _jpeg_facts(data: bytes, segments: Segments, image: Image.Image) -> tuple[PhotoFacts, int]:
    """What a JPEG says, of which the header alone was read; and how it lies."""
    block = exif_block(data, "JPEG", image.info, segments)
    turn = exif.orientation(block)
    return _facts(data, "JPEG", segments, image.size, block, turn), turn


def opened_picture(data: bytes, kind: str) -> Image.Image:
    """The first picture in the file, its header read."""
    if kind == "JPEG":
        return _JpegFile(io.BytesIO(data))
    if kind != "HEIF":
        return Image.open(io.BytesIO(data), formats=(kind,))
    try:
        import pillow_heif
    except ImportError:
        raise _RefusedError(HEIF_REASON) from None
    # Called on its own rather than registered with Pillow, which would change it for everyone.
    return pillow_heif.HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG whose EXIF Pillow leaves alone.

    It would search it for a resolution, and a broken block can cost it the picture. What Pillow
    calls MPO is taken as the JPEG that it starts with.
    """

    def _open(self) -> None:
        self.info["dpi"] = (72, 72)  # known already, for all that Pillow can tell
        super()._open()
        # All bytes in one call rather than 64 KB at a time: 5 % of the time of decoding, and the
        # interpreter's lock changes hands once.
        self.decodermaxblock = _WHOLE_FILE


def _decode_raw(data: bytes, side_px: int, max_megapixels: float) -> tuple[Image.Image, PhotoFacts]:
    """The preview that the camera embedded, if it is large enough; else the sensor's data."""
    try:
        import rawpy
    except ImportError:
        raise _RefusedError(RAW_REASON) from None
    with rawpy.imread(io.BytesIO(data)) as raw:
        sizes = raw.sizes
        width, height = sizes.width, sizes.height
        _check_size((width, height), max_megapixels)
        turn = {3: 3, 5: 8, 6: 6}.get(sizes.flip, 1)  # dcraw's numbers in EXIF's
        image, block = _raw_preview(raw, side_px)
        if image is None:
            half = min(width, height) // 2 >= 2 * side_px
            pixels = raw.postprocess(use_camera_wb=True, half_size=half, user_flip=0)
            image = Image.fromarray(pixels)
        elif turn >= 5 and (image.width > image.height) != (width > height):
            turn = 1  # a preview that already stands upright
    small = _upright(_reduced(image, side_px), turn)
    if turn >= 5 or sizes.flip in (5, 6):
        width, height = height, width
    if exif.Directory.first(data).raw(exif.MAKE):
        block = data
    return small, PhotoFacts(width, height, "RAW", **exif.camera_facts(block)._asdict())


def _raw_preview(raw: Any, side_px: int) -> tuple[Image.Image | None, bytes]:
    """A preview of `side_px` at least, as stored; and its EXIF block, if any."""
    import rawpy

    try:
        preview = raw.extract_thumb()
    except rawpy.LibRawError:  # none, or none that can be read
        return None, b""
    if preview.format != rawpy.ThumbFormat.JPEG:
        image = Image.fromarray(preview.data)
        return (_to_rgb(image), b"") if min(image.size) >= side_px else (None, b"")
    block = jpeg.payload(preview.data, jpeg.APP1, jpeg.EXIF) or b""
    try:
        with _JpegFile(io.BytesIO(preview.data)) as image:
            if min(image.size) < side_px:
                return None, block
            image.draft(None, (side_px, side_px))
            return _to_rgb(image).copy(), block
    except (OSError, SyntaxError, ValueError):
        return None, block


def _check_size(size: tuple[int, int], max_megapixels: float) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > max_megapixels:
        raise _RefusedError(
            f"{size[0]:,} x {size[1]:,} pixels are {megapixels:,.0f} megapixels, more than the "
            f"limit of {max_megapixels:,g}",
            hint="make a smaller copy of it, or if the memory allows it, take it into the library "
            "with `clipsearch index --max-megapixels N`",
        )


def _size_in_header(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height where they must be known before Pillow opens the file; else (0, 0).

    Its WebP decoder allocates the canvas while it opens; its PNG reader looks for pixels, which a
    file made to be a bomb need not have.
    """
    chunk = data[12:16]
    if len(data) < 30:
        return 0, 0
    if kind == "PNG":
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if kind != "WEBP":
        return 0, 0
    if chunk == b"VP8X":
        return (
            int.from_bytes(data[24:27], "little") + 1,
            int.from_bytes(data[27:30], "little") + 1,
        )
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def exif_block(
    data: bytes, kind: str, info: Mapping[Any, Any], segments: Segments | None = None
) -> bytes:
    """The TIFF block with the camera's facts; b'' if there is none. `info` is Pillow's."""
    if kind == "TIFF":
        return data
    if kind == "JPEG":
        return jpeg.payload(data, jpeg.APP1, jpeg.EXIF, segments) or b""
    block = info.get("exif") or b""
    if not block and isinstance(profile := info.get("Raw profile type exif"), str):
        # ImageMagick's way before PNG had a chunk for it: name, length, hexadecimal digits
        with contextlib.suppress(ValueError):
            block = bytes.fromhex("".join(profile.split("\n")[3:]))
    return block.removeprefix(jpeg.EXIF) if isinstance(block, bytes) else b""


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB on white, all samples 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_from_samples(np.asarray(image), image.format).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        with contextlib.suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
            separated = ImageCms.profileToProfile(
                image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if separated is not None:
                return separated
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_from_samples(samples: np.ndarray[Any, Any], form: str | None) -> Image.Image:
    """8-bit grey from samples of 16 or 32 bits, whole or floating."""
    # Pillow has room for 16-bit PNM and JPEG 2000 samples in 32-bit ones only.
    if samples.dtype.kind != "f" and (samples.dtype.itemsize == 2 or form in ("PPM", "JPEG2000")):
        return Image.fromarray((samples >> 8).clip(0, 255).astype(np.uint8))
    values = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if samples.dtype.kind == "f" and least >= 0 and most <= 1:
        least, most = 0.0, 1.0  # the usual range of floating samples
    elif least >= 0 and most <= 255:
        least, most = 0.0, 255.0  # bytes in wide clothes
    scaled = (values - least) * (255.0 / max(most - least, 1e-12))
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _reduced(image: Image.Image, side_px: int) -> Image.Image:
    """Averaged over whole squares of pixels, as far as twice `side_px` remain."""
    factor = min(image.size) // (2 * side_px)
    return image.reduce(factor) if factor > 1 else image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(_TURNS[turn]) if turn != 1 else image


def _failure(error: Exception, kind: str) -> str:
    if isinstance(error, MemoryError):
        return "too large for the memory that is free"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return f"cut short: the {kind} data end too soon"
    return f"damaged, or a variant of {kind} that is not supported"
