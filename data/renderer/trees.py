"""Forests, single trees, palms and snow."""

from __future__ import annotations

import numpy as np

from renderer.core import Array, Stage, blurred, mix, over, resized, rgb, smooth
from renderer.ground import bare_tree, broadleaf, conifer, lay_land, stand, water
from renderer.sky import paint_sky

LEAVES = {
    "summer": (("#1f3a16", "#86a84a"), ("#27421a", "#9ab95a"), ("#1c3518", "#6f9440")),
    "autumn": (("#7a2a10", "#f0922c"), ("#8a5a10", "#f6c83c"), ("#6a1a12", "#d8482a"),
               ("#5a4a1a", "#c8a440")),
    "spring": (("#a0506e", "#f8c8d8"), ("#b4688a", "#fde0ea")),
}  # fmt: skip


def _coloured(tree: tuple[Array, Array], dark: Array, bright: Array, lamp: Array) -> Array:
    light = tree[1]
    colour = mix(dark, bright, np.clip(light, 0, 1))
    return np.where(light[..., None] < 0, rgb("#3a2e24") * 0.8, colour) * lamp


def forest(stage: Stage) -> Array:
    """Inside or before a wood, in one of the seasons."""
    season = stage.pick("season", ["winter", "autumn", "summer", "fog"])
    time = {"winter": "overcast", "fog": "overcast"}.get(season, "day")
    time = stage.pick("time", [time, time, "golden" if season in ("autumn", "summer") else time])
    horizon = stage.uniform(0.5, 0.6)
    sky = paint_sky(stage, time, horizon)
    picture = sky.picture
    if season in ("fog", "winter"):
        picture = mix(picture, sky.haze * 1.1, 0.6)
    firs = stage.pick(
        "firs", [True, False] if season in ("summer", "fog") else [season == "winter"]
    )
    lamp = sky.light * 0.75 + sky.fill * 0.5
    ground_far, ground_near = {
        "winter": ("#cfd8e2", "#eef2f6"),
        "autumn": ("#8a5a2a", "#b46a26"),
        "summer": ("#3a5a24", "#5f8030"),
        "fog": ("#5a645a", "#3e4636"),
    }[season]
    down = np.maximum(stage.y - horizon, 0)
    z = 0.3 / np.maximum(down, 0.004)
    rough = stage.noise(1.3, stage.x * z * 0.6, z * 0.5, z / stage.height * 0.6, 3)
    tone = mix(rgb(ground_far), rgb(ground_near), np.clip(down * 2 + 0.0 * rough, 0, 1))
    strength = 0.07 if season == "winter" else 0.28
    ground = tone * (1 + strength * rough)[..., None] * lamp * (1.15 if season == "winter" else 1)
    if season == "winter" and time == "overcast":
        ground = tone * (0.9 + strength * rough)[..., None]
    litter = stage.noise(0.5, stage.x * z * 1.6, z * 1.1, z / stage.height * 1.3, 4)
    if season == "autumn":
        ground = mix(ground, rgb("#f0a030") * lamp, 0.7 * smooth(0.9, 1.5, litter))
    path = stage.chance("path", 0.4)
    if path:
        bend = stage.uniform(-0.3, 0.3)
        middle = bend * np.exp(-down * 5) + stage.uniform(-0.1, 0.1)
        wide = 0.03 + 0.55 * down
        track = smooth(1.1, 0.8, np.abs(stage.x - middle) / wide + 0.15 * rough)
        dust = rgb("#c4ccd6" if season == "winter" else "#8a7658") * lamp
        ground = mix(ground, dust * (1 + 0.12 * rough)[..., None], 0.8 * track)
    picture = over(picture, ground, smooth(-0.004, 0.02, stage.y - horizon + 0.006 * rough))
    veil_colour = sky.haze * 1.0
    veil = {"fog": 0.9, "winter": 0.6}.get(season, 0.42)
    kinds = (
        [conifer(stage, 220), conifer(stage, 220), conifer(stage, 220)]
        if firs
        else [broadleaf(stage, 200, stage.uniform(0.3, 0.42)) for _ in range(4)]
    )
    palette = LEAVES["autumn" if season == "autumn" else "summer"]
    rows = 8
    for row in range(rows):
        near = row / (rows - 1)
        foot = horizon + 0.005 + 0.34 * near**2.2
        tall = (0.24 if firs else 0.30) + 1.0 * near**1.6
        count = int(stage.aspect / tall * 4.2 * (1 - 0.7 * near)) + 2
        for _ in range(count):
            x = stage.uniform(stage.left - 0.1, stage.right + 0.1)
            if near > 0.5 and abs(x) < (0.5 - 0.2 * stage.aspect / 1.5) + (0.16 if path else 0.06):
                x = np.sign(x or 1) * stage.uniform(0.35, stage.right + 0.1)
            mask, light = kinds[int(stage.rng.integers(len(kinds)))]
            size = max(6, int(tall * stage.uniform(0.75, 1.2) * stage.height))
            wide = max(4, int(size * mask.shape[1] / mask.shape[0] * stage.uniform(0.85, 1.15)))
            mask, light = resized(mask, wide, size), resized(light, wide, size)
            if stage.rng.random() < 0.5:
                mask, light = mask[:, ::-1], light[:, ::-1]
            if size > 220:
                fine = stage.rng.standard_normal((size, wide)).astype(np.float32)
                fine = blurred(fine, size / 420) * 1.2
                light = np.where(light < -0.3, light, np.clip(light + 0.13 * fine, 0, 1))
                mask = np.clip(mask * (1 + 0.35 * fine * (mask < 0.97)), 0, 1)
            dark, bright = palette[int(stage.rng.integers(len(palette)))]
            if firs:
                dark, bright = "#0e1c14", "#3f5c38"
            colour = _coloured((mask, light), rgb(dark), rgb(bright), lamp)
            if season == "winter":
                colour = mix(colour, rgb("#f4f7fa") * 0.95, smooth(0.42, 0.75, light))
            fade = veil * (1 - near) ** 1.3
            stand(picture, stage, (mask, light), mix(colour, veil_colour, fade), x, foot)
        mist = np.exp(-(((stage.y - foot) / (0.03 + 0.05 * near)) ** 2)) * veil * 0.35 * (1 - near)
        picture = mix(picture, veil_colour, np.broadcast_to(mist, picture.shape[:2]))
    if season == "winter" and stage.chance("falling", 0.4):
        flakes = stage.canvas()
        for _ in range(int(240 * stage.aspect)):
            r = 0.0012 * (0.5 + stage.rng.pareto(2.5))
            r = min(r, 0.007)
            flakes.disc(stage.uniform(stage.left, stage.right), stage.uniform(0, 1), r, r * 1.2)
        picture = over(picture, rgb("#ffffff"), 0.75 * flakes.mask(0.0006))
    if season == "autumn" or time == "golden":
        beam = np.exp(-(((stage.x - sky.sun[0]) / 0.5) ** 2) - ((stage.y - 0.2) / 0.4) ** 2)
        picture = picture + sky.light * (0.16 * beam)[..., None]
    return picture


