"""Flowers, bananas, a bridge, a kite, a rainy street."""

from __future__ import annotations

import numpy as np

from renderer.core import Array, Stage, blurred, curve, mix, over, rgb, smooth
from renderer.ground import water
from renderer.night import ridge
from renderer.sky import paint_sky


def room(stage: Stage, edge: float) -> Array:
    """A wall and a table before it."""
    wall = rgb(stage.pick("wall", ["#d8d0c4", "#5a646a", "#8a9a8a", "#b8a890"]))
    fall = (1 - 0.35 * stage.x) * (1 + 0.05 * stage.texture(2.2, 0.3, 1))
    picture = wall * fall[..., None] * np.ones((stage.height, stage.width, 1), np.float32)
    down = np.maximum(stage.y - edge, 0.0) + 0.12
    wood = rgb(stage.pick("table", ["#8a5a34", "#b48a5c", "#5c3a24", "#d8d2c8"]))
    veins = stage.noise(1.2, stage.x / down * 0.05, 0.3 / down, 0.0, 2)
    table = wood * ((1 + 0.13 * veins) * (1 - 0.3 * stage.x))[..., None]
    return over(picture, table, smooth(edge - 0.01, edge + 0.01, stage.y) * np.ones_like(stage.x))


def bouquet(stage: Stage) -> Array:
    """A vase of flowers on a table."""
    picture = room(stage, 0.68)
    hue = stage.pick("bloom", ["red", "yellow", "pink", "white", "purple"])
    petal = rgb(
        {
            "red": "#c0202c",
            "yellow": "#f0c420",
            "pink": "#e884ac",
            "white": "#f4f0ea",
            "purple": "#7a4aa8",
        }[hue]
    )
    shadow = np.exp(-(((stage.x - 0.06) / 0.15) ** 2) - ((stage.y - 0.91) / 0.025) ** 2)
    picture = picture * (1 - 0.55 * shadow)[..., None]
    heads = [(stage.rng.normal(0, 0.12), 0.30 + stage.rng.normal(0, 0.09)) for _ in range(13)]
    stems = stage.canvas()
    for x, y in heads:
        stems.line(curve([(x, y), (x * 0.6, 0.46), (x * 0.15, 0.62)], 6, closed=False), 0.006)
        lx, ly = x * 0.8, y + 0.14
        stems.polygon(
            curve(
                [(lx, ly), (lx + 0.04, ly - 0.05), (lx + 0.09, ly - 0.04), (lx + 0.04, ly + 0.01)],
                5,
            )
        )
    leaf = mix(rgb("#24461e"), rgb("#5f8a3a"), np.clip(0.5 + 0.3 * stage.texture(1.0, 1, 3), 0, 1))
    picture = over(picture, leaf, stems.mask())
    for x, y in heads:
        r, turn, count = (
            stage.uniform(0.045, 0.07),
            stage.uniform(0, 6),
            int(stage.rng.integers(7, 13)),
        )
        dx, dy = stage.x - x, (stage.y - y) * 1.15
        d, a = np.hypot(dx, dy) / r, np.arctan2(dy, dx) + turn
        edge = 0.78 + 0.22 * np.abs(np.cos(a * count / 2))
        mask = smooth(edge + 0.04, edge - 0.04, d)
        veins = 0.8 + 0.2 * np.cos(a * count) + 0.1 * np.cos(a * count * 4)
        lit = np.clip(0.5 + 0.4 * d - 0.25 * dx / r - 0.2 * dy / r, 0.25, 1.1) * veins
        picture = over(picture, petal * lit[..., None], mask)
        picture = over(
            picture, rgb("#e0b030" if hue != "yellow" else "#6a4420"), smooth(0.27, 0.2, d)
        )
    t = np.clip((stage.y - 0.56) / 0.35, 0, 1)
    half = 0.06 + 0.07 * np.sin(np.pi * t**0.8) * np.ones_like(stage.x)
    u = stage.x / half
    inside = (
        smooth(1.03, 0.97, np.abs(u))
        * smooth(0.555, 0.563, stage.y)
        * smooth(0.915, 0.907, stage.y)
    )
    clay = rgb(stage.pick("clay", ["#e4e0d8", "#3a6a9a", "#7aa0a0", "#a05a3c"]))
    lit = np.clip(0.6 - 0.45 * u + 0.15 * np.sqrt(np.clip(1 - u * u, 0, 1)), 0.12, 1.1)
    gleam = 0.4 * np.exp(-(((u + 0.5) / 0.12) ** 2))
    return over(picture, clay * lit[..., None] + gleam[..., None], inside)


