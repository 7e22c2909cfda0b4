"""Skies: daylight, dusk, night, and the clouds in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from renderer.core import Array, Stage, blurred, mix, rgb, smooth


@dataclass(frozen=True)
class Air:
    """Colours of one time of day, as seen on a screen."""

    zenith: str
    middle: str
    horizon: str
    glow: str
    lit: str  # clouds in the light
    shade: str  # clouds' shaded side
    sun: float  # brightness of the disc
    light: str  # colour of the light that falls on things
    fill: str  # colour of the light from the rest of the sky


AIRS: dict[str, tuple[Air, ...]] = {
    "day": (
        Air(
            "#2f6cb5",
            "#6fa5dc",
            "#c3dcf0",
            "#f4f6ee",
            "#fbfbfa",
            "#a9b6c4",
            9,
            "#fff4e0",
            "#7f9fc4",
        ),
        Air(
            "#3d83c8",
            "#86b8e6",
            "#d5e6f1",
            "#fdf6e2",
            "#fdfdfd",
            "#b9c3cd",
            9,
            "#fff2d8",
            "#88a6c8",
        ),
        Air(
            "#1f57a0",
            "#5590cf",
            "#a9cbe8",
            "#f0f4f4",
            "#f7f8fa",
            "#8f9fb4",
            9,
            "#fff6e6",
            "#7394c0",
        ),
    ),
    "golden": (
        Air(
            "#5d83b4",
            "#b0b6b4",
            "#f2d3a0",
            "#ffd58a",
            "#fbe3bd",
            "#9a8a8c",
            12,
            "#ffc878",
            "#6f7f9c",
        ),
        Air(
            "#7490b8",
            "#c8bda8",
            "#f7cf8c",
            "#ffce78",
            "#fde0b0",
            "#a48c86",
            12,
            "#ffbf68",
            "#7a8498",
        ),
    ),
    "sunset": (
        Air(
            "#3a4a7a",
            "#b0708a",
            "#f7944a",
            "#ffc04c",
            "#f58a55",
            "#5d4562",
            10,
            "#ff9a48",
            "#5a4f72",
        ),
        Air(
            "#2c3a66",
            "#a05a6c",
            "#f2703a",
            "#ffae3c",
            "#f06a4c",
            "#4a3652",
            10,
            "#ff8a3c",
            "#4c4468",
        ),
        Air(
            "#54659a",
            "#d58f8c",
            "#fbb468",
            "#ffd673",
            "#fca674",
            "#77607c",
            10,
            "#ffaa5c",
            "#6b5f80",
        ),
        Air(
            "#4b3f78",
            "#b8568a",
            "#f58068",
            "#ffb070",
            "#f4788c",
            "#56406c",
            9,
            "#ff8c64",
            "#5a4874",
        ),
    ),
    "dusk": (
        Air(
            "#141d3f",
            "#3c4f80",
            "#c48a78",
            "#d8906c",
            "#7a6a86",
            "#2c3352",
            0,
            "#6a6a94",
            "#2e3a60",
        ),
        Air(
            "#101a36",
            "#2f4a78",
            "#7f86a0",
            "#98909c",
            "#5c678c",
            "#202a48",
            0,
            "#58648c",
            "#283658",
        ),
    ),
    "night": (
        Air(
            "#04060f",
            "#0a1226",
            "#18233c",
            "#2a3550",
            "#26304a",
            "#0a0f1c",
            0,
            "#3c4c70",
            "#0c1424",
        ),
        Air(
            "#05080f",
            "#0b1420",
            "#1a2834",
            "#2c3a46",
            "#2a3440",
            "#0a0e16",
            0,
            "#40506a",
            "#0c1420",
        ),
    ),
    "overcast": (
        Air(
            "#8b949d",
            "#aab2b9",
            "#c9ced2",
            "#d8dadb",
            "#d4d8da",
            "#838b93",
            0,
            "#b9bfc4",
            "#8c959e",
        ),
        Air(
            "#76808b",
            "#9aa4ad",
            "#bec6cc",
            "#cdd2d6",
            "#c6ccd0",
            "#6b747e",
            0,
            "#a5adb4",
            "#7a848e",
        ),
    ),
    "storm": (
        Air(
            "#2a323c",
            "#4a545e",
            "#8a9298",
            "#98a0a4",
            "#7c858c",
            "#252c35",
            0,
            "#7a848c",
            "#4a545e",
        ),
        Air(
            "#24282f",
            "#3c4550",
            "#6a757c",
            "#7a8488",
            "#66707a",
            "#1c2028",
            0,
            "#68727c",
            "#3e4852",
        ),
    ),
    "dawn": (
        Air(
            "#6f8fc0",
            "#c9b4c4",
            "#fbc9ae",
            "#ffdca8",
            "#f9cfc0",
            "#9a92a8",
            8,
            "#ffcfa0",
            "#7a84a4",
        ),
        Air(
            "#5a78ac",
            "#b2a2bc",
            "#f2b8a4",
            "#ffd09a",
            "#f2b4ac",
            "#8a80a0",
            8,
            "#ffbe94",
            "#6c7498",
        ),
    ),
}


@dataclass
class Sky:
    """The painted sky and the light it gives."""

    picture: Array  # whole picture, also below the horizon
    sun: tuple[float, float]  # where the sun (or moon) stands
    horizon: float
    light: Array
    fill: Array
    haze: Array  # colour of far things
    time: str


def paint_sky(
    stage: Stage,
    time: str,
    horizon: float = 0.6,
    *,
    clouds: float | None = None,
    sun: tuple[float, float] | None = None,
    disc: bool = True,
) -> Sky:
    """A sky for the time of day; `clouds` 0 (clear) to 1 (covered), `sun` its place."""
    air = stage.pick("air", AIRS[time])
    low = time in ("sunset", "dawn", "golden")
    if sun is None:
        height = horizon - (stage.uniform(0.02, 0.16) if low else stage.uniform(0.4, 0.8))
        sun = (stage.uniform(stage.left * 0.75, stage.right * 0.75), height)
    sun = stage.wishes.get("sun", sun)
    if clouds is None:
        clouds = stage.between("clouds", 0.1, 0.75)
    elevation = np.clip((horizon - stage.y) / max(horizon, 0.3), 0, 1)  # (H, 1)
    wobble = 0.04 * stage.texture(2.1, 0.4, 15)
    e = np.clip(elevation + wobble * elevation, 0, 1) * (1.25 if low else 1.0)
    zenith, middle, base = rgb(air.zenith), rgb(air.middle), rgb(air.horizon)
    picture = mix(base, middle, smooth(0.0, 0.42, e))
    picture = mix(picture, zenith, smooth(0.25, 1.05, e))
    dx, dy = stage.x - sun[0], stage.y - sun[1]
    far = np.hypot(dx, dy)
    glow = rgb(air.glow)
    if low:
        wide = np.exp(-((dx / 0.6) ** 2) - (dy / 0.16) ** 2)
        picture = mix(picture, glow, 0.6 * wide)
        picture = picture + glow * (0.35 * np.exp(-((far / 0.10) ** 2)))[..., None]
    elif air.sun:
        picture = picture + glow * (0.25 * np.exp(-((far / 0.35) ** 2)))[..., None]
    elif time == "dusk":
        band = np.exp(-((dx / 0.9) ** 2) - ((stage.y - horizon) / 0.2) ** 2)
        picture = mix(picture, glow, 0.55 * band)
    if disc and air.sun:
        radius = stage.uniform(0.016, 0.03) if low else 0.02
        disc_light = smooth(radius, radius * 0.8, far)
        picture = picture + (glow * air.sun * disc_light[..., None])
        picture = picture + glow * (0.9 * np.exp(-far / 0.035))[..., None]
    if clouds > 0.02:
        picture = _clouds(stage, picture, air, time, clouds, horizon, sun)
    picture = picture * (1 + 0.01 * stage.texture(1.0, 3, 14))[..., None]
    light = rgb(air.light)
    light = light / max(1.0, float(light.max()) / 1.1)
    return Sky(picture, sun, horizon, light, rgb(air.fill) * 0.9, base, time)


def _clouds(
    stage: Stage,
    picture: Array,
    air: Air,
    time: str,
    clouds: float,
    horizon: float,
    sun: tuple[float, float],
) -> Array:
    """Clouds on a flat layer seen from below, lit from where the sun stands."""
    kind = stage.pick("cloud_kind", ["heaps", "veils", "flecks"], [0.5, 0.3, 0.2])
    rise = np.maximum(horizon - stage.y, 0) + {"heaps": 0.16, "veils": 0.06, "flecks": 0.08}[kind]
    scale = {"heaps": 0.10, "veils": 0.05, "flecks": 0.13}[kind] * stage.uniform(0.8, 1.3)
    stretch = {"heaps": 1.0, "veils": 2.6, "flecks": 1.5}[kind]
    turn = stage.uniform(-0.5, 0.5)

    def density(dx: float, dy: float) -> Array:
        r = rise - dy
        u = (stage.x + dx) / r * scale
        v = np.broadcast_to(1 / r * scale, u.shape) * stretch
        u, v = u + turn * v, v - turn * u
        size = (scale / r / stage.height) * np.maximum(1.0, 0.7 / r * 0.4)
        body = stage.noise(1.75 if kind == "heaps" else 1.6, u, v, size, 3)
        detail = stage.noise(1.3, u * 4.1, v * 4.1, size * 4.1, 4)
        return np.asarray(body + 0.28 * detail, np.float32)

    threshold = 1.5 - 2.6 * clouds
    here = density(0, 0)
    toward = np.array([sun[0], sun[1] - 0.05])
    step = 0.025
    direction = toward / (np.hypot(*toward) + 0.2)
    there = density(float(direction[0]) * step, float(direction[1]) * step - 0.012)
    thick = smooth(threshold - 0.25, threshold + {"heaps": 0.7}.get(kind, 1.6), here)
    light = np.clip(0.62 + 0.75 * (here - there) - 0.32 * np.maximum(here - threshold, 0), 0, 1)
    lit, shade = rgb(air.lit), rgb(air.shade)
    colour = mix(shade, lit, light)
    if air.sun:
        near = np.exp(-np.hypot(stage.x - sun[0], (stage.y - sun[1]) * 1.6) / 0.25)
        edge = thick * (1 - thick) * 4
        colour = colour + rgb(air.glow) * (near * (0.35 + 0.9 * edge))[..., None]
    # Far clouds fade into the haze at the horizon.
    fade = smooth(-0.02, 0.14, horizon - stage.y)
    opacity = thick * fade * (0.75 if kind == "veils" else 0.93)
    if time in ("overcast", "storm"):
        opacity = np.maximum(opacity, 0.5 * fade)
    return over_sky(picture, colour, opacity)


def over_sky(picture: Array, colour: Array, opacity: Array) -> Array:
    """Clouds over the sky; the sun's disc shines through thin ones only."""
    return np.asarray(picture + (colour - picture) * opacity[..., None], np.float32)


