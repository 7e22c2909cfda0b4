"""Sea, mountains, deserts, fields: scenes without people's things in the middle."""

from __future__ import annotations

import numpy as np

from renderer.core import Array, Stage, mix, over, rgb, smooth
from renderer.ground import lay_land, water
from renderer.sky import paint_sky


def ocean(stage: Stage) -> Array:
    time = stage.pick("time", ["sunset", "day", "golden", "storm", "dawn", "overcast"])
    horizon = stage.between("horizon", 0.42, 0.62)
    sky = paint_sky(stage, time, horizon)
    rough = stage.between("rough", 0.45, 1.0)
    deep = {"day": stage.pick("deep", ["#0b4a6e", "#0d5d78", "#11406a"])}.get(time, "#1c2c42")
    return water(
        stage,
        sky,
        sky.picture,
        rough=rough,
        deep=deep,
        eye=stage.between("eye", 0.8, 1.8),
        foam=1.0 if time == "storm" else 0.35 * rough if time == "day" else 0.0,
    )


def mountains(stage: Stage) -> Array:
    time = stage.pick("time", ["day", "golden", "sunset", "dawn", "overcast"])
    horizon = stage.between("horizon", 0.5, 0.62)
    sky = paint_sky(stage, time, horizon)
    snow = stage.between("snow", 0.0, 1.0)
    stage.facts["snowy"] = snow > 0.4
    tall = stage.between("tall", 7.0, 11.0)
    scale = stage.uniform(0.010, 0.015)

    def height_of(x: Array, z: Array, foot: Array) -> Array:
        bend = stage.noise(2.4, x * scale, z * scale, foot * scale, 1) * 0.05
        u, v = x * scale * 0.8 + bend, z * scale * 0.8 + bend
        ridge = 1 - np.abs(stage.noise(2.25, u, v, foot * scale, 2))
        ridge = np.maximum(ridge, -0.2)
        rough = stage.noise(1.75, x * scale * 2.5, z * scale * 2.5, foot * scale * 2.5, 3)
        rise = smooth(7, 34, z)
        return (0.75 * ridge + 0.10 * rough * (0.4 + np.abs(ridge))) * tall * rise + 0.1 * rough

    def paint(x: Array, z: Array, h: Array, steep: Array, light: Array, foot: Array) -> Array:
        speck = stage.noise(1.1, x * 0.11, z * 0.11, foot * 0.11, 4)
        rock = mix(rgb("#6b655e"), rgb("#8f877b"), 0.5 + 0.4 * speck)
        green = mix(rgb("#39492a"), rgb("#66703c"), 0.5 + 0.4 * speck)
        level = h / tall + 0.12 * speck
        colour = mix(green, rock, smooth(0.15, 0.5, level + steep * 0.8))
        white = smooth(1.0 - 1.3 * snow, 1.15 - 1.3 * snow, level - steep * 0.55 + 0.1)
        return mix(colour, rgb("#f3f6fa") * 1.25, white)

    land = lay_land(
        stage,
        sky,
        height_of,
        paint,
        eye=2.2,
        near=1.0,
        far=90,
        haze=stage.uniform(0.008, 0.02),
        sun_height=0.45,
    )
    return over(sky.picture, land.picture, land.mask)