def bananas(stage: Stage) -> Array:
    """A bunch of bananas, a chain of balls each."""
    edge = stage.uniform(0.4, 0.5)
    picture = room(stage, edge)
    count = stage.pick("count", [1, 3, 4])
    depth = np.full((stage.height, stage.width), -9.0, np.float32)
    normal = np.zeros((stage.height, stage.width, 3), np.float32)
    along = np.zeros_like(depth)
    shadow = np.exp(-((stage.x / 0.34) ** 2) - ((stage.y - 0.80) / 0.05) ** 2)
    picture = picture * (1 - 0.5 * shadow)[..., None]
    for i in range(count):
        for t in np.linspace(0, 1, 60):
            a = np.pi * (0.14 + 0.72 * t)
            cx, cy = -0.36 * np.cos(a), 0.42 + 0.33 * np.sin(a) - 0.05 * i * np.sin(np.pi * t)
            r = 0.058 * float(np.clip(min(t * 9, (1 - t) * 6), 0.22, 1)) ** 0.7
            dx, dy = (stage.x - cx) / r, (stage.y - cy) / r
            inside = 1 - dx * dx - dy * dy
            nz = np.sqrt(np.maximum(inside, 0))
            z = np.where(inside > 0, nz * r - 0.045 * i, -9)
            new = z > depth
            depth = np.where(new, z, depth)
            normal = np.where(new[..., None], np.stack(np.broadcast_arrays(dx, dy, nz), -1), normal)
            along = np.where(new, t, along)
    lit = np.clip(-0.5 * normal[..., 0] - 0.6 * normal[..., 1] + 0.62 * normal[..., 2], 0, 1)
    ends = smooth(0.07, 0.02, along) + smooth(0.94, 0.985, along)
    skin = mix(
        rgb("#f2cc20"),
        rgb("#5a4a1c"),
        np.clip(ends + 0.5 * smooth(1.6, 2.2, stage.texture(1.1, 1.5, 4)), 0, 1),
    )
    colour = skin * (0.22 + 0.85 * lit)[..., None] + (0.25 * lit**14)[..., None]
    return over(picture, colour, blurred((depth > -5).astype(np.float32), 0.5))


