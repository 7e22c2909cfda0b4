"""From an upright RGB picture to the pixels that an image tower was trained on.

One implementation (Pillow and numpy) of what `open_clip.transform.image_transform` does at
inference: equal bit for bit up to the uint8 stage, and to 1e-6 after normalisation. Towers take
the uint8 stage and normalise inside their own graph, so `normalise` is for training and checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np

from clipsearch.errors import ModelError
from clipsearch.records import Float32Array, UInt8Array

if TYPE_CHECKING:  # a text query meets no picture, and Pillow takes 10 ms to import
    from PIL import Image

ResizeMode = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear"]
Triple = tuple[float, float, float]

# What open_clip assumes where a configuration says nothing: OpenAI's training set.
OPENAI_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

# Beyond this aspect ratio the picture is cut to the crop's neighbourhood before it is resized: a
# 65,000 x 10 strip would otherwise be resized to a million pixels on its way to 224 x 224.
_LONGEST_FULL_RESIZE = 32


class Geometry(NamedTuple):
    """How a picture becomes the square: resized to `width` x `height`, of which the square begins
    at (`left`, `top`). Where it reaches beyond the picture it is padding.
    """

    width: int
    height: int
    left: int
    top: int


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How one model wants its pictures.

    Attributes:
        size: side of the square that the tower sees, in pixels.
        mode: `shortest` resizes the short side to `size` and crops the centre, `squash` ignores
            the aspect ratio, `longest` fits the whole picture and pads with `fill_color`.
        mean, std: per channel, for pixels scaled to 0..1.
        fill_color: grey level 0..255 of the padding.
        least_source_px: `source_px` where the model's configuration states it. open_clip passes
            over the word.
    """

    size: int
    mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: Triple = OPENAI_MEAN
    std: Triple = OPENAI_STD
    fill_color: int = 0
    least_source_px: int | None = None

    @property
    def source_px(self) -> int:
        """The least short side that a decoder may leave of a larger picture.

        A JPEG is decoded at the smallest of its own scales (1/2, 1/4, 1/8) that leaves as much.
        Unless the model says otherwise that is its own `size`, so that no pixel of the tower is
        made up. Measured with `pocket` (260 px), 1,000 photos and 5,000 captions, photos enlarged
        to twice the side that is left, and read by half instead of whole: 375 px, as of 12
        megapixels, costs nothing (recall@1 +0.02 +- 0.16, recall@10 +0.10 +- 0.11 points), 256 px
        0.36 +- 0.22 and 240 px 0.46 +- 0.21 points of recall@1 (`benchmarks.speed.scales`). Photos
        of 224 px made smaller to 192 px lose half a point.
        """
        return self.size if self.least_source_px is None else self.least_source_px

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, size: Any = None) -> Preprocess:
        """Read open_clip's `preprocess_cfg`; what it leaves out has open_clip's defaults.

        Args:
            size: the image tower's own `image_size`, which overrides the configuration's, as in
                open_clip.
        Raises:
            ModelError: a value that open_clip would not take either, or a side that is no square.
        """
        mode = config.get("resize_mode") or "shortest"
        interpolation = config.get("interpolation") or "bicubic"
        if interpolation == "random":  # training only; open_clip takes bicubic for inference
            interpolation = "bicubic"
        if mode not in get_args(ResizeMode) or interpolation not in get_args(Interpolation):
            raise ModelError(
                f"the model's preprocessing is unknown: resize_mode {mode!r}, "
                f"interpolation {interpolation!r}",
                hint="the model's open_clip_config.json may be damaged or newer than clipsearch",
            )
        return cls(
            size=_side(size if size is not None else config.get("size", 224)),
            mode=cast(ResizeMode, mode),
            interpolation=cast(Interpolation, interpolation),
            mean=_triple(config.get("mean") or OPENAI_MEAN),
            std=_triple(config.get("std") or OPENAI_STD),
            fill_color=int(config.get("fill_color") or 0),
            least_source_px=_positive(config.get("source_px")),
        )

    def geometry(self, width: int, height: int) -> Geometry:
        """How a picture of this size becomes the square."""
        if self.mode == "squash":
            return Geometry(self.size, self.size, 0, 0)
        if self.mode == "longest":
            ratio = max(width, height) / self.size
            # A strip thinner than half a pixel after scaling keeps one: nothing cannot be resized.
            new_width, new_height = max(round(width / ratio), 1), max(round(height / ratio), 1)
            left, top = (self.size - new_width) // 2, (self.size - new_height) // 2
            return Geometry(new_width, new_height, -left, -top)
        scaled = int(self.size * max(width, height) / min(width, height))  # torchvision truncates
        new_width, new_height = (scaled, self.size) if width > height else (self.size, scaled)
        left, top = round((new_width - self.size) / 2), round((new_height - self.size) / 2)
        return Geometry(new_width, new_height, left, top)

    def pixels(self, image: Image.Image) -> UInt8Array:
        """An RGB picture of any size -> (size, size, 3) uint8, C-contiguous, read-only."""
        from PIL import Image

        if image.mode != "RGB":
            image = image.convert("RGB")
        resample = Image.Resampling[self.interpolation.upper()]
        new_width, new_height, left, top = self.geometry(*image.size)
        box = (left, top, left + self.size, top + self.size)
        if is_strip(*image.size) and self.mode == "shortest":
            x_scale, y_scale = image.width / new_width, image.height / new_height
            region = (box[0] * x_scale, box[1] * y_scale, box[2] * x_scale, box[3] * y_scale)
            square = image.resize((self.size, self.size), resample, box=region)
        else:
            square = image.resize((new_width, new_height), resample)
        if self.mode == "longest":
            paper = Image.new("RGB", (self.size, self.size), (self.fill_color,) * 3)
            paper.paste(square, (-left, -top))
            square = paper
        elif square.size != (self.size, self.size):
            square = square.crop(box)
        # Over the bytes that Pillow gives: a second copy would be three times as dear as the first,
        # in memory new to the process, and other threads would wait for the interpreter meanwhile.
        return np.asarray(square)

    def normalise(self, pixels: UInt8Array) -> Float32Array:
        """(B, size, size, 3) uint8 -> (B, 3, size, size) float32, C-contiguous."""
        scaled = pixels.astype(np.float32) / np.float32(255)
        scaled -= np.asarray(self.mean, np.float32)
        scaled /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def is_strip(width: int, height: int) -> bool:
    """Whether a picture is too long to be resized whole before it is cropped."""
    return max(width, height) > _LONGEST_FULL_RESIZE * min(width, height)


def _side(size: Any) -> int:
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise ModelError(f"the model takes pictures of {size}; only squares are supported")
        size = size[0]
    return int(size)


def _positive(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or value < 1:
        raise ModelError(
            f"the model's source_px is {value!r}; it must be a number of pixels, 1 or more"
        )
    return value


def _triple(value: Any) -> Triple:
    if isinstance(value, (int, float)):
        value = (value,) * 3
    if len(value) != 3:
        raise ModelError(f"mean and std need three channels, not {len(value)}")
    red, green, blue = (float(part) for part in value)
    return red, green, blue