def dunes(stage: Stage) -> Array:
    time = stage.pick("time", ["day", "golden", "sunset", "dawn"])
    horizon = stage.between("horizon", 0.4, 0.5)
    sky = paint_sky(stage, time, horizon, clouds=stage.between("clouds", 0.0, 0.35))
    sand = rgb(stage.pick("sand", ["#d9a066", "#cf8f55", "#e0b27c", "#c67a45"]))
    turn = stage.uniform(-0.5, 0.5)

    def height_of(x: Array, z: Array, foot: Array) -> Array:
        u, v = x + turn * z, z - turn * x
        sway = stage.noise(3.0, u * 0.012, v * 0.012, 0.0, 1)
        phase = v * 0.085 + 0.55 * sway + 0.16 * stage.noise(3.0, u * 0.05, v * 0.05, 0.0, 2)
        saw = phase % 1
        crest = np.where(saw < 0.72, (saw / 0.72) ** 1.3, smooth(1.0, 0.72, saw))
        size = np.clip(1.1 + 0.5 * stage.noise(3.0, u * 0.02, v * 0.02, 0.0, 3), 0.2, 2.2)
        return crest * size * 1.5 * smooth(0, 7, z) + 0.3 * sway

    def paint(x: Array, z: Array, h: Array, steep: Array, light: Array, foot: Array) -> Array:
        u, v = x + turn * z, z - turn * x
        bend = stage.noise(1.9, u * 0.15, v * 0.15, foot * 0.15, 5)
        waves = np.sin(v * 55 + 9 * bend) * np.exp(-foot * 26)
        speck = stage.noise(1.0, x * 0.3, z * 0.3, foot * 0.3, 4)
        return sand * (1.05 + 0.09 * waves + 0.04 * speck)[..., None]

    land = lay_land(
        stage,
        sky,
        height_of,
        paint,
        eye=2.1,
        near=0.9,
        far=70,
        haze=0.012,
        sun_height=0.42,
        ambient=0.42,
    )
    return over(sky.picture, land.picture, land.mask)


def hills(stage: Stage) -> Array:
    time = stage.pick("time", ["day", "golden", "overcast", "dawn"])
    horizon = stage.between("horizon", 0.42, 0.55)
    sky = paint_sky(stage, time, horizon)
    lush, dry = rgb("#4f7f2a"), rgb("#90a34a")

    def height_of(x: Array, z: Array, foot: Array) -> Array:
        swell = stage.noise(2.3, x * 0.016, z * 0.016, foot * 0.016, 1)
        return swell * 1.1 * smooth(0, 12, z) + 0.05 * stage.noise(2.0, x * 0.1, z * 0.1, foot, 2)

    def paint(x: Array, z: Array, h: Array, steep: Array, light: Array, foot: Array) -> Array:
        patch = stage.noise(1.8, x * 0.03, z * 0.03, foot * 0.03, 3)
        blade = stage.noise(0.8, x * 0.7, z * 0.5, foot * 0.5, 4)
        tuft = stage.noise(1.2, x * 0.12, z * 0.12, foot * 0.12, 5)
        colour = mix(lush, dry, np.clip(0.45 + 0.3 * patch, 0, 1))
        wood = smooth(1.0, 1.4, tuft * 0.55 + patch) * smooth(5, 9, z)
        return mix(
            colour * (1 + 0.20 * blade + 0.10 * tuft)[..., None],
            rgb("#2d4722") * (1 + 0.45 * blade)[..., None],
            wood,
        )

    land = lay_land(stage, sky, height_of, paint, eye=1.6, near=0.7, far=60, haze=0.016)
    return over(sky.picture, land.picture, land.mask)


def grain(stage: Stage) -> Array:
    """A field of ripe wheat, or another crop, up close and to the horizon."""
    time = stage.pick("time", ["day", "golden", "sunset"])
    horizon = stage.between("horizon", 0.32, 0.5)
    sky = paint_sky(stage, time, horizon)
    crop = stage.pick("crop", ["wheat", "wheat", "rape", "grass"])
    dark, bright = {
        "wheat": ("#8a6420", "#e8c16a"),
        "rape": ("#7f8a14", "#f6dc22"),
        "grass": ("#4a6a20", "#9ab84c"),
    }[crop]
    down = np.maximum(stage.y - horizon, 0.002)
    z = 0.22 / down
    x = stage.x * z
    foot = z / stage.height
    wind = stage.noise(2.0, x * 0.25, z * 0.18, foot * 0.2, 1)
    ears = stage.noise(0.7, x * 0.75, z * 0.16, foot * 0.5, 2)
    stalk = stage.noise(0.9, stage.x * 0.9 / down**0.25, stage.y * 0.07, 0.0, 3)
    tone = 0.48 + 0.16 * wind + 0.22 * ears + 0.20 * stalk * smooth(0.02, 0.35, down)
    field = mix(rgb(dark), rgb(bright), np.clip(tone, 0, 1.25))
    field = field * (sky.light * 0.85 + sky.fill * 0.3)
    veil = np.exp(-down / 0.03)
    field = mix(field, sky.haze * 0.9, 0.35 * np.broadcast_to(veil, tone.shape))
    line = horizon + 0.006 * stage.noise(2.0, stage.x * 0.2, stage.x * 0, 0.0, 4)
    trees = line - 0.012 - 0.012 * np.abs(stage.noise(1.2, stage.x * 0.5, stage.x * 0, 0.0, 5))
    soft = stage.height
    wood = np.clip((stage.y - trees) * soft, 0, 1)
    picture = over(sky.picture, mix(rgb("#33452c"), sky.haze, 0.45), wood)
    mask = np.clip((stage.y - line + 0.004 * ears) * soft / 2, 0, 1)
    return over(picture, field, mask)


