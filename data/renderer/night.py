"""Night skies: stars, moon, northern lights, lightning, fireworks, fire."""

from __future__ import annotations

import numpy as np

from renderer.core import Array, Stage, blurred, mix, over, rgb, smooth
from renderer.ground import water
from renderer.sky import moon, paint_sky, stars


def ridge(stage: Stage, level: float, size: float, number: int, beta: float = 1.9) -> Array:
    """The skyline of far hills: y of the rim at each column, (1, width)."""
    return level + size * stage.noise(beta, stage.x * 0.22, stage.x * 0, 0.0, number)


def firs_line(stage: Stage, level: float, number: int, tall: float = 0.07) -> Array:
    """A mask of a row of pointed trees standing on `level` and all below it."""
    line = ridge(stage, level, 0.03, number)
    canvas = stage.canvas()
    for _ in range(int(stage.aspect / tall * 3.4)):
        x = stage.uniform(stage.left, stage.right)
        column = int((x - stage.left) * stage.height) % stage.width
        foot = float(line[0, column]) + 0.01
        h = tall * stage.uniform(0.45, 1.2)
        for part in range(7):
            t = part / 7
            w = h * 0.04 + h * 0.17 * (t + 0.15)
            y = foot - h * (1 - t)
            canvas.polygon([(x, y - h * 0.09), (x + w, y + h * 0.13), (x - w, y + h * 0.13)])
        canvas.line([(x, foot - h * 0.1), (x, foot + 0.02)], h * 0.06)
    below = np.clip((stage.y - line) * stage.height, 0, 1)
    return np.maximum(canvas.mask(), below)


def starry(stage: Stage) -> Array:
    """Stars with the milky way or a moon over hills, woods or a lake."""
    what = stage.pick("what", ["milkyway", "moon", "crescent", "stars"])
    sky = paint_sky(stage, "night", 0.85, clouds=stage.between("clouds", 0.0, 0.0))
    picture = stars(stage, sky.picture, 1.0 if what != "moon" else 0.35, 0.9)
    if what == "milkyway":
        tilt = stage.uniform(0.5, 1.3) * stage.pick("side", [-1, 1])
        off = stage.uniform(-0.2, 0.2)
        across = ((stage.x - off) * np.cos(tilt) + (stage.y - 0.4) * np.sin(tilt)) / 0.13
        dust = stage.texture(1.6, 0.6, 1)
        fine = stage.texture(0.6, 2.0, 2)
        band = np.exp(-((across + 0.25 * dust) ** 2))
        lane = smooth(0.1, 1.1, dust + 0.4 - np.abs(across) * 0.6)
        glow = band * (0.16 + 0.05 * fine + 0.06 * dust) * (1 - 0.7 * lane * band)
        tint = mix(rgb("#8fa8d8"), rgb("#e8c8b0"), band * 0.7)
        picture = picture + tint * np.maximum(glow, 0)[..., None] * 1.6
    elif what in ("moon", "crescent"):
        x, y = stage.uniform(-0.4, 0.4), stage.uniform(0.18, 0.42)
        radius = stage.uniform(0.05, 0.12)
        picture = moon(stage, picture, x, y, radius, what == "moon")
    ground = stage.pick("ground", ["firs", "hills", "lake"])
    if ground == "lake":
        hill = np.clip((stage.y - ridge(stage, 0.64, 0.03, 4)) * stage.height, 0, 1)
        picture = over(picture, rgb("#060a10"), hill)
        picture = water(stage, sky, picture, shore=0.7, rough=0.08, deep="#060c14", glitter=0)
    else:
        far = np.clip((stage.y - ridge(stage, 0.74, 0.04, 4)) * stage.height, 0, 1)
        picture = over(picture, rgb("#0e1622"), far)
        near = (
            firs_line(stage, 0.88, 5)
            if ground == "firs"
            else np.clip((stage.y - ridge(stage, 0.86, 0.04, 6)) * stage.height, 0, 1)
        )
        picture = over(picture, rgb("#05070a"), near)
    return picture


def moonlit_sea(stage: Stage) -> Array:
    horizon = stage.between("horizon", 0.48, 0.6)
    x = stage.uniform(-0.3, 0.3)
    y = horizon - stage.uniform(0.16, 0.34)
    stage.wishes = {**stage.wishes, "sun": (x, y)}
    sky = paint_sky(stage, "night", horizon, clouds=stage.between("clouds", 0.0, 0.45))
    picture = stars(stage, sky.picture, 0.25, horizon)
    picture = moon(stage, picture, x, y, stage.uniform(0.03, 0.05), True)
    sky.light = rgb("#c8d0e0") * 0.75
    return water(
        stage, sky, picture, rough=stage.uniform(0.4, 0.8), deep="#081422", eye=1.2, glitter=0.9
    )