def lone_tree(stage: Stage) -> Array:
    """One tree on a rise in a field, in leaf, in blossom, or bare."""
    season = stage.pick("season", ["summer", "autumn", "spring", "bare"])
    time = stage.pick("time", ["sunset", "dawn", "fog"] if season == "bare" else ["day", "golden"])
    horizon = stage.uniform(0.68, 0.78)
    real = "overcast" if time == "fog" else time
    sky = paint_sky(stage, real, horizon)
    crest = horizon - 0.05 * np.exp(-(((stage.x - stage.uniform(-0.2, 0.2)) / 0.6) ** 2))
    blade = stage.texture(0.8, 1.6, 1, 0.5)
    patch = stage.texture(1.8, 0.5, 2, 3.0)
    tones = {
        "summer": ("#44691f", "#8fa848"),
        "autumn": ("#7a6a2c", "#b89a4c"),
        "spring": ("#4a7a28", "#94b850"),
        "bare": ("#4a4630", "#8a7d52"),
    }[season]
    grass = mix(rgb(tones[0]), rgb(tones[1]), np.clip(0.5 + 0.22 * blade + 0.2 * patch, 0, 1))
    lamp = sky.light * 0.8 + sky.fill * 0.4
    if real in ("sunset", "dawn"):
        lamp = lamp * 0.4
    picture = over(
        sky.picture, grass * lamp, np.clip((stage.y - crest - 0.003 * blade) * stage.height, 0, 1)
    )
    x = stage.between("place", -0.25, 0.25)
    foot = horizon - 0.01
    tall = stage.uniform(0.45, 0.62)
    if season == "bare":
        mask = bare_tree(stage, x, foot, tall * 1.15, stage.uniform(-0.1, 0.1))
        picture = over(picture, rgb("#1c1814") * (0.5 + 0.5 * (time == "fog")), mask)
    else:
        size = int(tall * stage.height)
        tree = broadleaf(stage, size, 0.24)
        dark, bright = stage.pick("leaves", LEAVES[season])
        shadow = np.exp(
            -(((stage.x - x + 0.1 * np.sign(sky.sun[0])) / 0.24) ** 2)
            - ((stage.y - foot - 0.025) / 0.022) ** 2
        )
        picture = picture * (1 - 0.5 * shadow)[..., None]
        stand(picture, stage, tree, _coloured(tree, rgb(dark), rgb(bright), lamp), x, foot + 0.01)
    if time == "fog":
        picture = mix(picture, sky.haze, 0.55)
    return picture


