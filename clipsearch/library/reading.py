"""Files to pixels, by the CPU alone or with a GPU's help."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipsearch.errors import SkippedPhoto
from clipsearch.models.preprocess import Preprocess
from clipsearch.photos.decode import (
    DecodedPhoto,
    EncodedJpeg,
    decode_photo,
    default_max_megapixels,
)
from clipsearch.records import PhotoFacts, UInt8Array
from clipsearch.store.known import KnownPhotos

if TYPE_CHECKING:
    from clipsearch.models.runtimes.gpu_jpeg import GpuJpegs

_LEAST_GIGABYTES = 6.0  # of a GPU's memory that is free, for up to four readers of one each
_ENOUGH = 8  # photos in a row that a working GPU would not all fail at
# How far a GPU's pixels may be from the usual ones, in grey levels: on average, and in the worst
# photo. The usual decoder's own scaling of a JPEG moves them by 0.9 and 2.1.
_MEAN_LEVELS, _WORST_LEVELS = 2.0, 5.0


class ReadPhoto(NamedTuple):
    """A photo that was read.

    Attributes:
        pixels: (S, S, 3) uint8 as the model wants them; None if its vector is known already.
    """

    digest: bytes
    facts: PhotoFacts | None
    pixels: UInt8Array | None


Found = ReadPhoto | SkippedPhoto


class PhotoReader:
    """Reads files in the calling thread; several threads may do so at a time.

    Args:
        known: says of which photos only the digest is needed; None for of none.

    Attributes:
        at_once: how many files a call of `read` should ask for.
    """

    at_once = 1

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        max_megapixels: float | None = None,
        known: KnownPhotos | None = None,
    ) -> None:
        self.preprocess = preprocess
        # The same for all processes: it depends on what memory is free when it is first asked for.
        self.max_megapixels = max_megapixels or default_max_megapixels()
        self.known = known

    def prepare(self) -> None:
        """Called once by a process that is there to read."""
        if hasattr(os, "nice"):
            # Those who bring the pictures to the encoder must not wait for a core.
            os.nice(5)

    def read(self, paths: Sequence[str]) -> list[Found]:
        """What each file holds, or why it cannot be told.

        Raises:
            LibraryDamaged, StorageError: the catalogue cannot say what is known.
        """
        return [self._read_usual(path) for path in paths]

    def _read_usual(self, path: str) -> Found:
        try:
            return self._found(self._decoded(path))
        except SkippedPhoto as problem:
            return problem

    def _decoded(self, path: str, leaves: Callable[[int, int], bool] | None = None) -> DecodedPhoto:
        known = self.known
        return decode_photo(
            path,
            side_px=self.preprocess.source_px,
            max_megapixels=self.max_megapixels,
            is_known=known.has_vector if known else None,
            may_know=known.holds_format if known else None,
            leaves=leaves,
        )

    def _found(self, photo: DecodedPhoto) -> ReadPhoto:
        pixels = None if photo.image is None else self.preprocess.pixels(photo.image)
        return ReadPhoto(photo.digest, photo.facts, pixels)


class GpuPhotoReader(PhotoReader):
    """Leaves plain JPEGs to a GPU, as long as that gives what the usual decoder gives.

    The first `CHECKED` photos are decoded in both ways; they keep the usual pixels. For one thread.
    """

    CHECKED = 32

    def __init__(self, like: PhotoReader) -> None:
        super().__init__(like.preprocess, max_megapixels=like.max_megapixels, known=like.known)
        self._gpu: GpuJpegs | None = None
        self._differences: list[float] = []

    def prepare(self) -> None:
        """Called once by a process that is there to read.

        Raises:
            RuntimeError: the GPU decodes nothing, or has no memory to spare. torchvision's own
                errors come through too.
        """
        from clipsearch.models.runtimes.gpu_jpeg import GpuJpegs, free_gigabytes

        if free_gigabytes() < _LEAST_GIGABYTES:
            raise RuntimeError("the GPU's memory is the encoder's")
        jpegs = GpuJpegs(self.preprocess)
        if not jpegs.works():
            raise RuntimeError("the GPU decodes no JPEG")
        self._gpu = jpegs

    def read(self, paths: Sequence[str]) -> list[Found]:
        """As `PhotoReader.read`."""
        if self._gpu is None:
            return super().read(paths)
        found: list[Found] = []
        left: list[tuple[int, EncodedJpeg]] = []
        for path in paths:
            try:
                photo = self._decoded(path, self._gpu.takes)
            except SkippedPhoto as problem:
                found.append(problem)
                continue
            if photo.encoded is not None:
                left.append((len(found), photo.encoded))
            found.append(self._found(photo))
        by_gpu = self._gpu.pixels([encoded for _, encoded in left])
        for (place, _), pixels in zip(left, by_gpu, strict=True):
            is_checked = len(self._differences) >= self.CHECKED
            told = found[place]
            if pixels is not None and is_checked and self._gpu and isinstance(told, ReadPhoto):
                found[place] = told._replace(pixels=pixels)
                continue
            found[place] = usual = self._read_usual(paths[place])
            if pixels is not None and not is_checked and isinstance(usual, ReadPhoto):
                self._compare(pixels, usual.pixels)
        if len(by_gpu) >= _ENOUGH and all(pixels is None for pixels in by_gpu):
            self._gpu = None  # out of memory, or out of order: each would be tried in vain
        return found

    def _compare(self, pixels: UInt8Array, usual: UInt8Array | None) -> None:
        if usual is None:  # its vector has become known meanwhile
            return
        self._differences.append(float(np.abs(pixels.astype(np.int16) - usual).mean()))
        if len(self._differences) == self.CHECKED and not (
            np.mean(self._differences) <= _MEAN_LEVELS and max(self._differences) <= _WORST_LEVELS
        ):
            self._gpu = None