def aurora(stage: Stage) -> Array:
    sky = paint_sky(stage, "night", 0.85, clouds=0.0)
    picture = stars(stage, sky.picture, 0.7, 0.85)
    green = rgb(stage.pick("hue", ["#3cf08a", "#48e8a0", "#6af070"]))
    upper = rgb(stage.pick("upper", ["#a04ad0", "#d04a90", "#3ab0b0"]))
    for i in range(int(stage.rng.integers(2, 5))):
        base = stage.uniform(0.35, 0.66)
        bend = stage.noise(2.4, stage.x * 0.16 + i, stage.x * 0, 0.0, i)
        line = base + 0.12 * bend + stage.uniform(-0.25, 0.25) * stage.x
        up = line - stage.y
        fold = stage.noise(1.3, stage.x * 0.5 + 0.1 * bend + 0.02 * up, up * 0.02, 0.0, 5 + i)
        power = np.clip(
            0.6 + 0.55 * stage.noise(2.2, stage.x * 0.2 + i, stage.x * 0, 0.0, 9 + i), 0.05, 2
        )
        tall = 0.16 + 0.10 * np.abs(bend)
        curtain = np.exp(-np.maximum(up, 0) / tall) * smooth(-0.02, 0.03, up) * power
        curtain = curtain * np.clip(0.7 + 0.45 * fold, 0, 2)
        tint = mix(green, upper, smooth(0.05, 0.4, up))
        picture = picture + tint * (0.55 * curtain)[..., None]
    glow = np.exp(-(((stage.y - 0.6) / 0.25) ** 2)) * np.ones_like(stage.x)
    picture = picture + green * (0.05 * glow)[..., None]
    ground = stage.pick("ground", ["firs", "lake", "mountains"])
    if ground == "lake":
        hill = np.clip((stage.y - ridge(stage, 0.66, 0.05, 14)) * stage.height, 0, 1)
        picture = over(picture, rgb("#06100e"), hill)
        picture = water(stage, sky, picture, shore=0.72, rough=0.1, deep="#04100e", glitter=0)
    elif ground == "mountains":
        line = ridge(stage, 0.74, 0.09, 14, 1.7)
        snow = smooth(0.0, 0.9, stage.texture(1.4, 0.8, 13)) * smooth(0.16, 0.02, stage.y - line)
        colour = mix(rgb("#0a1418"), rgb("#4a7068"), snow * 0.7)
        picture = over(picture, colour, np.clip((stage.y - line) * stage.height, 0, 1))
    else:
        picture = over(picture, rgb("#04080a"), firs_line(stage, 0.86, 14, 0.1))
    return picture


def lightning(stage: Stage) -> Array:
    horizon = 0.78
    sky = paint_sky(stage, "storm", horizon, clouds=0.9)
    tint = rgb(stage.pick("tint", ["#8a7ad0", "#7a90d8", "#a088c8"]))
    picture = sky.picture * np.array([0.30, 0.30, 0.44], np.float32)
    canvas = stage.canvas()
    strikes = []

    def bolt(x: float, y: float, end: float, width: float, sway: float, left: int) -> None:
        while y < end:
            nx, ny = x + stage.rng.normal(0, 0.012) + sway, y + stage.uniform(0.008, 0.022)
            canvas.limb((x, y), (nx, ny), width, width)
            if left and stage.rng.random() < 0.09:
                bolt(
                    nx,
                    ny,
                    min(ny + stage.uniform(0.08, 0.3), end),
                    width * 0.45,
                    stage.rng.normal(0, 0.007),
                    left - 1,
                )
            x, y = nx, ny

    for _ in range(stage.pick("bolts", [1, 1, 2, 3])):
        x = stage.uniform(stage.left * 0.6, stage.right * 0.6)
        y = stage.uniform(0.12, 0.28)
        strikes.append((x, y))
        bolt(x, y, horizon, 0.0022, stage.rng.normal(0, 0.002), 2)
    mask = canvas.mask()
    for x, y in strikes:
        glow = np.exp(-np.hypot(stage.x - x, (stage.y - y) * 1.2) / 0.25)
        picture = picture * (1 + 2.4 * glow)[..., None] + tint * (0.25 * glow)[..., None]
    picture = picture + tint * (1.2 * blurred(mask, 0.012 * stage.height))[..., None]
    picture = picture + 5.0 * mask[..., None] * rgb("#f0ecff")
    ground = stage.pick("ground", ["plain", "sea", "town"])
    if ground == "sea":
        sky.horizon = horizon
        sky.haze = sky.haze * 0.25
        return water(stage, sky, picture, rough=0.6, deep="#10141f", glitter=0)
    line = ridge(stage, horizon, 0.008, 6)
    picture = over(picture, rgb("#08090c"), np.clip((stage.y - line) * stage.height, 0, 1))
    if ground == "town":
        lamps = stage.canvas()
        for _ in range(130):
            lamps.disc(
                stage.uniform(stage.left, stage.right),
                horizon + abs(stage.rng.normal(0, 0.03)) + 0.012,
                0.0016,
                0.0016,
            )
        picture = picture + rgb("#ffc070") * 2 * lamps.mask()[..., None]
    return picture