def bridge(stage: Stage) -> Array:
    """A suspension bridge over water."""
    time = stage.pick("time", ["day", "sunset", "dusk", "overcast"])
    shore = 0.66
    sky = paint_sky(stage, time, shore)
    hills = np.clip((stage.y - ridge(stage, 0.61, 0.02, 1)) * stage.height, 0, 1)
    picture = over(sky.picture, mix(rgb("#3a4a4a"), sky.haze, 0.5), hills)
    steel, deck = stage.canvas(), 0.56
    wide = 0.42 * stage.aspect / 1.5
    for x in (-wide * 1.1, wide * 1.1):
        for k in (-0.018, 0.018):
            steel.polygon(
                [
                    (x + k - 0.008, shore),
                    (x + k - 0.006, 0.2),
                    (x + k + 0.006, 0.2),
                    (x + k + 0.008, shore),
                ]
            )
        for y in (0.22, 0.32, 0.44):
            steel.line([(x - 0.02, y), (x + 0.02, y)], 0.014)
    steel.line([(stage.left - 0.1, deck), (stage.right + 0.1, deck)], 0.014)
    for x0, x1, sag in (
        (-wide * 1.1, wide * 1.1, 1.0),
        (-wide * 3.3, -wide * 1.1, 1.0),
        (wide * 1.1, wide * 3.3, 1.0),
    ):
        xs = np.linspace(x0, x1, 41)
        ys = deck - 0.02 - (deck - 0.23) * ((xs - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 * sag
        steel.line([(float(a), float(b)) for a, b in zip(xs, ys, strict=True)], 0.006)
        for a, b in zip(xs, ys, strict=True):
            steel.line([(float(a), float(b)), (float(a), deck)], 0.0016)
    hue = rgb(stage.pick("steel", ["#a83a28", "#5a6068", "#8a8e90"]))
    picture = over(picture, hue * (sky.light * 0.7 + sky.fill * 0.5), steel.mask())
    if time == "dusk":
        lamps = stage.canvas()
        for x in np.linspace(stage.left, stage.right, 36):
            lamps.disc(float(x), deck - 0.012, 0.003, 0.003)
        picture = picture + rgb("#ffc878") * (3 * lamps.mask())[..., None]
    return water(stage, sky, picture, shore=shore, rough=0.4, deep="#1c4456", glitter=0.3)


def kite(stage: Stage) -> Array:
    """A kite in the wind."""
    time = stage.pick("time", ["day", "day", "golden"])
    sky = paint_sky(stage, time, 0.95)
    x, y, r, a = (
        stage.uniform(-0.25, 0.25),
        stage.uniform(0.25, 0.45),
        stage.uniform(0.09, 0.16),
        stage.uniform(-0.5, 0.5),
    )
    hues = [
        rgb(("#d8322c", "#f2b41c", "#2a62c0", "#3a9a4a", "#e060a0")[int(i)])
        for i in stage.rng.permutation(5)[:4]
    ]
    ends = [
        (x + r * px * np.cos(a) - r * py * np.sin(a), y + r * px * np.sin(a) + r * py * np.cos(a))
        for px, py in ((0, -1), (0.72, -0.15), (0, 1.25), (-0.72, -0.15))
    ]
    mid = (x + 0.15 * r * np.sin(a), y - 0.15 * r * np.cos(a))
    string = stage.canvas().line(
        curve([mid, (x * 0.6 - 0.1, 0.75), (-0.3, 1.02)], 10, closed=False), 0.0018
    )
    picture = over(sky.picture, rgb("#e8e8e8"), 0.7 * string.mask())
    tail = [
        (ends[2][0] + 0.03 * np.sin(i * 1.1) + 0.012 * i, ends[2][1] + 0.026 * i) for i in range(13)
    ]
    ribbon = stage.canvas().line(tail, 0.004)
    for px, py in tail[2::2]:
        ribbon.polygon(
            [
                (px - 0.018, py - 0.01),
                (px + 0.018, py + 0.01),
                (px + 0.018, py - 0.01),
                (px - 0.018, py + 0.01),
            ]
        )
    picture = over(picture, hues[0] * 0.8, ribbon.mask())
    for k in range(4):
        part = stage.canvas().polygon([mid, ends[k], ends[(k + 1) % 4]])
        picture = over(picture, hues[k] * (0.95 - 0.14 * k), part.mask())
    return picture


def rainy_street(stage: Stage) -> Array:
    """Lamps and headlights out of focus on a wet street at night."""
    picture = mix(rgb("#141a26"), rgb("#2a2c34"), stage.y) * np.ones(
        (stage.height, stage.width, 1), np.float32
    )
    walls = smooth(0.1, 0.45, np.abs(stage.x) - 0.25 * stage.y) * (stage.y < 0.6)
    picture = mix(
        picture, rgb("#1c1814") * (1 + 0.2 * stage.texture(1.5, 1, 1))[..., None], 0.8 * walls
    )
    hues = ["#ffb850", "#ffd890", "#ff5a3a", "#ffffff", "#60d080", "#70a8ff"]
    for _ in range(46):
        near = stage.rng.random() ** 1.6
        side = stage.rng.choice([-1, 1])
        lights = stage.canvas()
        r = 0.008 + 0.034 * near
        lights.disc(
            float(side) * (0.06 + 0.6 * near) + stage.rng.normal(0, 0.05),
            0.56 - stage.uniform(0, 0.42) * (0.25 + near),
            r,
            r,
        )
        hue = rgb(hues[int(stage.rng.choice(6, p=[0.36, 0.22, 0.16, 0.12, 0.06, 0.08]))])
        picture = picture + hue * (0.75 * lights.mask())[..., None]
    line = int(0.6 * stage.height)
    ripple = stage.noise(1.0, stage.x * 0.3, stage.y * 1.4, 0.0, 2)
    rows = np.clip(
        2 * line - np.arange(stage.height)[:, None] + (ripple * 0.02 * stage.height).astype(int),
        0,
        line,
    )
    columns = np.arange(stage.width)[None, :] + (ripple * 0.01 * stage.height).astype(int)
    mirror = blurred(picture, 0.012 * stage.height)[rows, np.clip(columns, 0, stage.width - 1)]
    wet = rgb("#16181e") + mirror * np.clip(0.75 + 0.3 * ripple, 0.2, 1.3)[..., None]
    picture = over(picture, wet, smooth(0.595, 0.605, stage.y) * np.ones_like(stage.x))
    rain = stage.canvas()
    for _ in range(140):
        x, y, n = (
            stage.uniform(stage.left, stage.right),
            stage.uniform(0, 1),
            stage.uniform(0.03, 0.09),
        )
        rain.line([(x, y), (x + 0.1 * n, y + n)], 0.0012)
    picture = picture + (0.10 * rain.mask())[..., None]
    if stage.chance("umbrella", 0.5):
        x, y, s = stage.uniform(-0.15, 0.15), 0.86, stage.uniform(0.28, 0.36)
        body = stage.canvas().limb((x, y - s * 0.62), (x, y - s * 0.35), s * 0.09, s * 0.13)
        body.limb((x - 0.02, y - s * 0.35), (x - 0.03, y), s * 0.05, s * 0.03).limb(
            (x + 0.02, y - s * 0.35), (x + 0.03, y), s * 0.05, s * 0.03
        )
        body.disc(x, y - s * 0.8, s * 0.065, s * 0.08)
        r = s * 0.36
        body.polygon(
            [
                (x + r * np.cos(t), y - s * 0.82 + 0.62 * r * np.sin(t))
                for t in np.linspace(np.pi, 2 * np.pi, 24)
            ]
        )
        picture = over(picture, rgb("#0a0b0e"), body.mask())
    return picture