def tulips(stage: Stage) -> Array:
    """Rows of flowers to the horizon: tulips or lavender."""
    kind = stage.pick("flower", ["tulip", "tulip", "lavender"])
    time = stage.pick(
        "time", ["day", "golden", "overcast"] if kind == "tulip" else ["golden", "sunset", "day"]
    )
    horizon = stage.between("horizon", 0.3, 0.42)
    sky = paint_sky(stage, time, horizon)
    down = np.maximum(stage.y - horizon, 0.002)
    z = 0.5 / down
    x = (stage.x - stage.uniform(-0.2, 0.2)) * z
    foot = z / stage.height
    rng = stage.rng
    colours = {
        "tulip": ["#d3222a", "#f2c319", "#e86aa0", "#f5f1ee", "#e8741e", "#8a2c86"],
        "lavender": ["#6a4fa8", "#7a5cb8", "#5c469c"],
    }[kind]
    order = [rgb(colours[i]) for i in rng.integers(0, len(colours), 8)]
    if kind == "tulip":
        start = stage.pick("first", list(range(len(colours))))
        order = [rgb(colours[(start + i) % len(colours)]) for i in range(8)]
    step = stage.uniform(0.55, 0.8)
    row = x / step
    bloom = stage.noise(0.75, x * 0.9, z * 0.45, foot * 0.6, 2)
    lane = np.floor(row).astype(int) % 8
    petals = np.stack(order)[lane]
    inside = np.abs(row % 1 - 0.5) + 0.05 * bloom * np.exp(-foot * 30)
    soil = mix(rgb("#4a3a28"), rgb("#4f6a2c"), 0.5 + 0.3 * bloom)
    leaf = rgb("#3f6a2a") * (1 + 0.3 * bloom)[..., None]
    heads = smooth(-0.55, 0.35, bloom + 0.35)
    colour = mix(leaf, petals * (0.85 + 0.28 * bloom)[..., None], heads)
    colour = mix(colour, soil * 0.8, smooth(0.33, 0.43, inside))
    colour = colour * (sky.light * 0.8 + sky.fill * 0.35)
    veil = np.exp(-down / 0.03)
    colour = mix(colour, sky.haze * 0.85, 0.4 * np.broadcast_to(veil, bloom.shape))
    trees = horizon - 0.015 - 0.014 * np.abs(stage.noise(1.2, stage.x * 0.4, stage.x * 0, 0.0, 5))
    picture = over(
        sky.picture,
        mix(rgb("#33452c"), sky.haze, 0.4),
        np.clip((stage.y - trees) * stage.height, 0, 1),
    )
    mask = np.clip((stage.y - horizon) * stage.height, 0, 1) * np.ones_like(bloom)
    return over(picture, colour, mask.astype(np.float32))


def lake(stage: Stage) -> Array:
    """Mountains or woods mirrored in still water."""
    shore = stage.between("shore", 0.52, 0.64)
    stage.wishes = {**stage.wishes, "horizon": shore - 0.01}
    time = stage.pick("time", ["day", "golden", "sunset", "dawn"])
    stage.wishes = {**stage.wishes, "time": time}
    picture = mountains(stage)
    sky = paint_sky(stage, time, shore, clouds=0)
    sky.horizon = shore
    if stage.chance("wood", 0.75):
        edge = shore - 0.03 - 0.025 * np.abs(stage.noise(1.1, stage.x * 0.8, stage.x * 0, 0.0, 9))
        edge = edge - 0.03 * np.maximum(stage.noise(2.2, stage.x * 0.2, stage.x * 0, 0.0, 10), 0)
        tooth = stage.noise(0.8, stage.x * 0.9, stage.y * 0.3, 0.0, 11)
        firs = np.clip((stage.y - edge - 0.006 * tooth) * stage.height / 1.5, 0, 1)
        tone = mix(rgb("#16241a"), rgb("#314a2a"), 0.5 + 0.3 * tooth)
        picture = over(picture, tone * (sky.light * 0.6 + sky.fill * 0.5), firs)
    return water(
        stage,
        sky,
        picture,
        rough=stage.between("rough", 0.02, 0.22),
        deep="#10303a",
        eye=1.0,
        glitter=0.0,
    )