def fireworks(stage: Stage) -> Array:
    sky = paint_sky(stage, "night", 0.8, clouds=0.0)
    picture = sky.picture
    hues = ["#ff4a3a", "#ffd24a", "#4ac8ff", "#8aff6a", "#e070ff", "#ffffff", "#ff9a3a"]
    for _ in range(int(stage.rng.integers(3, 8))):
        cx, cy = stage.uniform(stage.left * 0.75, stage.right * 0.75), stage.uniform(0.12, 0.5)
        reach = stage.uniform(0.09, 0.24)
        hue = rgb(hues[int(stage.rng.integers(len(hues)))])
        canvas, tips = stage.canvas(), stage.canvas()
        for _ in range(int(stage.rng.integers(50, 110))):
            angle, tilt = stage.uniform(0, 6.283), np.sqrt(stage.rng.random())
            r = reach * (0.25 + 0.75 * tilt) * stage.uniform(0.9, 1.05)
            start = r * stage.uniform(0.1, 0.5)
            drop = 0.12 * r
            points = [
                (cx + np.cos(angle) * s, cy + np.sin(angle) * s + drop * (s / r) ** 2)
                for s in np.linspace(start, r, 6)
            ]
            canvas.line(points, 0.0022)
            tips.disc(*points[-1], 0.0028, 0.0028)
        trail = canvas.mask()
        smoke = np.exp(-np.hypot(stage.x - cx, stage.y - cy) / (reach * 0.7))
        picture = picture + hue * (1.3 * trail + 0.07 * smoke)[..., None]
        picture = picture + (hue * 0.6 + 0.8) * (2.5 * tips.mask())[..., None]
    ground = stage.pick("ground", ["water", "town", "crowd"])
    if ground == "water":
        lamps = stage.canvas()
        for _ in range(60):
            lamps.disc(
                stage.uniform(stage.left, stage.right),
                0.77 - abs(stage.rng.normal(0, 0.012)),
                0.0022,
                0.0022,
            )
        picture = over(
            picture,
            rgb("#06070b"),
            np.clip((stage.y - ridge(stage, 0.755, 0.012, 4)) * stage.height, 0, 1),
        )
        picture = picture + rgb("#ffc878") * 2 * lamps.mask()[..., None]
        return water(stage, sky, picture, shore=0.79, rough=0.45, deep="#05080f", glitter=0)
    if ground == "town":
        canvas, panes = stage.canvas(), stage.canvas()
        x = stage.left
        while x < stage.right:
            w, h = stage.uniform(0.04, 0.11), stage.uniform(0.06, 0.2)
            canvas.polygon(
                [
                    (x, 1),
                    (x, 1 - h),
                    (x + w / 2, 1 - h - stage.uniform(0, 0.03)),
                    (x + w, 1 - h),
                    (x + w, 1),
                ]
            )
            for _ in range(5):
                px, py = x + stage.uniform(0.1, 0.85) * w, 1 - h * stage.uniform(0.2, 0.85)
                panes.polygon(
                    [(px, py), (px + 0.006, py), (px + 0.006, py + 0.01), (px, py + 0.01)]
                )
            x += w
        picture = over(picture, rgb("#050609"), canvas.mask())
        return picture + rgb("#ffc878") * 1.2 * panes.mask()[..., None]
    canvas = stage.canvas()
    for _ in range(int(22 * stage.aspect)):
        x, r = stage.uniform(stage.left, stage.right), stage.uniform(0.022, 0.034)
        y = stage.uniform(0.88, 0.97)
        canvas.disc(x, y, r, r * 1.2).disc(x, y + r * 4.0, r * 2.3, r * 2.9)
        if stage.rng.random() < 0.2:
            canvas.limb((x + r * 1.6, y + r * 2), (x + r * 2.2, y - r * 1.2), r * 0.4, r * 0.3)
    return over(picture, rgb("#040507"), canvas.mask())


