"""Land seen in perspective, water that mirrors, and trees to stand on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from renderer.core import Array, Stage, blurred, mix, over, rgb, smooth
from renderer.sky import Sky


@dataclass
class Land:
    """Land as the eye sees it: one value for each pixel."""

    picture: Array
    mask: Array  # where there is land
    depth: Array
    across: Array  # world x


HeightOf = Callable[[Array, Array, Array], Array]
Paint = Callable[[Array, Array, Array, Array, Array, Array], Array]


def lay_land(
    stage: Stage,
    sky: Sky,
    height_of: HeightOf,
    paint: Paint,
    *,
    eye: float,
    near: float = 0.6,
    far: float = 60.0,
    steps: int = 0,
    haze: float = 0.02,
    sun_height: float = 0.5,
    ambient: float = 0.55,
) -> Land:
    """Land by marching a scan line away from the eye (the 'voxel space' of Comanche, 1992).

    `height_of(x, z, footprint)` gives the land's height at a world place;
    `paint(x, z, height, steepness, light, footprint)` its colour (..., 3) before haze.
    """
    height, width = stage.height, stage.width
    steps = steps or int(np.clip(height * 0.9, 220, 700))
    z = (near * (far / near) ** np.linspace(0, 1, steps)).astype(np.float32)[:, None]
    x = stage.x * z
    foot = np.maximum(z / height, np.gradient(z[:, 0])[:, None] * 0.5)
    h = height_of(x, z, foot)
    dx = z / height
    slope_x = np.gradient(h, axis=1) / dx
    slope_z = np.gradient(h, axis=0) / np.gradient(z[:, 0])[:, None] - slope_x * stage.x
    side = -0.8 if sky.sun[0] < 0 else 0.8
    toward = np.array([side, sun_height, 0.25], np.float32)
    toward /= np.linalg.norm(toward)
    length = np.sqrt(1 + slope_x**2 + slope_z**2)
    light = np.clip((-slope_x * toward[0] + toward[1] - slope_z * toward[2]) / length, 0, 1)
    steep = 1 - 1 / length
    colour = paint(x, z, h, steep, light, foot)
    lamp = sky.fill * ambient + sky.light * light[..., None]
    colour = colour * lamp
    veil = 1 - np.exp(-haze * z)
    glow = (
        sky.haze * 0.92
        + sky.light * 0.08 * np.exp(-(((stage.x - sky.sun[0]) / 0.6) ** 2))[..., None]
    )
    colour = colour + (glow - colour) * veil[..., None]
    rise = sky.horizon + (eye - h) / z
    lowest = np.minimum.accumulate(rise, axis=0)
    rows = stage.y[:, 0]
    index = np.empty((height, width), np.int64)
    for column in range(width):
        index[:, column] = np.searchsorted(-lowest[:, column], -rows)
    mask = index < steps
    k = np.minimum(index, steps - 1)
    before = np.maximum(k - 1, 0)
    columns = np.arange(width)[None, :]
    y1, y0 = lowest[k, columns], lowest[before, columns]
    t = np.clip((y0 - stage.y) / np.maximum(y0 - y1, 1e-6), 0, 1)
    t = np.where(rise[before, columns] <= y0 + 1e-6, t, 1)[..., None].astype(np.float32)
    picture = colour[before, columns] * (1 - t) + colour[k, columns] * t
    # The rim is softened by how much of its pixel the land fills.
    top = lowest[-1][None, :]
    cover = np.clip((stage.y - top) * height + 0.5, 0, 1) * (mask | (stage.y > top))
    return Land(picture, cover.astype(np.float32), z[k, 0], x[k, columns])


def water(
    stage: Stage,
    sky: Sky,
    picture: Array,
    *,
    shore: float | None = None,
    rough: float = 0.5,
    deep: str = "#0d3550",
    eye: float = 1.0,
    glitter: float = 1.0,
    foam: float = 0.0,
) -> Array:
    """The picture with water below `shore` (default: the horizon) that mirrors what is above.

    `rough` 0 is a still lake, 1 a windy sea.
    """
    line = sky.horizon if shore is None else shore
    height, width = stage.height, stage.width
    down = np.maximum(stage.y - line, 0.6 / height)
    z = eye * 0.5 / (down + 0.004)
    x = stage.x * z
    foot = z * 1.5 / height
    big = stage.noise(1.25, x * 0.030, z * 0.085, foot * 0.07, 5)
    small = stage.noise(0.9, x * 0.13, z * 0.33, foot * 0.25, 6)
    fine = stage.noise(0.9, x * 0.51, z * 1.1, foot * 0.9, 7)
    lean = (0.5 * big + 0.55 * small + 0.4 * fine) * rough
    sway = stage.noise(1.1, x * 0.09, z * 0.05, foot * 0.1, 8) * rough
    grazing = np.clip(down * 1.15 / max(eye, 0.4) ** 0.25, 0.01, 1.2)
    # Waves tilt the mirror; far off only the sides that face the sky show.
    tilt = np.abs(lean) * 0.10 * (0.35 + down) / 0.5 + lean * 0.05 * rough
    mirror_y = 2 * line - stage.y - tilt * 1.4
    rows = np.clip((np.clip(mirror_y, 0.0, line) * height).astype(np.int64), 0, height - 1)
    shift = (sway * 0.05 * (0.2 + down) * height).astype(np.int64)
    columns = np.clip(np.arange(width)[None, :] + shift, 0, width - 1)
    mirror = np.minimum(picture[rows, columns], 2.2)
    facing = np.clip(grazing + 0.55 * lean * (0.25 + down), 0.02, 1)
    fresnel = 0.03 + 0.97 * (1 - facing) ** 4.2
    fresnel = fresnel * (1 - 0.25 * rough)
    body = rgb(deep) * (0.35 + 0.75 * float(sky.fill.mean() + sky.light.mean()) * 0.8)
    body = body * (1 + 0.30 * lean)[..., None]
    sea = body + (mirror - body) * fresnel[..., None]
    if glitter > 0 and rough > 0.05:
        offset = (stage.x - sky.sun[0]) / (0.035 + 0.30 * rough * (0.12 + down))
        spark = smooth(0.5, 2.0, 0.8 * small + 1.0 * fine + 0.2 * big) * np.exp(-down / 0.5)
        path = np.exp(-offset * offset)
        near_sun = np.exp(-np.maximum(line - sky.sun[1], 0) * 1.2)
        shine = sky.light * (glitter * near_sun)
        sea = sea + shine * (path * (0.28 + 2.6 * spark))[..., None]
    if foam > 0:
        crest = smooth(1.5, 2.3, big + 0.5 * small + 0.35 * fine + foam)
        sea = mix(sea, (sky.light + sky.fill) * 0.7, 0.75 * crest)
    far = np.exp(-down / 0.02)
    sea = mix(sea, np.minimum(sky.haze, 1.5), 0.35 * np.broadcast_to(far, sea.shape[:2]))
    edge = np.clip((stage.y - line) * height + 0.5, 0, 1) * np.ones((1, width), np.float32)
    return over(picture, sea, edge.astype(np.float32))


# ---------------------------------------------------------------- trees


def conifer(stage: Stage, size: int) -> tuple[Array, Array]:
    """A fir: (mask, light) planes of `size` rows, light 0..1 with snow-catching boughs bright."""
    rng = stage.rng
    width = max(5, int(size * 0.52))
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    tiers = rng.uniform(8, 13)
    phase = rng.random()
    saw = (y * tiers + phase + 0.35 * np.abs(x) * 2) % 1
    reach = (0.06 + 0.86 * y**0.85) * (0.55 + 0.45 * saw)
    ragged = rng.standard_normal((size, width)).astype(np.float32)
    ragged = ragged + 0.6 * np.repeat(rng.standard_normal((size, 1)), width, 1)
    inside = reach * (1 + 0.16 * ragged) - np.abs(x)
    mask = smooth(-0.03, 0.05, inside) * smooth(0.0, 0.01, y + 0.005)
    trunk = (np.abs(x) < 0.05) & (y > 0.9)
    light = np.clip(0.25 + 0.75 * (1 - saw) - 0.25 * np.abs(x) + 0.14 * ragged, 0, 1)
    return np.maximum(mask * (y < 0.965), trunk).astype(np.float32), light.astype(np.float32)


def broadleaf(stage: Stage, size: int, trunk: float = 0.3) -> tuple[Array, Array]:
    """A round tree: (mask, light); light below 0 marks the trunk."""
    rng = stage.rng
    width = max(6, int(size * rng.uniform(0.75, 1.0)))
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    x = (np.linspace(-0.5, 0.5, width, dtype=np.float32) * width / size)[None, :]
    mask = np.zeros((size, width), np.float32)
    light = np.full((size, width), 0.3, np.float32)
    crown = 1 - trunk
    wide = width / size / 2
    blobs = []
    for _ in range(26):
        angle, away = rng.uniform(0, 6.28), np.sqrt(rng.random())
        r = rng.uniform(0.08, 0.17)
        bx = np.cos(angle) * away * (wide - r * 0.9)
        by = crown / 2 + np.sin(angle) * away * (crown / 2 - r * 0.9) + 0.01
        blobs.append((by, bx, r))
    rough = rng.standard_normal((size, width)).astype(np.float32)
    rough = 0.5 * rough + blurred(rough, max(0.6, size / 60)) * 1.2
    for by, bx, r in sorted(blobs, key=lambda b: -b[0]):
        dx, dy = (x - bx) / r, (y - by) / r
        d = np.hypot(dx, dy) + 0.20 * rough
        part = smooth(1.05, 0.85, d)
        lit = np.clip(0.5 - 0.35 * dy - 0.22 * dx + 0.16 * rough - 0.18 * (by / crown - 0.4), 0, 1)
        light = light + (lit - light) * part
        mask = np.maximum(mask, part)
    stem = (np.abs(x) < 0.022 * (1 + 1.5 * np.maximum(y - 0.85, 0) / 0.15)) & (y > crown * 0.75)
    bare = stem & (mask < 0.5)
    light = np.where(bare, -1, light)
    return np.maximum(mask, stem).astype(np.float32), light.astype(np.float32)


def bare_tree(stage: Stage, x: float, y: float, tall: float, lean: float = 0.0) -> Array:
    """A mask of a leafless tree standing at (x, y)."""
    canvas = stage.canvas()
    rng = stage.rng

    def grow(px: float, py: float, angle: float, length: float, thick: float, left: int) -> None:
        qx, qy = px + np.cos(angle) * length, py - np.sin(angle) * length
        canvas.limb((px, py), (qx, qy), thick, thick * 0.68)
        if left == 0:
            return
        for _ in range(2 if left > 4 else int(rng.integers(2, 4))):
            turn = rng.normal(0, 0.48)
            grow(qx, qy, angle + turn, length * rng.uniform(0.66, 0.86), thick * 0.64, left - 1)

    grow(x, y, np.pi / 2 + lean, tall * 0.26, tall * 0.028, 6)
    return canvas.mask()


def stand(
    picture: Array, stage: Stage, tree: tuple[Array, Array], colour: Array, x: float, y: float
) -> None:
    """Stamp a tree in place, its foot at (x, y); `colour` (rows, columns, 3)."""
    mask = tree[0]
    rows, columns = mask.shape
    top = round(y * stage.height) - rows
    left = round((x + stage.aspect / 2) * stage.height) - columns // 2
    r0, r1 = max(top, 0), min(top + rows, stage.height)
    c0, c1 = max(left, 0), min(left + columns, stage.width)
    if r0 >= r1 or c0 >= c1:
        return
    part = np.s_[r0 - top : r1 - top, c0 - left : c1 - left]
    cover = mask[part][..., None]
    picture[r0:r1, c0:c1] += (colour[part] - picture[r0:r1, c0:c1]) * cover