def volcano(stage: Stage) -> Array:
    """A cone with glowing lava and a plume of smoke."""
    time = stage.pick("time", ["dusk", "night", "sunset", "day"])
    horizon = 0.78
    sky = paint_sky(stage, time, horizon, clouds=stage.between("clouds", 0.0, 0.4))
    cx = stage.between("place", -0.2, 0.2)
    top = stage.uniform(0.34, 0.42)
    wide = stage.uniform(0.06, 0.09)
    rough = stage.texture(1.6, 0.6, 1)
    reach = np.abs(stage.x - cx) + 0.012 * rough
    side = top + np.maximum(reach - wide, 0) ** 0.85 * stage.uniform(0.62, 0.8)
    side = side - 0.012 * smooth(wide * 1.3, wide * 0.9, reach)
    cone = np.clip((stage.y - side) * stage.height, 0, 1)
    hot = rgb("#ff7a1c") * 3
    fire = time != "day"
    # Smoke rises and leans with the wind.
    lean = stage.uniform(-0.5, 0.5)
    up = np.maximum(top - stage.y, 0)
    axis = cx + lean * up**1.3
    plume = (stage.x - axis) / (wide * 0.9 + 0.45 * up**0.9)
    puff = stage.noise(1.7, stage.x * 0.5 - lean * up, stage.y * 0.5 + up * 0.2, 0.0, 2)
    thick = smooth(1.15, 0.3, np.abs(plume) + 0.42 * puff) * smooth(-0.02, 0.05, up)
    thick = thick * np.exp(-up * 0.9)
    smoke = mix(
        rgb("#2c2a2c"),
        rgb("#a09a98"),
        np.clip(0.45 + 0.35 * puff - 0.3 * plume * np.sign(-sky.sun[0]), 0, 1),
    )
    smoke = smoke * (sky.light * 0.7 + sky.fill)
    if fire:
        smoke = smoke + hot * (0.35 * np.exp(-up / 0.12))[..., None]
    picture = over(sky.picture, smoke, thick * 0.95)
    gully = stage.noise(
        1.5, (stage.x - cx) / (0.15 + np.maximum(stage.y - top, 0)) * 0.18, stage.y * 0.22, 0.0, 3
    )
    rock = (
        rgb("#4a423e")
        * (0.7 + 0.3 * gully + 0.25 * np.sign(stage.x - cx) * np.sign(sky.sun[0]))[..., None]
    )
    rock = rock * (sky.light * 0.8 + sky.fill * 0.5)
    if fire:
        fall = stage.y - top
        stream = smooth(0.9, 1.7, gully + 0.3 * rough + 0.9 - 2.4 * fall)
        rock = rock + hot * (stream * np.exp(-fall * 4) * 1.3)[..., None]
        rock = rock + hot * (0.10 * np.exp(-np.maximum(fall, 0) / 0.08))[..., None]
    rock = mix(rock, sky.haze, 0.25 * smooth(top, horizon, stage.y) * np.ones_like(rough))
    picture = over(picture, rock, cone)
    if fire:
        spray = stage.canvas()
        for _ in range(120):
            angle, speed = stage.rng.normal(0, 0.35), stage.rng.uniform(0.05, 0.2)
            t = stage.rng.uniform(0.2, 1.5)
            px = cx + np.sin(angle) * speed * t
            py = top - np.cos(angle) * speed * t + 0.08 * t * t
            spray.limb((px, py), (px + 0.004 * np.sin(angle), py - 0.006 * (1 - t)), 0.0016, 0.001)
        picture = picture + hot * (1.6 * spray.mask())[..., None]
    base = horizon + 0.07 + 0.02 * stage.noise(2.0, stage.x * 0.2, stage.x * 0, 0.0, 6)
    return over(
        picture,
        rgb("#1c221a") * (sky.fill + sky.light * 0.3),
        np.clip((stage.y - base - 0.004 * rough) * stage.height, 0, 1),
    )