def palm(stage: Stage, canvas, leaves, x: float, y: float, tall: float, lean: float) -> None:  # type: ignore[no-untyped-def]
    """A palm tree: its trunk on `canvas`, its fronds on `leaves`."""
    px, py = x, y
    parts = 14
    for i in range(parts):
        t = (i + 1) / parts
        qx, qy = x + lean * t**1.6 * tall, y - tall * t
        canvas.limb(
            (px, py), (qx, qy), tall * 0.021 * (1.15 - 0.5 * t), tall * 0.020 * (1.1 - 0.5 * t)
        )
        px, py = qx, qy
    for i in range(15):
        angle = -np.pi * (i + stage.uniform(0.1, 0.9)) / 15 * 1.35 + 0.17 * np.pi
        reach = tall * stage.uniform(0.30, 0.40)
        last = (px, py)
        for j in range(1, 13):
            t = j / 12
            fx = px + np.cos(angle) * reach * t
            fy = py + np.sin(angle) * reach * t + reach * 0.75 * t * t
            leaves.limb(last, (fx, fy), tall * 0.005, tall * 0.004)
            width = reach * 0.28 * np.sin(np.pi * min(1, 0.15 + 0.9 * t))
            for side in (-1, 1):
                tip = (
                    fx + width * (0.35 * np.cos(angle) + 0.25 * side),
                    fy + width * (0.9 - 0.2 * side),
                )
                leaves.limb((fx, fy), tip, tall * 0.0042, tall * 0.0015)
            last = (fx, fy)


