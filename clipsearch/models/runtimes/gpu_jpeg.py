"""JPEGs decoded and resized by a GPU that torch calls `cuda`, by nvJPEG through torchvision.

What comes out is what `Preprocess.pixels` makes of the same picture, but for rounding and for how
colours are brought back to full size: 0.2 grey levels on average. The vector's cosine to the usual
one is 0.9998 on average and 0.9994 at worst (`pocket` on an H200, `benchmarks.speed.gpu`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipsearch.models.preprocess import Preprocess, is_strip
from clipsearch.models.torchvision_shim import import_torchvision
from clipsearch.records import UInt8Array

Jpeg = tuple[bytes, int, int, int]  # data, width, height, EXIF's turn

_LEAST_SIDE = 16
_MOST_PIXELS = 25_000_000  # of one picture: 0.3 GB as floating point
_PIXELS_AT_ONCE = 64_000_000  # 0.2 GB decoded

# How EXIF's `turn` of an upright picture is undone: (rows and columns traded, axes mirrored) of
# (3, H, W).
_TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    1: (False, ()),
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}


def free_gigabytes() -> float:
    """Of the GPU's memory."""
    import torch

    return float(torch.cuda.mem_get_info()[0]) / 1e9


class GpuJpegs:
    """Makes pixels of plain JPEGs; for one thread.

    Raises:
        ImportError, RuntimeError: torchvision cannot be imported.
    """

    def __init__(self, preprocess: Preprocess, *, device: str = "cuda") -> None:
        import torch

        import_torchvision()
        from torchvision.io import ImageReadMode, decode_jpeg

        self._torch: Any = torch
        self._preprocess = preprocess
        self._device = device
        self._rgb = ImageReadMode.RGB
        self._decode_jpeg: Any = decode_jpeg

    def works(self) -> bool:
        """Whether a JPEG comes out at all: torchvision may be built without nvJPEG."""
        colour = (200, 120, 40)
        written = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(written, "JPEG")  # square, lest it be padded
        (pixels,) = self.pixels([(written.getvalue(), 64, 64, 1)])
        return pixels is not None and bool(np.abs(pixels.mean(axis=(0, 1)) - colour).max() < 3)

    def takes(self, width: int, height: int) -> bool:
        """Whether a picture of this size is worth trying."""
        return (
            min(width, height) >= _LEAST_SIDE
            and not is_strip(width, height)
            and width * height <= _MOST_PIXELS
        )

    def pixels(self, jpegs: Sequence[Jpeg]) -> list[UInt8Array | None]:
        """(S, S, 3) uint8 of each; None for what failed."""
        return [pixels for part in _parts(jpegs) for pixels in self._tried(part)]

    def _tried(self, jpegs: Sequence[Jpeg]) -> list[UInt8Array | None]:
        """All together; where that fails, by halves: one that fails takes all with it."""
        try:
            return list(self._together(jpegs))
        except RuntimeError:  # among them torch's own for memory that ran out
            if len(jpegs) == 1:
                return [None]
            middle = len(jpegs) // 2
            return self._tried(jpegs[:middle]) + self._tried(jpegs[middle:])

    def _together(self, jpegs: Sequence[Jpeg]) -> list[UInt8Array]:
        torch = self._torch
        with torch.inference_mode():
            # Copied: torch warns of memory that nobody may write to.
            contents = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data, *_ in jpegs]
            pictures = self._decode_jpeg(contents, mode=self._rgb, device=self._device)
            squares = [
                self._square(picture, jpeg[3])
                for picture, jpeg in zip(pictures, jpegs, strict=True)
            ]
            batch = torch.stack(squares).round_().clamp_(0, 255).to(torch.uint8)
            rows: UInt8Array = batch.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return list(rows)

    def _square(self, picture: Any, turn: int) -> Any:
        """(3, H, W) uint8 -> (3, S, S) float32."""
        traded, mirrored = _TURNS[turn]
        if traded:
            picture = picture.transpose(1, 2)
        if mirrored:
            picture = picture.flip(mirrored)
        preprocess, functional = self._preprocess, self._torch.nn.functional
        image = picture[None].float()
        height, width = image.shape[2:]
        # As a decoder of the CPU does, in whole squares of pixels: the filter grows with the ratio.
        factor = min(width, height) // (2 * preprocess.source_px)
        if factor > 1:
            image = functional.avg_pool2d(image, factor)
        new_width, new_height, left, top = preprocess.geometry(width, height)
        image = functional.interpolate(
            image, (new_height, new_width), mode=preprocess.interpolation, antialias=True
        )[0]
        size = preprocess.size
        if preprocess.mode == "longest":
            border = (-left, size - new_width + left, -top, size - new_height + top)
            return functional.pad(image, border, value=preprocess.fill_color)
        return image[:, top : top + size, left : left + size]


def _parts(
    jpegs: Sequence[Jpeg],
) -> Iterator[Sequence[Jpeg]]:
    """Runs of pictures that together have few enough pixels."""
    start, pixels = 0, 0
    for end, (_, width, height, _) in enumerate(jpegs):
        if pixels + width * height > _PIXELS_AT_ONCE and end > start:
            yield jpegs[start:end]
            start, pixels = end, 0
        pixels += width * height
    if jpegs:
        yield jpegs[start:]