def waterfall(stage: Stage) -> Array:
    """White water falling over dark rock into a pool."""
    rough = stage.texture(1.5, 0.7, 1, 0.5)
    ledge = stage.texture(1.9, 0.35, 2, 0.35)
    rock = mix(rgb("#23262a"), rgb("#7a7468"), np.clip(0.4 + 0.24 * rough + 0.12 * ledge, 0, 1))
    moss = smooth(0.1, 1.0, stage.texture(1.7, 0.5, 3) + 0.4 * rough)
    green = mix(
        rgb("#22381a"), rgb("#6f8f38"), np.clip(0.4 + 0.4 * stage.texture(0.9, 1.2, 4), 0, 1)
    )
    top = stage.uniform(0.12, 0.22)
    pool = stage.uniform(0.74, 0.82)
    picture = mix(rock, green, 0.8 * moss)
    above = smooth(top + 0.02, top - 0.03, stage.y + 0.03 * ledge)
    leaf = stage.texture(1.0, 1.1, 5)
    canopy = mix(
        rgb("#1e3316"),
        rgb("#8fae4c"),
        np.clip(0.35 + 0.35 * leaf + 0.2 * stage.texture(2.0, 0.4, 6), 0, 1),
    )
    picture = over(picture, canopy, above)
    sky_gap = smooth(0.9, 1.6, stage.texture(1.9, 0.5, 7) + (0.2 - stage.y) * 4) * above
    picture = over(picture, rgb("#dfeaf0"), sky_gap)
    count = stage.pick("falls", [1, 1, 2, 3])
    mist = np.zeros_like(rough)
    for i in range(count):
        cx = stage.uniform(-0.12, 0.12) + (i - (count - 1) / 2) * 0.4
        wide = stage.uniform(0.07, 0.16) / (1 + 0.3 * (count - 1))
        fall = stage.y - top
        sway = 0.02 * stage.noise(2.0, stage.y * 0.2 + i, stage.y * 0, 0.0, 8)
        across = (stage.x - cx - sway) / (wide * (0.75 + 0.6 * np.maximum(fall, 0)))
        threads = stage.noise(1.2, across * 0.12 + i * 0.3, stage.y * 0.05, 0.0, 9)
        veil = smooth(1.15, 0.75, np.abs(across) + 0.22 * threads) * smooth(-0.015, 0.01, fall)
        veil = veil * smooth(pool + 0.02, pool - 0.02, stage.y)
        white = rgb("#dfe8ee") * (0.85 + 0.22 * threads)[..., None]
        picture = over(picture, white, veil * np.clip(0.82 + 0.2 * threads, 0, 1))
        mist = mist + np.exp(
            -(((stage.x - cx) / (wide * 2.2)) ** 2) - ((stage.y - pool) / 0.07) ** 2
        )
    down = np.maximum(stage.y - pool, 0)
    ripples = stage.noise(1.2, stage.x / (0.2 + down) * 0.05, 0.3 / (0.06 + down) * 0.2, 0.0, 10)
    mirror = picture[
        np.clip(((2 * pool - stage.y[:, 0]) * stage.height).astype(int), 0, stage.height - 1)
    ]
    pool_light = mix(rgb("#14343a"), mirror * 0.6, np.clip(0.5 + 0.25 * ripples, 0, 1))
    foam = np.clip(mist * (1 + 0.5 * ripples), 0, 1)
    pool_light = mix(pool_light, rgb("#dde8ec"), np.clip(foam * 0.8, 0, 1))
    picture = over(
        picture, pool_light, smooth(pool - 0.004, pool + 0.008, stage.y + 0.004 * ripples)
    )
    picture = mix(picture, rgb("#e6eef0"), np.clip(0.75 * mist, 0, 0.9))
    boulders = smooth(
        0.55,
        0.7,
        stage.noise(2.4, stage.x * 0.35, stage.y * 0.6, 0.0, 11) * 0.5 + (stage.y - 0.86) * 4,
    )
    stone = mix(rgb("#1c1e20"), rgb("#6a655c"), np.clip(0.35 + 0.3 * rough, 0, 1))
    return over(picture, stone, boulders)