def beach(stage: Stage) -> Array:
    """Sand, breaking water, perhaps palms."""
    time = stage.pick("time", ["day", "day", "sunset", "golden"])
    horizon = stage.between("horizon", 0.40, 0.5)
    sky = paint_sky(stage, time, horizon)
    deep = stage.pick("deep", ["#0d7f8f", "#0f6a96", "#15a0a4"]) if time == "day" else "#27506a"
    picture = water(stage, sky, sky.picture, rough=0.4, deep=deep, eye=1.1)
    edge = stage.uniform(0.66, 0.78)
    slope = stage.uniform(-0.16, 0.16)
    wave = stage.noise(2.2, stage.x * 0.22, stage.x * 0, 0.0, 1)
    line = edge + slope * stage.x + 0.018 * wave
    grit = stage.texture(0.7, 2.0, 2)
    swell = stage.texture(2.0, 0.5, 3, 2.0)
    if time == "day":
        shallow = np.exp(-np.maximum(line - stage.y, 0) / 0.09)
        turquoise = rgb("#5fd0c4") * (sky.light * 0.7 + sky.fill * 0.35)
        picture = mix(picture, turquoise, 0.6 * shallow * smooth(horizon, horizon + 0.05, stage.y))
    sand = mix(rgb("#d8bd90"), rgb("#efdcb4"), np.clip(0.5 + 0.12 * grit + 0.25 * swell, 0, 1))
    sand = sand * (sky.light * 0.8 + sky.fill * 0.35) * (1 + 0.06 * grit)[..., None]
    wet = smooth(0.10, 0.0, stage.y - line)
    mirror = picture[
        np.clip(
            ((2 * horizon - stage.y[:, 0] + 0.25) * stage.height).astype(int), 0, stage.height - 1
        )
    ]
    sand = mix(sand, mix(rgb("#8a7658") * 0.8, mirror, 0.4), 0.72 * wet)
    picture = over(picture, sand, smooth(-0.002, 0.004, stage.y - line))
    lace = stage.texture(1.2, 1.3, 4, 1.6)
    for i in range(3):
        away = i * stage.uniform(0.035, 0.06)
        crest = line - away - 0.008 * stage.noise(1.8, stage.x * 0.5, stage.x * 0 + i, 0.0, 5)
        band = np.exp(-(((stage.y - crest) / (0.010 - 0.002 * i)) ** 2))
        band = band + 0.6 * smooth(0.03, 0.0, crest - stage.y) * (stage.y < crest)
        foam = np.clip(band * (0.75 + 0.5 * lace), 0, 1) * (
            1.0 if i == 0 else smooth(-0.4, 0.8, wave * (-1) ** i + 0.4)
        )
        picture = over(picture, rgb("#fafcfc") * (sky.light * 0.65 + sky.fill * 0.35), 0.9 * foam)
    if stage.chance("palms", 0.55):
        trunk, fronds = stage.canvas(), stage.canvas()
        side = stage.pick("side", [-1, 1])
        for i in range(int(stage.rng.integers(1, 4))):
            x = side * (stage.right - 0.08 - 0.17 * i)
            palm(
                stage,
                trunk,
                fronds,
                x,
                stage.uniform(0.84, 0.96),
                stage.uniform(0.6, 0.8),
                -side * stage.uniform(0.1, 0.4),
            )
        lamp = sky.light * 0.75 + sky.fill * 0.35 if time == "day" else sky.fill * 0.35
        bark = rgb("#7d6a52") * (0.85 + 0.25 * stage.texture(0.6, 3, 6))[..., None]
        green = mix(
            rgb("#24461c"), rgb("#86a848"), np.clip(0.45 + 0.35 * stage.texture(0.8, 2, 7), 0, 1)
        )
        picture = over(picture, bark * lamp, trunk.mask())
        picture = over(picture, green * lamp, fronds.mask())
    if stage.chance("umbrella", 0.2):
        x = stage.uniform(stage.left * 0.6, stage.right * 0.6)
        y, r = 0.8, 0.11
        hue = stage.pick("cloth", ["#d8322c", "#2a6ad0", "#f2b820"])
        shade = np.exp(-(((stage.x - x - 0.03) / 0.12) ** 2) - ((stage.y - y - 0.13) / 0.014) ** 2)
        picture = picture * (1 - 0.5 * shade)[..., None]
        pole = stage.canvas().line([(x, y), (x + 0.01, y + 0.13)], 0.006)
        picture = over(picture, rgb("#e8e4dc"), pole.mask())
        for part in range(6):
            a0, a1 = np.pi + np.pi * part / 6, np.pi + np.pi * (part + 1) / 6
            arc = [(x + r * np.cos(a), y + 0.75 * r * np.sin(a)) for a in np.linspace(a0, a1, 6)]
            panel = stage.canvas().polygon([(x, y - 0.75 * r), *arc])
            colour = rgb(hue) if part % 2 else rgb("#f6f2ea")
            lit = 0.75 + 0.3 * np.clip((stage.x - x) / r * np.sign(sky.sun[0] or 1), -1, 1)
            picture = over(
                picture, colour * lit[..., None] * sky.light * np.ones_like(picture), panel.mask()
            )
    return picture