def campfire(stage: Stage) -> Array:
    """A tent and a fire under the evening sky."""
    time = stage.pick("time", ["night", "night", "dusk"])
    sky = paint_sky(stage, time, 0.72, clouds=stage.between("clouds", 0.0, 0.2))
    picture = stars(stage, sky.picture, 0.6, 0.75) if time == "night" else sky.picture
    picture = over(
        picture,
        rgb("#101820"),
        np.clip((stage.y - ridge(stage, 0.58, 0.06, 1)) * stage.height, 0, 1),
    )
    picture = over(picture, rgb("#070b0c"), firs_line(stage, 0.7, 2, 0.16))
    tent, fire = stage.pick("which", [(True, True), (True, False), (False, True)])
    grass = stage.texture(0.8, 1.6, 3, 0.6)
    picture = over(
        picture,
        rgb("#12160e") * (1 + 0.3 * grass)[..., None],
        np.clip((stage.y - 0.73 - 0.003 * grass) * stage.height, 0, 1),
    )
    x = stage.uniform(-0.3, -0.05) if tent and fire else stage.uniform(-0.15, 0.15)
    if tent:
        y, w, h = 0.84, 0.24, 0.25
        hue = rgb(stage.pick("cloth", ["#f0a83a", "#e87a3a", "#d8c84a", "#e85a4a", "#7ac0a8"]))
        body = stage.canvas().polygon(
            [
                (x - w, y),
                (x - w * 0.12, y - h),
                (x + w * 0.28, y - h * 0.97),
                (x + w * 1.05, y - 0.02),
            ]
        )
        side = stage.canvas().polygon(
            [
                (x - w * 0.12, y - h),
                (x + w * 0.28, y - h * 0.97),
                (x + w * 1.05, y - 0.02),
                (x + w * 0.36, y + 0.012),
            ]
        )
        glow = np.exp(-np.hypot((stage.x - x) / 0.2, (stage.y - y + 0.07) / 0.15))
        cloth = (
            hue
            * (0.35 + 1.35 * glow)[..., None]
            * (1 + 0.05 * stage.texture(1.5, 1.2, 5))[..., None]
        )
        halo = np.exp(-np.hypot((stage.x - x) / 0.3, (stage.y - y) / 0.09))
        picture = picture + hue * (0.16 * halo)[..., None]
        picture = over(picture, cloth, body.mask())
        picture = over(picture, cloth * 0.62, side.mask())
        seams = stage.canvas().line([(x - w * 0.12, y - h), (x - w * 0.28, y + 0.004)], 0.004)
        seams.line([(x - w * 0.12, y - h), (x + w * 0.36, y + 0.012)], 0.005)
        picture = picture * (1 - 0.6 * seams.mask())[..., None]
    if fire:
        fx, fy = (x + 0.5, 0.9) if tent else (x, 0.88)
        hot = rgb("#ffb13a")
        reach = np.exp(-np.hypot((stage.x - fx) / 0.42, (stage.y - fy) / 0.13))
        near = np.exp(-np.hypot(stage.x - fx, stage.y - fy + 0.06) / 0.18)
        ground = (stage.y > 0.735) * np.clip(1 + 0.35 * grass, 0, 2)
        picture = picture + rgb("#ff8c34") * (0.38 * reach * ground + 0.12 * near)[..., None]
        logs = stage.canvas()
        for i in range(6):
            a = stage.uniform(-0.5, 0.5)
            logs.limb(
                (fx - 0.075 * np.cos(a), fy + 0.005 + 0.012 * i / 5),
                (fx + 0.07 * np.cos(a), fy - 0.04 * np.sin(a) + 0.008),
                0.010,
                0.009,
            )
        picture = over(picture, rgb("#2a1a10"), logs.mask())
        up = fy - stage.y
        tongue = stage.noise(1.5, (stage.x - fx) * 0.9, up * 0.5, 0.0, 7)
        for _ in range(5):
            cx = fx + stage.rng.normal(0, 0.025)
            tall = stage.uniform(0.10, 0.22)
            t = np.clip(up / tall, 0, 1)
            half = 0.035 * np.maximum(np.sin(np.pi * np.minimum(t * 0.75 + 0.25, 1)), 0) ** 0.8
            flame = (
                smooth(1.0, 0.2, np.abs(stage.x - cx - 0.03 * tongue * t) / (half + 1e-3))
                * (up > -0.004)
                * (1 - t) ** 0.6
            )
            tint = mix(hot * 1.6, rgb("#ff5a14") * 1.2, t)
            picture = picture + tint * flame[..., None]
        sparks = stage.canvas()
        for _ in range(60):
            h = stage.rng.exponential(0.13)
            sparks.disc(fx + stage.rng.normal(0, 0.02 + 0.25 * h), fy - 0.1 - h, 0.0014, 0.0014)
        picture = picture + hot * 2 * sparks.mask()[..., None]
    return picture
