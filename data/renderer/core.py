"""Noise, light, shapes and lens: what every scene is painted with.

Pictures are float32 arrays (height, width, 3) of scene light: 0 is black, values above 1 are
brighter than the film can hold. `rgb()` turns a colour as seen on a screen into scene light,
`develop()` turns scene light back into a picture through a lens, a film curve and grain.

Positions on the picture are in picture heights: x from -aspect/2 to aspect/2, y from 0 (top)
to 1 (bottom). So a scene looks alike at every size.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.floating[Any]]
Point = tuple[float, float]
T = TypeVar("T")

TILE = 1024  # side of a noise tile in pixels


# ---------------------------------------------------------------- colour


def rgb(colour: str) -> Array:
    """Scene light (3,) that `develop` shows as the screen colour '#rrggbb'."""
    screen = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    linear = np.where(screen <= 0.04045, screen / 12.92, ((screen + 0.055) / 1.055) ** 2.4)
    return (-np.log(1 - np.minimum(linear, 0.985))).astype(np.float32)


def mix(a: Any, b: Any, amount: Any) -> Array:
    """Blend a towards b; amount 0..1, broadcast over colour when it is a plane."""
    amount = np.asarray(amount, np.float32)
    if amount.ndim == 2:
        amount = amount[..., None]
    return np.asarray(a + (b - a) * amount, np.float32)


def smooth(low: float, high: float, value: Any) -> Array:
    """Smooth step from 0 at `low` to 1 at `high` (which may be the smaller of the two)."""
    t = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


# ---------------------------------------------------------------- noise


@functools.cache
def tile(beta: float, number: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Periodic noise whose amplitude falls as frequency**-beta, with its mip levels.

    Returns the levels laid end to end and the offset of each. Mean 0, deviation 1 at level 0.
    """
    rng = np.random.default_rng([number, round(beta * 100)])
    fx = np.fft.rfftfreq(TILE)[None, :]
    fy = np.fft.fftfreq(TILE)[:, None]
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    amplitude = np.maximum(frequency, 2 / TILE) ** -beta
    plane = np.fft.irfft2(spectrum * np.where(frequency == np.inf, 0, amplitude), (TILE, TILE))
    plane = (plane / plane.std()).astype(np.float32)
    levels, offsets, end = [], [], 0
    while plane.shape[0] >= 4:
        levels.append(plane.ravel())
        offsets.append(end)
        end += plane.size
        plane = (plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4
    return np.concatenate(levels), np.array(offsets)


def sample(
    noise: tuple[Array, NDArray[np.int64]], x: Array, y: Array, footprint: Array | float = 0.0
) -> Array:
    """Noise at (x, y), in tiles; `footprint` is the size of a pixel there, in tiles."""
    flat, offsets = noise
    x, y = np.broadcast_arrays(x, y)
    level: Any
    if isinstance(footprint, float) and footprint == 0.0:
        level, side, start = 0, np.int64(TILE), np.int64(0)
    else:
        level = np.log2(np.maximum(np.asarray(footprint) * TILE, 1))
        level = np.minimum(level + 0.5, len(offsets) - 1).astype(np.int64)
        side, start = np.int64(TILE) >> level, offsets[level]
    px, py = (x % 1.0) * side, (y % 1.0) * side
    x0, y0 = px.astype(np.int64), py.astype(np.int64)
    fx, fy = (px - x0).astype(np.float32), (py - y0).astype(np.float32)
    last = side - 1
    x0, y0 = x0 & last, y0 & last
    x1, y1 = (x0 + 1) & last, (y0 + 1) & last
    row0, row1 = start + y0 * side, start + y1 * side
    top = flat.take(row0 + x0) * (1 - fx) + flat.take(row0 + x1) * fx
    bottom = flat.take(row1 + x0) * (1 - fx) + flat.take(row1 + x1) * fx
    return np.asarray(top * (1 - fy) + bottom * fy, np.float32)


# ---------------------------------------------------------------- planes


def resized(plane: Array, width: int, height: int, how: int = Image.Resampling.BICUBIC) -> Array:
    """A float plane (or picture) at another size."""
    if plane.ndim == 3:
        bands = [resized(plane[..., i], width, height, how) for i in range(plane.shape[2])]
        return np.stack(bands, axis=-1)
    picture = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(picture.resize((width, height), how), np.float32)


def blurred(plane: Array, radius: float) -> Array:
    """Soft blur, `radius` in pixels (about one deviation), any number of bands."""
    if radius < 0.3:
        return plane
    if plane.ndim == 3:
        return np.stack([blurred(plane[..., i], radius) for i in range(plane.shape[2])], axis=-1)
    height, width = plane.shape
    if radius > 5:
        small = (max(2, int(width * 2.2 / radius)), max(2, int(height * 2.2 / radius)))
        shrunk = blurred(resized(plane, *small, Image.Resampling.BOX), 1.9)
        return resized(shrunk, width, height, Image.Resampling.BICUBIC)
    reach = int(np.ceil(radius * 2.5))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-(steps**2) / (2 * radius**2))
    weights = (weights / weights.sum()).astype(np.float32)
    wide = np.pad(plane, ((reach, reach), (0, 0)), "edge")
    down = sum(w * wide[i : i + height] for i, w in enumerate(weights))
    wide = np.pad(np.asarray(down), ((0, 0), (reach, reach)), "edge")
    across = sum(w * wide[:, i : i + width] for i, w in enumerate(weights))
    return np.asarray(across, np.float32)


