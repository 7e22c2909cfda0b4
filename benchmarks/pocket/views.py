"""Photos as somebody else might have taken them, made on the GPU, a fresh one every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Looks:
    """How far a view may be from its photo.

    Attributes:
        least_area: of the photo that a crop keeps; captions tell of the whole photo.
        degrees: standard deviation of the camera's tilt.
        light: most that brightness, contrast and colour are changed by, as a share.
        grey, small: shares of views without colour, and of half of the sharpness or less.
    """

    least_area: float = 0.4
    degrees: float = 4.0
    light: float = 0.35
    grey: float = 0.05
    small: float = 0.25


def views(photos: Tensor, looks: Looks) -> Tensor:
    """(B, 3, S, S) uint8 -> (B, 3, S, S) float32 in -1..1."""
    pixels = _framed(photos.float(), looks)
    return _lit(_blurred(pixels, looks), looks)


def as_they_are(photos: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 -> the same photos in -1..1, as the finished model sees them."""
    return photos.float() / 127.5 - 1


def _uniform(count: int, low: float, high: float, like: Tensor) -> Tensor:
    return torch.empty(count, device=like.device).uniform_(low, high)


def _framed(pixels: Tensor, looks: Looks) -> Tensor:
    """Cropped, stretched, tilted and mirrored, all in one interpolation."""
    count = len(pixels)
    area = _uniform(count, looks.least_area, 1.0, pixels)
    stretch = _uniform(count, -math.log(1.25), math.log(1.25), pixels).exp()
    wide, high = (area * stretch).sqrt().clamp(max=1), (area / stretch).sqrt().clamp(max=1)
    left = _uniform(count, -1, 1, pixels) * (1 - wide)
    top = _uniform(count, -1, 1, pixels) * (1 - high)
    tilt = torch.randn(count, device=pixels.device) * math.radians(looks.degrees)
    mirror = torch.where(torch.rand(count, device=pixels.device) < 0.5, -1.0, 1.0)
    cosine, sine = tilt.cos(), tilt.sin()
    rows = [wide * cosine * mirror, -wide * sine, left, high * sine * mirror, high * cosine, top]
    frames = torch.stack(rows, 1).view(count, 2, 3)
    grid = functional.affine_grid(frames, list(pixels.shape), align_corners=False)
    mode, edge = "bicubic", "reflection"
    return functional.grid_sample(pixels, grid, mode, edge, align_corners=False).clamp(0, 255)


def _blurred(pixels: Tensor, looks: Looks) -> Tensor:
    """Some of them through a smaller size."""
    some = round(looks.small * len(pixels))
    if not some:
        return pixels
    side = pixels.shape[-1]
    less = int(torch.randint(round(0.35 * side), round(0.7 * side), ()).item())
    rows = torch.randperm(len(pixels), device=pixels.device)[:some]
    small = functional.interpolate(pixels[rows], less, mode="bilinear", antialias=True)
    pixels[rows] = functional.interpolate(small, side, mode="bicubic").clamp(0, 255)
    return pixels


def _lit(pixels: Tensor, looks: Looks) -> Tensor:
    """Brightness, contrast and colour; -1..1 at the end."""
    count, most = len(pixels), looks.light

    def amount() -> Tensor:
        return _uniform(count, 1 - most, 1 + most, pixels).view(-1, 1, 1, 1)

    pixels = pixels / 127.5 - 1
    pixels = (pixels + 1) * amount() - 1
    weights = torch.tensor(_GREY, device=pixels.device).view(1, 3, 1, 1)
    grey = (pixels * weights).sum(1, keepdim=True)
    middle = grey.mean((2, 3), keepdim=True)
    colour = amount()
    colour[torch.rand(count, device=pixels.device) < looks.grey] = 0
    pixels = grey + (pixels - grey) * colour
    return (middle + (pixels - middle) * amount()).clamp(-1, 1)


def blended(pixels: Tensor) -> Tensor:
    """Each with another of the batch: half laid over it (mixup), half let into it (CutMix).

    Nobody captions such a picture, but a teacher can be asked what it sees there (Beyer et al.
    2022, 'Knowledge distillation: A good teacher is patient and consistent').
    """
    count, side = len(pixels), pixels.shape[-1]
    others = pixels[torch.randperm(count, device=pixels.device)]
    half = count // 2
    share = _uniform(half, 0, 1, pixels).view(-1, 1, 1, 1)
    laid_over = pixels[:half].lerp(others[:half], share)
    let_in = pixels[half:].clone()
    part = (_uniform(count - half, 0.3, 0.8, pixels) * side).view(-1, 1, 1)
    left, top = (
        _uniform(count - half, 0, 1, pixels).view(-1, 1, 1) * (side - part) for _ in range(2)
    )
    along = torch.arange(side, device=pixels.device)
    across, down = along.view(1, 1, -1), along.view(1, -1, 1)
    inside = (across >= left) & (across < left + part) & (down >= top) & (down < top + part)
    let_in = torch.where(inside[:, None], others[half:], let_in)
    return torch.cat([laid_over, let_in])
