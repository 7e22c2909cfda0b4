"""Tensors of a safetensors file, memory-mapped: only what is touched is read.

The format (safetensors README, 'Format'): 8 bytes little-endian length, a JSON header that gives
each tensor's dtype, shape and byte range, then the bytes. Reading it here instead of through the
package keeps views into the file, and bfloat16, which numpy does not know, in one place.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.errors import ModelError
from clipsearch.records import Float32Array

_DTYPES: dict[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


class TensorPlace(NamedTuple):
    dtype: str  # as safetensors writes it: 'F16'
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    end: int


class WeightsFile:
    """A safetensors file; `places` maps each tensor's name to where it lies.

    Raises:
        ModelError: not a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: the weights cannot be read: {error}") from error
        self.places = self._read_header()

    def _read_header(self) -> dict[str, TensorPlace]:
        try:
            length = int.from_bytes(self._bytes[:8], "little")
            first = 8 + length
            if first > len(self._bytes):
                raise ValueError("the header is cut off")
            header: dict[str, Any] = json.loads(self._bytes[8:first])
            header.pop("__metadata__", None)
            places = {
                name: TensorPlace(
                    entry["dtype"],
                    tuple(entry["shape"]),
                    first + entry["data_offsets"][0],
                    first + entry["data_offsets"][1],
                )
                for name, entry in header.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(str(error)) from error
        if any(place.end > len(self._bytes) for place in places.values()):
            raise self._damaged("it is cut off")
        return places

    def _damaged(self, why: str) -> ModelError:
        return ModelError(
            f"{self.path}: not a whole safetensors file ({why})",
            hint="fetch the model again with `clipsearch models pull`, or import it again",
        )

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def raw(self, name: str) -> memoryview:
        """The tensor's bytes as they lie in the file."""
        place = self.places[name]
        return memoryview(self._bytes)[place.start : place.end]

    def stored(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the tensor in its stored type; bfloat16 as uint16."""
        try:
            place = self.places[name]
        except KeyError:
            raise ModelError(f"{self.path}: the tensor {name!r} is missing") from None
        if place.dtype not in _DTYPES:
            raise ModelError(f"{self.path}: tensors of type {place.dtype} are not supported")
        dtype = np.dtype(_DTYPES[place.dtype])
        count = math.prod(place.shape)
        if place.end - place.start != count * dtype.itemsize:
            raise self._damaged(f"{name} is not as large as its shape says")
        flat = np.frombuffer(self._bytes, dtype, count, offset=place.start)
        return flat.reshape(place.shape)

    def float32(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> Float32Array:
        """The tensor (or those rows of it) as float32: a view where the file holds float32."""
        stored = self.stored(name)
        if rows is not None:
            stored = stored[rows]
        if self.places[name].dtype == "BF16":  # bfloat16 is the upper half of a float32
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return stored.astype(np.float32, copy=False)