def snowfield(stage: Stage) -> Array:
    """Open snow with firs, a cabin perhaps."""
    time = stage.pick("time", ["day", "dusk", "overcast", "golden"])
    horizon = stage.uniform(0.46, 0.54)
    sky = paint_sky(stage, time, horizon)

    def height_of(x: Array, z: Array, foot: Array) -> Array:
        return stage.noise(2.4, x * 0.02, z * 0.02, foot * 0.02, 1) * 0.8 * smooth(2, 16, z)

    def paint(x: Array, z: Array, h: Array, steep: Array, light: Array, foot: Array) -> Array:
        drift = stage.noise(1.8, x * 0.12, z * 0.12, foot * 0.12, 2)
        spark = stage.noise(0.4, x, z, foot, 3)
        return rgb("#eef3fa") * (1.0 + 0.06 * drift + 0.02 * spark)[..., None]

    land = lay_land(
        stage,
        sky,
        height_of,
        paint,
        eye=1.5,
        near=0.7,
        far=45,
        haze=0.015,
        sun_height=0.3,
        ambient=0.75,
    )
    picture = over(sky.picture, land.picture, land.mask)
    lamp = sky.light * 0.6 + sky.fill * 0.5
    kinds = [conifer(stage, 200) for _ in range(3)]

    def fir(x: float, foot: float, tall: float) -> None:
        mask, light = kinds[int(stage.rng.integers(3))]
        size = max(8, int(tall * stage.height))
        wide = max(5, int(size * 0.5))
        mask, light = resized(mask, wide, size), resized(light, wide, size)
        colour = mix(rgb("#101e18"), rgb("#3c5640"), light) * lamp
        colour = mix(
            colour, rgb("#f2f6fb") * (sky.light * 0.6 + sky.fill * 0.45), smooth(0.4, 0.75, light)
        )
        stand(
            picture,
            stage,
            (mask, light),
            mix(colour, sky.haze, 0.35 * (foot < horizon + 0.1)),
            x,
            foot,
        )

    for _ in range(26):
        fir(
            stage.uniform(stage.left, stage.right),
            horizon + stage.uniform(0.0, 0.05),
            stage.uniform(0.07, 0.16),
        )
    cabin = stage.chance("cabin", 0.6)
    if cabin:
        picture = _cabin(stage, picture, lamp, time)
    for _ in range(int(stage.rng.integers(2, 6))):
        x = stage.rng.choice([-1, 1]) * stage.uniform(0.42 * stage.right / 0.75, stage.right + 0.05)
        fir(float(x), stage.uniform(0.7, 0.9), stage.uniform(0.3, 0.6))
    return picture