def underwater(stage: Stage) -> Array:
    """Blue water with rays of light, fish and coral."""
    top, deep = rgb(stage.pick("tint", ["#4fc3d8", "#5ab8e0", "#48c8c0"])), rgb("#06284a")
    picture = mix(top, deep, smooth(-0.1, 0.85, stage.y + 0.03 * stage.texture(2.2, 0.3, 1)))
    cx = stage.uniform(-0.3, 0.3)
    angle = (stage.x - cx) / (stage.y + 0.25)
    rays = stage.noise(1.4, angle * 0.16, angle * 0, 0.0, 2)
    picture = picture * (1 + 0.38 * rays * np.exp(-stage.y * 1.7))[..., None]
    picture = (
        picture
        + rgb("#d8f6f4") * (0.9 * np.exp(-np.hypot(stage.x - cx, stage.y * 1.4) / 0.2))[..., None]
    )
    floor = 0.8 + 0.06 * stage.noise(2.0, stage.x * 0.25, stage.x * 0, 0.0, 3)
    down = np.maximum(stage.y - floor, 0.01)
    caustic = 1 - np.abs(
        stage.noise(1.6, stage.x / (down + 0.15) * 0.12, 0.25 / (down + 0.1) * 0.3, 0.0, 4)
    )
    sand = rgb("#9fc0b0") * (0.25 + 0.35 * np.maximum(caustic, 0) ** 3)[..., None]
    picture = over(picture, mix(picture, sand, 0.7), np.clip((stage.y - floor) * 40, 0, 1))
    lump = stage.noise(1.6, stage.x * 0.4, stage.y * 0.4, 0.0, 5)
    bank = 0.93 - 0.32 * np.maximum(stage.noise(2.0, stage.x * 0.28, stage.x * 0, 0.0, 6), -0.2)
    reef = smooth(-0.02, 0.01, stage.y - bank + 0.03 * lump)
    hues = [rgb(c) for c in ("#b0506a", "#c07a3a", "#7a5a9a", "#8a8a4a", "#c8a070")]
    which = np.clip((stage.texture(2.0, 1.2, 7) * 1.2 + 2.5).astype(int), 0, 4)
    coral = np.stack(hues)[which] * (0.55 + 0.35 * lump)[..., None]
    picture = over(picture, mix(coral, picture, 0.35), reef)
    fish_colour = rgb(stage.pick("fish", ["#f2a01c", "#f4d83a", "#d8e4ea", "#e8602a", "#3a6ae0"]))
    heading = stage.pick("heading", [-1, 1])
    body, stripe = stage.canvas(), stage.canvas()
    for _ in range(int(stage.rng.integers(6, 22))):
        fx, fy = stage.uniform(stage.left, stage.right), stage.uniform(0.15, 0.85)
        size = stage.uniform(0.015, 0.05)
        body.disc(fx, fy, size, size * 0.48)
        tail = fx - heading * size
        body.polygon(
            [
                (tail + heading * size * 0.25, fy),
                (tail - heading * size * 0.5, fy - size * 0.45),
                (tail - heading * size * 0.5, fy + size * 0.45),
            ]
        )
        body.polygon(
            [
                (fx - size * 0.4, fy - size * 0.4),
                (fx - heading * size * 0.2, fy - size * 0.75),
                (fx + size * 0.4, fy - size * 0.4),
            ]
        )
        stripe.limb(
            (fx + heading * size * 0.3, fy - size * 0.4),
            (fx + heading * size * 0.3, fy + size * 0.4),
            size * 0.07,
            size * 0.07,
        )
    shade = (1.0 - 0.5 * stage.y)[..., None] * (1 + 0.2 * stage.texture(1.0, 2, 8))[..., None]
    mask = body.mask(0.0006)
    picture = over(picture, mix(fish_colour * shade, picture, 0.15), mask)
    picture = over(picture, rgb("#f4f6f4") * shade, stripe.mask() * mask)
    dots = stage.canvas()
    for _ in range(60):
        r = stage.uniform(0.0008, 0.003)
        dots.disc(stage.uniform(stage.left, stage.right), stage.uniform(0, 1), r, r)
    return picture + (0.25 * dots.mask())[..., None]