def stars(stage: Stage, picture: Array, amount: float = 1.0, horizon: float = 1.0) -> Array:
    """Stars of many brightnesses strewn over the sky above the horizon."""
    count = int(900 * amount * stage.aspect)
    height, width = stage.height, stage.width
    rng = stage.rng
    layer = np.zeros((height, width), np.float32)
    rows = (rng.random(count) * min(horizon, 1) * (height - 2)).astype(int)
    columns = (rng.random(count) * (width - 2)).astype(int)
    power = (0.05 + 0.5 * rng.pareto(1.6, count)).clip(0, 9).astype(np.float32)
    size = max(1.0, height / 700)
    np.add.at(layer, (rows, columns), power * size)
    if size > 1:
        layer = blurred(layer, size * 0.55) * 2.2
    tint = 1 + 0.25 * rng.standard_normal((1, width, 3)).astype(np.float32)
    fade = smooth(horizon, horizon - 0.25, stage.y)
    return picture + layer[..., None] * np.clip(tint, 0.6, 1.4) * fade[..., None]


def moon(stage: Stage, picture: Array, x: float, y: float, radius: float, full: bool) -> Array:
    """A moon with its seas and glow at (x, y)."""
    dx, dy = (stage.x - x) / radius, (stage.y - y) / radius
    r = np.hypot(dx, dy)
    disc = smooth(1 + 0.8 / (radius * stage.height), 1 - 0.8 / (radius * stage.height), r)
    seas = 0.8 + 0.16 * stage.noise(1.9, dx * 0.12, dy * 0.12, 0.0, 8)
    if full:
        lit = np.ones_like(r)
    else:
        nz = np.sqrt(np.clip(1 - r * r, 0, 1))
        lit = smooth(-0.05, 0.35, dx * 0.86 - nz * 0.42 + 0.1 * dy)
    light = np.array([1.0, 0.96, 0.86], np.float32)
    picture = picture + light * (0.35 * np.exp(-r / 2.2) + 0.08 * np.exp(-r / 8))[..., None]
    return picture + light * (2.4 * disc * lit * seas)[..., None]