def _cabin(stage: Stage, picture: Array, lamp: Array, time: str) -> Array:
    x, y = stage.between("place", -0.2, 0.2), stage.uniform(0.66, 0.74)
    w, h = stage.uniform(0.16, 0.22), stage.uniform(0.13, 0.16)
    shadow = np.exp(-(((stage.x - x) / (w * 1.3)) ** 2) - ((stage.y - y - 0.005) / 0.02) ** 2)
    picture = picture * (1 - 0.3 * shadow)[..., None]
    wall = stage.canvas().polygon([(x - w, y), (x - w, y - h), (x + w, y - h), (x + w, y)])
    gable = stage.canvas().polygon(
        [
            (x + w * 0.15, y),
            (x + w * 0.15, y - h),
            (x + w * 0.58, y - h * 1.95),
            (x + w, y - h),
            (x + w, y),
        ]
    )
    logs = (
        0.8 + 0.2 * np.sin((stage.y - y) * 2 * np.pi / 0.017) + 0.15 * stage.texture(1.0, 2, 9, 0.2)
    )
    wood = rgb(stage.pick("wood", ["#6a4226", "#7a4a2a", "#5a2a20", "#54402e"]))
    picture = over(picture, wood * 0.75 * logs[..., None] * lamp, wall.mask())
    picture = over(picture, wood * 1.1 * logs[..., None] * lamp, gable.mask())
    roof = stage.canvas().polygon(
        [
            (x - w * 1.15, y - h * 0.92),
            (x - w * 0.55, y - h * 2.05),
            (x + w * 0.6, y - h * 2.1),
            (x + w * 0.13, y - h * 0.9),
        ]
    )
    edge = stage.canvas().line(
        [(x + w * 0.08, y - h * 0.86), (x + w * 0.58, y - h * 2.05), (x + w * 1.1, y - h * 0.86)],
        0.022,
    )
    snow = rgb("#f0f5fb") * (lamp + 0.12)
    picture = over(
        picture, snow * 0.92 * (1 + 0.03 * stage.texture(1.8, 1, 10))[..., None], roof.mask(0.002)
    )
    picture = over(picture, snow, edge.mask(0.0015))
    chimney = stage.canvas().polygon(
        [
            (x - w * 0.35, y - h * 1.7),
            (x - w * 0.35, y - h * 2.5),
            (x - w * 0.18, y - h * 2.5),
            (x - w * 0.18, y - h * 1.7),
        ]
    )
    picture = over(picture, rgb("#5a4a44") * lamp, chimney.mask())
    glow = rgb("#ffb04a") * (2.2 if time in ("dusk", "night") else 0.9)
    panes = stage.canvas()
    for wx in (-0.7, -0.25, 0.58):
        panes.polygon(
            [
                (x + w * wx - 0.018, y - h * 0.7),
                (x + w * wx + 0.018, y - h * 0.7),
                (x + w * wx + 0.018, y - h * 0.35),
                (x + w * wx - 0.018, y - h * 0.35),
            ]
        )
    bars = stage.canvas()
    for wx in (-0.7, -0.25, 0.58):
        bars.line([(x + w * wx, y - h * 0.7), (x + w * wx, y - h * 0.35)], 0.003)
        bars.line([(x + w * wx - 0.018, y - h * 0.52), (x + w * wx + 0.018, y - h * 0.52)], 0.003)
    picture = over(picture, glow, panes.mask())
    picture = over(picture, wood * 0.6, bars.mask())
    if time in ("dusk", "night"):
        picture = (
            picture
            + glow
            * (0.12 * np.exp(-(((stage.x - x) / 0.25) ** 2) - ((stage.y - y - 0.02) / 0.06) ** 2))[
                ..., None
            ]
        )
    rise = np.maximum(y - h * 2.5 - stage.y, 0)
    puff = stage.texture(1.7, 0.9, 11)
    smoke = (
        smooth(
            1.1,
            0.2,
            np.abs(stage.x - x + w * 0.27 - 0.3 * rise) / (0.012 + 0.16 * rise) + 0.4 * puff,
        )
        * np.exp(-rise * 5)
        * (rise > 0)
    )
    return over(picture, mix(rgb("#cfd4da"), stage_haze(picture), 0.3), 0.5 * smoke)


def stage_haze(picture: Array) -> Array:
    """The mean colour of the picture's upper third."""
    third = picture[: picture.shape[0] // 3]
    return np.asarray(third.mean(axis=(0, 1)), np.float32)