def over(picture: Array, colour: Any, mask: Array) -> Array:
    """Lay a colour (3,) or a picture over another where the mask (0..1) says."""
    return picture + (colour - picture) * mask[..., None]


def slid(plane: Array, dx: float, dy: float) -> Array:
    """The plane moved by whole pixels, its edges stretched."""
    height, width = plane.shape[:2]
    rows = np.clip(np.arange(height) - round(dy), 0, height - 1)
    columns = np.clip(np.arange(width) - round(dx), 0, width - 1)
    return plane[rows][:, columns]


# ---------------------------------------------------------------- the stage


@dataclass
class Stage:
    """One picture to be made: its size, its chance, and wishes that overrule chance."""

    seed: Sequence[int]
    width: int
    height: int
    wishes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(list(self.seed))
        self.facts: dict[str, Any] = {}  # what was chosen: captions are written from it
        self.aspect = self.width / self.height
        across = (np.arange(self.width, dtype=np.float32) + 0.5) / self.height
        self.x = (across - self.aspect / 2)[None, :]
        self.y = ((np.arange(self.height, dtype=np.float32) + 0.5) / self.height)[:, None]
        self.left, self.right = -self.aspect / 2, self.aspect / 2
        self.shift = self.rng.random((16, 2))  # where in the noise tiles this picture lies

    def pick(self, name: str, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options, or the wish of that name."""
        chance = None if weights is None else np.array(weights) / sum(weights)
        choice = options[int(self.rng.choice(len(options), p=chance))]
        choice = self.wishes.get(name, choice)
        self.facts[name] = choice
        return choice

    def between(self, name: str, low: float, high: float) -> float:
        """A number from low to high, or the wish of that name."""
        value = float(self.rng.uniform(low, high))
        return float(self.wishes.get(name, value))

    def chance(self, name: str, probability: float) -> bool:
        """True as often as said, or the wish of that name."""
        value = bool(self.wishes.get(name, bool(self.rng.random() < probability)))
        self.facts[name] = value
        return value

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def noise(
        self, beta: float, x: Any, y: Any, footprint: Array | float = 0.0, number: int = 0
    ) -> Array:
        """Fractal noise at (x, y) in tiles, at this picture's own place in the tile."""
        shift = self.shift[number]
        return sample(
            tile(beta),
            np.asarray(x + shift[0], np.float32),
            np.asarray(y + shift[1], np.float32),
            footprint,
        )

    def texture(self, beta: float, scale: float, number: int = 0, stretch: float = 1.0) -> Array:
        """Noise over the picture plane, `scale` tiles to the picture height."""
        return self.noise(
            beta, self.x * scale, self.y * scale * stretch, scale / self.height, number
        )

    def grain(self) -> Array:
        """White noise, one value a pixel."""
        return self.rng.standard_normal((self.height, self.width), np.float32)

    def canvas(self) -> Canvas:
        return Canvas(self)


class Canvas:
    """Shapes drawn in picture heights, turned into a smooth mask."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        # Shapes are drawn larger and shrunk: Pillow draws without anti-aliasing.
        self.times = 3 if stage.height * stage.width < 400_000 else 2
        self.scale = stage.height * self.times
        self.image = Image.new("L", (stage.width * self.times, stage.height * self.times))
        self.draw = ImageDraw.Draw(self.image)
        self.box = [np.inf, np.inf, -np.inf, -np.inf]

    def at(self, point: Point) -> Point:
        x = (point[0] + self.stage.aspect / 2) * self.scale
        y = point[1] * self.scale
        self.box = [
            min(self.box[0], x),
            min(self.box[1], y),
            max(self.box[2], x),
            max(self.box[3], y),
        ]
        return x, y

    def polygon(self, points: Sequence[Point], value: float = 1.0) -> Canvas:
        self.draw.polygon([self.at(p) for p in points], fill=int(value * 255))
        return self

    def line(self, points: Sequence[Point], width: float, value: float = 1.0) -> Canvas:
        pixels = max(1, round(width * self.scale))
        corners = [self.at(p) for p in points]
        self.draw.line(corners, fill=int(value * 255), width=pixels, joint="curve")
        return self

    def disc(self, x: float, y: float, rx: float, ry: float, value: float = 1.0) -> Canvas:
        x0, y0 = self.at((x - rx, y - ry))
        x1, y1 = self.at((x + rx, y + ry))
        self.draw.ellipse((x0, y0, max(x0, x1), max(y0, y1)), fill=int(value * 255))
        return self

    def limb(self, a: Point, b: Point, ra: float, rb: float, value: float = 1.0) -> Canvas:
        """A tapered, round-ended stroke from a to b."""
        length = float(np.hypot(b[0] - a[0], b[1] - a[1])) or 1e-6
        nx, ny = -(b[1] - a[1]) / length, (b[0] - a[0]) / length
        self.disc(a[0], a[1], ra, ra, value).disc(b[0], b[1], rb, rb, value)
        corners = [
            (a[0] + nx * ra, a[1] + ny * ra),
            (b[0] + nx * rb, b[1] + ny * rb),
            (b[0] - nx * rb, b[1] - ny * rb),
            (a[0] - nx * ra, a[1] - ny * ra),
        ]
        return self.polygon(corners, value)

    def mask(self, blur: float = 0.0) -> Array:
        """The shapes as (height, width) in 0..1; `blur` in picture heights."""
        image = self.image
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur * self.scale))
        small = image.resize((self.stage.width, self.stage.height), Image.Resampling.BOX)
        return np.asarray(small, np.float32) / 255


def curve(points: Sequence[Point], steps: int = 8, closed: bool = True) -> list[Point]:
    """A smooth line through the points (Catmull and Rom 1974)."""
    nodes = np.array(points, np.float64)
    count = len(nodes)
    out: list[Point] = []
    for i in range(count if closed else count - 1):
        if closed:
            p = [nodes[(i + j) % count] for j in (-1, 0, 1, 2)]
        else:
            p = [nodes[min(max(i + j, 0), count - 1)] for j in (-1, 0, 1, 2)]
        for t in np.arange(steps) / steps:
            q = 0.5 * (
                2 * p[1]
                + (p[2] - p[0]) * t
                + (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3]) * t**2
                + (3 * p[1] - p[0] - 3 * p[2] + p[3]) * t**3
            )
            out.append((float(q[0]), float(q[1])))
    if not closed:
        out.append((float(nodes[-1][0]), float(nodes[-1][1])))
    return out


# ---------------------------------------------------------------- the camera


def develop(stage: Stage, light: Array) -> Image.Image:
    """A photograph of the scene light: glare, vignette, film curve, grain, 8 bits."""
    rng = stage.rng
    height = stage.height
    light = np.maximum(light, 0)
    bright = np.minimum(np.maximum(light - 1.2, 0), 12)
    if bright.max() > 0:
        glare = 0.55 * blurred(bright, height * 0.012) + 0.3 * blurred(bright, height * 0.05)
        light = light + glare * stage.between("glare", 0.35, 0.6)
    soft = stage.between("softness", 0.0, 0.0011) * height
    light = blurred(light, soft)
    falloff = (stage.x / (stage.aspect * 0.75)) ** 2 + ((stage.y - 0.5) / 0.75) ** 2
    light = light * (1 - stage.between("vignette", 0.08, 0.42) * 0.6 * falloff)[..., None]
    light = light * 2 ** stage.between("exposure", -0.22, 0.25)
    warmth = stage.between("warmth", -0.05, 0.05)
    light = light * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    shown = 1 - np.exp(-light)
    grey = shown.mean(axis=2, keepdims=True)
    shown = np.clip(grey + (shown - grey) * stage.between("saturation", 0.86, 1.12), 0, 1)
    screen = shown ** np.float32(1 / 2.2)
    contrast = stage.between("contrast", -0.05, 0.18)
    screen = screen + contrast * (screen * screen * (3 - 2 * screen) - screen)
    lift = stage.between("haze", 0.0, 0.03)
    screen = lift + (1 - lift) * screen
    # Sensor noise is of about two pixels' size at full resolution: coarser in bigger pictures.
    strength = stage.between("noise", 0.006, 0.022)
    film = rng.standard_normal((height, stage.width, 1), np.float32)
    hue = rng.standard_normal((height // 2 + 1, stage.width // 2 + 1, 3), np.float32)
    hue = np.repeat(np.repeat(hue, 2, 0), 2, 1)[:height, : stage.width]
    if height * stage.width > 400_000:
        film = blurred(film, 0.6) * 1.9
    shade = 1.25 - screen.mean(axis=2, keepdims=True)
    screen = screen + strength * shade * (film + 0.45 * hue)
    return Image.fromarray((np.clip(screen, 0, 1) * 255 + 0.5).astype(np.uint8))
