# ruff: noqa: E501
"""People's things and animals under the sky."""

from __future__ import annotations

import numpy as np

from renderer import wild
from renderer.core import Array, Canvas, Point, Stage, curve, mix, over, rgb, smooth
from renderer.ground import water
from renderer.night import ridge
from renderer.sky import paint_sky, stars

# Outlines face right, feet on y = 0, one unit tall; (points) run round the body.
Limbs = list[tuple[Point, Point, float, float]]
BEASTS: dict[str, Limbs] = {
    "horse": [((-.42, .62), (.22, .62), .15, .15), ((.22, .66), (.5, .95), .14, .075), ((.5, .95), (.68, .78), .075, .045),
              ((-.45, .58), (-.42, .3), .1, .045), ((-.42, .3), (-.46, .0), .04, .028), ((-.34, .55), (-.26, .28), .08, .04), ((-.26, .28), (-.30, 0), .036, .028),
              ((.2, .55), (.2, .28), .08, .04), ((.2, .28), (.18, 0), .036, .028), ((.3, .55), (.36, .3), .07, .038), ((.36, .3), (.33, 0), .034, .028),
              ((-.55, .68), (-.66, .3), .045, .06), ((.47, 1.0), (.46, 1.07), .03, .012), ((.3, .85), (.44, 1.0), .06, .04)],
    "dog": [((-.4, .6), (.25, .58), .13, .16), ((.28, .66), (.42, .84), .11, .11), ((.42, .84), (.62, .79), .1, .05),
            ((-.42, .55), (-.46, .3), .1, .05), ((-.46, .3), (-.42, .02), .045, .035), ((-.3, .5), (-.3, .02), .06, .035),
            ((.22, .5), (.22, .02), .07, .038), ((.34, .5), (.36, .02), .06, .036), ((-.5, .66), (-.74, .92), .045, .022), ((.36, .9), (.3, .76), .05, .04)],
    "cat": [((-.1, .3), (.06, .48), .26, .17), ((.08, .5), (.14, .68), .13, .11), ((.16, .76), (.2, .75), .145, .125), ((.08, .84), (.06, .98), .05, .012),
            ((.25, .84), (.29, .98), .05, .012), ((.16, .4), (.19, .04), .07, .05), ((.06, .4), (.07, .04), .07, .05), ((-.2, .12), (.02, .08), .13, .07),
            ((-.3, .1), (-.56, .06), .05, .045), ((-.56, .06), (-.66, .2), .045, .03)],
    "camel": [((-.38, .6), (.26, .6), .15, .14), ((-.16, .68), (-.16, .84), .15, .05), ((.12, .68), (.12, .83), .13, .05), ((.3, .58), (.5, .6), .1, .07),
              ((.5, .6), (.6, .92), .065, .05), ((.6, .94), (.76, .9), .06, .038), ((-.44, .56), (-.4, .3), .08, .04), ((-.4, .3), (-.44, 0), .036, .03), ((-.32, .5), (-.28, 0), .05, .03),
              ((.22, .5), (.24, 0), .055, .03), ((.32, .52), (.34, 0), .05, .03), ((-.52, .6), (-.56, .36), .025, .015)],
    "elephant": [((-.3, .66), (.2, .7), .26, .26), ((.32, .78), (.44, .74), .19, .15), ((.52, .68), (.6, .3), .085, .05), ((.6, .3), (.66, .1), .05, .035),
                 ((-.4, .5), (-.4, .04), .12, .095), ((-.2, .48), (-.18, .04), .1, .085), ((.12, .5), (.12, .04), .11, .09), ((.3, .5), (.32, .04), .1, .085),
                 ((.24, .84), (.2, .56), .11, .07), ((-.55, .72), (-.62, .34), .03, .018), ((.5, .56), (.68, .5), .028, .01)],
    "deer": [((-.32, .56), (.2, .56), .11, .11), ((.22, .6), (.36, .8), .08, .05), ((.38, .83), (.5, .78), .052, .028), ((-.34, .5), (-.36, .28), .07, .032), ((-.36, .28), (-.36, 0), .026, .017),
             ((-.26, .5), (-.24, 0), .04, .017), ((.16, .5), (.16, 0), .042, .017), ((.24, .5), (.27, 0), .038, .017), ((-.43, .6), (-.47, .52), .025, .02), ((.34, .87), (.28, .91), .025, .01),
             ((.37, .88), (.27, 1.1), .013, .011), ((.27, 1.1), (.34, 1.26), .011, .006), ((.3, 1.04), (.18, 1.14), .009, .005), ((.27, 1.1), (.2, 1.22), .009, .005),
             ((.39, .88), (.48, 1.1), .013, .011), ((.48, 1.1), (.43, 1.26), .011, .006), ((.45, 1.03), (.57, 1.13), .009, .005), ((.48, 1.1), (.56, 1.22), .009, .005)],
}  # fmt: skip


def beast(canvas: Canvas, kind: str, x: float, y: float, tall: float, facing: int) -> None:
    """An animal's shape with its feet at (x, y)."""
    for a, b, ra, rb in BEASTS[kind]:
        canvas.limb(
            (x + facing * a[0] * tall, y - a[1] * tall),
            (x + facing * b[0] * tall, y - b[1] * tall),
            ra * tall,
            rb * tall,
        )


def animal(stage: Stage) -> Array:
    """One or more animals against the evening sky."""
    kind = stage.pick("kind", list(BEASTS))
    time = stage.pick("time", ["sunset", "sunset", "golden", "dawn"])
    horizon = stage.uniform(0.74, 0.82)
    tall = stage.uniform(0.26, 0.4)
    x = stage.between("place", -0.2, 0.2)
    sky = paint_sky(
        stage,
        time,
        horizon,
        sun=(x + stage.uniform(-0.3, 0.3), horizon - stage.uniform(0.08, 0.25)),
    )
    sand = kind == "camel"
    far = np.clip((stage.y - ridge(stage, horizon - 0.05, 0.03, 1)) * stage.height, 0, 1)
    picture = over(sky.picture, sky.haze * 0.45, far * 0.8)
    line = ridge(stage, horizon, 0.012, 2, 2.4)
    grass = 0.0 if sand else stage.texture(0.7, 1.6, 3, 0.4)
    dark = rgb("#3a1e10") if sand else rgb("#14110c")
    picture = over(
        picture,
        np.broadcast_to(dark, picture.shape),
        np.clip((stage.y - line - 0.006 * grass) * stage.height, 0, 1) * np.ones_like(stage.x),
    )
    canvas = stage.canvas()
    facing = stage.pick("facing", [-1, 1])
    count = stage.pick("count", [1, 1, 1, 3] if kind not in ("dog", "cat") else [1])
    for i in range(count):
        place = x + (i - (count - 1) / 2) * tall * 1.35
        column = int(np.clip((place - stage.left) * stage.height, 0, stage.width - 1))
        beast(
            canvas,
            kind,
            place,
            float(line[0, column]) + 0.012,
            tall * (1 - 0.16 * (i % 2)) / (1 + 0.2 * (count > 1)),
            facing,
        )
    return over(picture, rgb("#0d0a08"), canvas.mask(0.0015))


def birds(stage: Stage) -> Array:
    """A flock on the wing in silhouette."""
    time = stage.pick("time", ["sunset", "golden", "day", "dawn", "overcast"])
    sky = paint_sky(stage, time, 0.92)
    canvas = stage.canvas()
    for _ in range(int(stage.rng.integers(5, 34))):
        x, y = stage.uniform(stage.left, stage.right) * 0.85, stage.uniform(0.12, 0.7)
        w, lift, tilt = (
            stage.uniform(0.015, 0.045),
            stage.uniform(-0.3, 0.7),
            stage.uniform(-0.2, 0.2),
        )
        for side in (-1, 1):
            mid = (x + side * w * 0.5, y - w * lift * 0.55 - side * w * tilt * 0.4)
            tip = (x + side * w, y - w * lift * 0.25 - side * w * tilt)
            canvas.limb((x, y), mid, w * 0.10, w * 0.09).limb(mid, tip, w * 0.08, w * 0.015)
        canvas.limb((x - w * 0.2, y + w * 0.05), (x + w * 0.25, y), w * 0.07, w * 0.09)
    picture = over(
        sky.picture,
        rgb("#16130f"),
        np.clip((stage.y - ridge(stage, 0.93, 0.015, 3)) * stage.height, 0, 1),
    )
    return over(picture, rgb("#14110e"), canvas.mask(0.0008))


def boats(stage: Stage) -> Array:
    """A sailing boat, or some, on the sea."""
    time = stage.pick("time", ["day", "day", "sunset", "golden"])
    horizon = stage.between("horizon", 0.5, 0.6)
    sky = paint_sky(stage, time, horizon)
    count = stage.pick("count", [1, 1, 3])
    hue = rgb(stage.pick("sail", ["#f8f6f0", "#f8f6f0", "#c8382c", "#e8e0c8"]))
    picture, marks = sky.picture, []
    for i in range(count):
        x = (
            stage.between("place", -0.3, 0.3)
            if count == 1
            else (i - 1) * 0.45 + stage.uniform(-0.1, 0.1)
        )
        marks.append(
            (x, stage.uniform(0.18, 0.34) / (1 + 0.5 * (count > 1)), stage.uniform(0.02, 0.07))
        )
    dark = time == "sunset"
    # Reflected once: boats are drawn above the water line, then the water mirrors them.
    for x, tall, _ in marks:
        lean, y = 0.07 * tall, horizon + 0.004
        sail, jib, hull = stage.canvas(), stage.canvas(), stage.canvas()
        sail.polygon(
            curve(
                [
                    (x, y - tall * 0.16),
                    (x + lean, y - tall),
                    (x + tall * 0.22, y - tall * 0.5),
                    (x + tall * 0.40, y - tall * 0.15),
                ],
                6,
            )
        )
        jib.polygon(
            [
                (x - tall * 0.02, y - tall * 0.14),
                (x + lean - 0.002, y - tall * 0.93),
                (x - tall * 0.2, y - tall * 0.4),
                (x - tall * 0.34, y - tall * 0.12),
            ]
        )
        hull.polygon(
            [
                (x - tall * 0.42, y - tall * 0.1),
                (x + tall * 0.44, y - tall * 0.09),
                (x + tall * 0.36, y),
                (x - tall * 0.28, y),
            ]
        )
        hull.line([(x - 0.002, y - tall * 0.1), (x + lean, y - tall * 1.02)], 0.0035)
        shade = (0.9 + 0.25 * np.clip((stage.x - x) / (tall * 0.4), -1, 1))[..., None] * (
            sky.light * 0.7 + sky.fill * 0.35
        )
        cloth = hue * shade * np.ones_like(picture) * (0.22 if dark else 1)
        picture = over(picture, cloth, sail.mask() * 0.97)
        picture = over(picture, cloth * 0.88, jib.mask() * 0.95)
        picture = over(picture, rgb("#1c2430") * (0.4 if dark else 1), hull.mask())
    clean = sky.picture
    sea = water(
        stage, sky, clean, rough=0.55, deep="#0d4668" if time == "day" else "#1c2c42", eye=1.1
    )
    above = np.clip((horizon - stage.y) * stage.height + 1, 0, 1)
    sea = over(sea, picture, above * np.ones_like(stage.x))
    for x, tall, _ in marks:
        dip = np.maximum(stage.y - horizon, 0)
        wobble = 0.02 * stage.texture(1.0, 2, 12, 3.0)
        fade = np.exp(
            -(((stage.x - x + wobble) / (tall * 0.26)) ** 2) - (dip / (tall * 0.5)) ** 2
        ) * (stage.y > horizon)
        sea = mix(sea, (hue * 0.7 if not dark else rgb("#1a1418")), 0.4 * fade)
    return sea


def balloons(stage: Stage) -> Array:
    """Hot-air balloons over the land."""
    stage.wishes = {**stage.wishes, "horizon": 0.78}
    time = stage.pick("time", ["day", "golden", "dawn"])
    stage.wishes["time"] = time
    picture = wild.hills(stage) if stage.chance("green", 0.6) else wild.dunes(stage)
    hues = [
        rgb(h)
        for h in (
            "#d8322c",
            "#f2b41c",
            "#2a62c0",
            "#3a9a4a",
            "#e87a2a",
            "#7a3a9a",
            "#f4f0e6",
            "#2ab0b8",
        )
    ]
    side = stage.pick("side", [-1.0, 1.0])
    for i in range(stage.pick("count", [1, 3, 6])):
        r = stage.uniform(0.13, 0.2) if i == 0 else stage.uniform(0.03, 0.08)
        cx, cy = (
            stage.uniform(-0.4, 0.4) * stage.aspect / 1.5,
            stage.uniform(0.22, 0.36) if i == 0 else stage.uniform(0.12, 0.5),
        )
        dx, dy = (stage.x - cx) / r, (stage.y - cy) / r
        shape = np.where(
            dy < 0.15,
            np.hypot(dx, dy - 0.0),
            np.abs(dx)
            / np.maximum(
                np.sqrt(np.maximum(1 - 0.0225, 0))
                * (1 - (np.maximum(dy - 0.15, 0) / 1.25) ** 1.25 * 0.78),
                0.05,
            ),
        )
        inside = smooth(1 + 1 / (r * stage.height), 1 - 1 / (r * stage.height), shape) * (dy < 1.25)
        girth = np.clip(
            dx
            / np.maximum(
                np.sqrt(np.maximum(1 - np.clip(np.minimum(dy, 0.15), -1, 1) ** 2, 0.02))
                * np.where(dy > 0.15, 1 - (np.maximum(dy - 0.15, 0) / 1.25) ** 1.25 * 0.78, 1),
                0.05,
            ),
            -1,
            1,
        )
        gore = np.floor((np.arcsin(girth) / np.pi + 0.5) * 10).astype(int)
        a, b = (hues[int(k)] for k in stage.rng.choice(len(hues), 2, replace=False))
        colour = np.where((gore % 2)[..., None] == 0, a, b)
        band = (np.abs(dy - 0.1) < 0.14)[..., None]
        colour = np.where(band & (i % 2 == 0), b * 0.9, colour)
        nz = np.sqrt(np.maximum(1 - np.minimum(dx * dx + np.minimum(dy, 0.5) ** 2, 1), 0))
        lit = np.clip(0.62 + side * 0.38 * dx - 0.25 * dy + 0.25 * nz, 0.18, 1.3)
        seam = 1 - 0.12 * (np.abs((np.arcsin(girth) / np.pi + 0.5) * 10 % 1 - 0.5) > 0.46)
        veil = 0.0 if i == 0 else 0.22
        picture = over(
            picture,
            mix(colour * (lit * seam)[..., None], rgb("#c8d4e0"), veil),
            inside.astype(np.float32),
        )
        ropes = stage.canvas()
        y0, y1 = cy + r * 1.24, cy + r * 1.52
        for k in (-1, 1):
            ropes.line([(cx + k * r * 0.2, y0), (cx + k * r * 0.12, y1)], 0.0018)
        ropes.polygon(
            [
                (cx - r * 0.14, y1),
                (cx + r * 0.14, y1),
                (cx + r * 0.11, y1 + r * 0.2),
                (cx - r * 0.11, y1 + r * 0.2),
            ]
        )
        picture = over(picture, rgb("#4a3524"), ropes.mask() * (1 - veil))
    return picture


def lighthouse(stage: Stage) -> Array:
    """A lighthouse on rocks by the sea."""
    time = stage.pick("time", ["day", "sunset", "dusk", "storm"])
    horizon = 0.62
    sky = paint_sky(stage, time, horizon)
    picture = water(
        stage,
        sky,
        sky.picture,
        rough=0.7,
        deep="#12405c" if time == "day" else "#18283a",
        foam=0.3,
        glitter=float(time != "dusk"),
    )
    x, tall = stage.between("place", -0.2, 0.2), stage.uniform(0.42, 0.5)
    y = 0.66
    reach = (stage.x - x - 0.1) / 0.5
    rough = stage.texture(1.5, 0.9, 2)
    top = y - 0.01 + 0.22 * np.abs(reach) ** 1.6 + 0.03 * rough
    rock = mix(rgb("#2c2a28"), rgb("#85796a"), np.clip(0.5 + 0.3 * rough, 0, 1)) * (
        sky.light * 0.7 + sky.fill * 0.5
    )
    picture = over(picture, rock, np.clip((stage.y - top) * stage.height, 0, 1))
    foam = np.exp(-(((stage.y - 0.8 - 0.02 * rough) / 0.02) ** 2)) * smooth(0.9, 0.5, np.abs(reach))
    picture = mix(picture, rgb("#e8eef0") * (sky.light * 0.6 + sky.fill * 0.4), 0.7 * foam)
    up = (y + 0.03 - stage.y) / tall
    half = 0.055 - 0.022 * up
    across = (stage.x - x) / half
    round_ = np.sqrt(np.maximum(1 - across**2, 0))
    side = -1 if sky.sun[0] < 0 else 1
    shade = np.clip(0.35 + 0.45 * round_ + 0.4 * side * across, 0.15, 1.15)[..., None]
    red = (np.floor(up * 5) % 2 == 0)[..., None] & stage.chance("striped", 0.75)
    body = (
        np.where(red, rgb("#b82a22"), rgb("#f0ece4")) * shade * (sky.light * 0.75 + sky.fill * 0.4)
    )
    inside = smooth(1.03, 0.97, np.abs(across)) * (up > 0) * (up < 1)
    picture = over(picture, body, inside.astype(np.float32))
    t = y + 0.03 - tall
    deck = stage.canvas().polygon(
        [(x - 0.05, t), (x + 0.05, t), (x + 0.05, t - 0.012), (x - 0.05, t - 0.012)]
    )
    deck.polygon([(x - 0.034, t - 0.075), (x, t - 0.12), (x + 0.034, t - 0.075)])
    lamp = stage.canvas().polygon(
        [
            (x - 0.027, t - 0.012),
            (x - 0.027, t - 0.075),
            (x + 0.027, t - 0.075),
            (x + 0.027, t - 0.012),
        ]
    )
    picture = over(picture, rgb("#7a1c18") * (sky.light * 0.7 + sky.fill * 0.4), deck.mask())
    glow = 4.0 if time in ("dusk", "storm") else 1.0
    picture = over(picture, rgb("#ffe0a0") * glow, lamp.mask())
    if glow > 1:
        beam = np.abs(stage.y - t + 0.045 - 0.12 * (stage.x - x)) / (
            0.01 + 0.09 * np.abs(stage.x - x)
        )
        picture = (
            picture
            + rgb("#ffe4b0")
            * (0.35 * np.exp(-(beam**2)) * np.exp(-np.abs(stage.x - x) / 0.5))[..., None]
        )
    return picture


def skyline(stage: Stage) -> Array:
    """A city's towers by day or by night, perhaps over water."""
    time = stage.pick("time", ["night", "dusk", "day", "sunset"])
    shore = 0.72
    sky = paint_sky(
        stage, time, shore, clouds=stage.between("clouds", 0.0, 0.4) if time != "night" else 0.0
    )
    picture = stars(stage, sky.picture, 0.1, 0.5) if time == "night" else sky.picture
    dark = time in ("night", "dusk")
    if dark:
        picture = (
            picture
            + rgb("#ff9a50")
            * (
                (0.08 if time == "night" else 0.2)
                * np.exp(-(shore - stage.y).clip(0) / 0.16)
                * np.ones_like(stage.x)
            )[..., None]
        )
    lamp = sky.light * 0.7 + sky.fill * 0.5
    for layer in range(3):
        near = layer / 2
        x = stage.left - 0.05
        while x < stage.right:
            w = stage.uniform(0.05, 0.12) * (0.75 + 0.3 * near)
            h = (
                float(np.clip(stage.rng.gamma(3.2, 0.075), 0.08, 0.52))
                * (1.05 - 0.35 * near)
                * float(np.exp(-((x / stage.right) ** 2) * 0.5) + 0.1)
            )
            c0 = max(0, int((x - stage.left) * stage.height))
            c1 = min(stage.width, int((x + w - stage.left) * stage.height))
            r0, r1 = int((shore - h) * stage.height), int(shore * stage.height)
            style = stage.rng.random()
            tint = rgb(
                ("#8a93a0", "#a09484", "#6a7a90", "#b0aca4", "#5a6470")[int(stage.rng.integers(5))]
            )
            if c1 - c0 > 2 and r1 - r0 > 3:
                yy = (np.arange(r0, r1) / stage.height)[:, None] - (shore - h)
                xx = (np.arange(c0, c1) / stage.height)[None, :] - (x - stage.left)
                px, py = (0.0085, 0.0125) if style < 0.6 else (0.011, 0.010)
                cell_x, cell_y = (xx / px).astype(int), (yy / py).astype(int)
                rows, columns = int(cell_y.max()) + 1, int(cell_x.max()) + 1
                lights = stage.rng.random((rows, columns)).astype(np.float32)
                pane = (np.abs(xx / px % 1 - 0.5) < 0.3) & (
                    np.abs(yy / py % 1 - 0.5) < (0.28 if style < 0.8 else 0.4)
                )
                face = (1.0 if (sky.sun[0] < x) == (stage.rng.random() < 0.75) else 0.65) * (
                    1 - 0.25 * xx / w
                )
                wall = tint * lamp * (0.14 if dark else face[..., None] * 0.85)
                wall = wall * np.ones((*pane.shape, 3), np.float32)
                lit = lights[cell_y, cell_x]
                if dark:
                    on = (lit < 0.42) & pane
                    warm = np.where((lit < 0.3)[..., None], rgb("#ffc878"), rgb("#d8e4ff"))
                    wall = np.where(
                        on[..., None],
                        warm * (0.4 + 3.2 * (lit % 0.1) * 8)[..., None] * (0.45 + 0.4 * near),
                        wall,
                    )
                else:
                    glass = sky.picture[max(0, r0 // 2)].mean(0) * (0.35 + 0.5 * lit)[..., None]
                    wall = np.where(pane[..., None], glass, wall)
                fade = (0.65, 0.3, 0.05)[layer] * (0.5 if dark else 1)
                picture[r0:r1, c0:c1] = mix(wall, sky.haze, fade)
                if style < 0.25:
                    mast = (c0 + c1) // 2
                    up = int(r0 - 0.05 * stage.height)
                    thick = max(1, stage.height // 400)
                    picture[max(up, 0) : r0, mast : mast + thick] = tint * lamp * 0.4
            x += w * stage.uniform(0.75, 1.25)
    if stage.chance("river", 0.7):
        return water(
            stage,
            sky,
            picture,
            shore=shore,
            rough=0.4,
            deep="#0a121c" if dark else "#2a4a5a",
            glitter=0,
        )
    woods = stage.texture(0.9, 1.4, 9)
    park = (
        mix(rgb("#1c2c16"), rgb("#5f7a3a"), np.clip(0.45 + 0.3 * woods, 0, 1))
        * lamp
        * (0.35 if dark else 1)
    )
    return over(
        picture, park, np.clip((stage.y - shore + 0.02 + 0.02 * woods) * stage.height / 2, 0, 1)
    )


def road(stage: Stage) -> Array:
    """A straight road to the horizon."""
    time = stage.pick("time", ["day", "sunset", "golden", "overcast"])
    horizon = stage.between("horizon", 0.42, 0.52)
    sky = paint_sky(stage, time, horizon)
    land = stage.pick("land", ["desert", "meadow"])
    down = np.maximum(stage.y - horizon, 0.001)
    z = 0.3 / down
    x = stage.x * z
    foot = z / stage.height
    rough = stage.noise(1.1, x * 0.35, z * 0.35, foot * 0.35, 1)
    tones = ("#8a6a44", "#c89a64") if land == "desert" else ("#4a6a26", "#8fa650")
    ground = mix(rgb(tones[0]), rgb(tones[1]), np.clip(0.5 + 0.25 * rough, 0, 1))
    shrub = smooth(1.1, 1.5, stage.noise(0.9, x * 0.2, z * 0.2, foot * 0.2, 2))
    ground = mix(ground, rgb("#4a5230"), 0.7 * shrub)
    half = 0.36
    grit = stage.noise(0.6, x * 0.9, z * 0.9, foot, 3)
    asphalt = rgb("#54545a") * (1 + 0.10 * grit + 0.06 * rough)[..., None]
    line = (np.abs(x) < 0.014 + foot * 0.3) & ((z * 0.9 % 1) < 0.5)
    edge = np.abs(np.abs(x) - half * 0.92) < 0.010 + foot * 0.2
    asphalt = np.where(
        (line | edge)[..., None], rgb("#e8dca8") if time != "overcast" else rgb("#e8e6e0"), asphalt
    )
    colour = np.where((np.abs(x) < half)[..., None], asphalt, ground) * (
        sky.light * 0.75 + sky.fill * 0.4
    )
    colour = mix(colour, sky.haze * 0.9, 0.6 * np.broadcast_to(np.exp(-down / 0.025), x.shape))
    far = np.clip((stage.y - ridge(stage, horizon - 0.05, 0.03, 5)) * stage.height, 0, 1)
    picture = over(sky.picture, mix(rgb("#5a6474"), sky.haze, 0.5), far)
    return over(
        picture, colour, np.clip((stage.y - horizon) * stage.height, 0, 1) * np.ones_like(stage.x)
    )


def rainbow(stage: Stage) -> Array:
    """A rainbow over green land after rain."""
    stage.wishes = {**stage.wishes, "time": "overcast", "horizon": 0.62}
    picture = wild.hills(stage) * np.array([1.15, 1.15, 1.1], np.float32)
    cx, cy, r = stage.uniform(-0.5, 0.5), 0.78, stage.uniform(0.5, 0.66)
    t = (np.hypot(stage.x - cx, stage.y - cy) - r) / 0.045
    hues = [rgb(h) for h in ("#7a3ac0", "#3a5ae0", "#2ab050", "#f0e02a", "#f08a1c", "#e0281c")]
    bow = sum(
        h * np.exp(-(((t - (i / 2.5 - 1)) / 0.26) ** 2))[..., None] for i, h in enumerate(hues)
    )
    picture = picture * (1 + 0.16 * (t < -1) * (stage.y < 0.62))[..., None]
    return picture + bow * (0.34 * smooth(0.66, 0.5, stage.y))[..., None]


def plane(stage: Stage) -> Array:
    """An aeroplane high in the sky, with or without its trail."""
    time = stage.pick("time", ["day", "sunset", "golden"])
    sky = paint_sky(stage, time, 1.05, clouds=stage.between("clouds", 0.0, 0.45))
    x, y, s = stage.uniform(-0.25, 0.25), stage.uniform(0.3, 0.55), stage.between("size", 0.14, 0.3)
    turn = stage.uniform(-0.4, 0.4)
    c, n = np.cos(turn), np.sin(turn)

    def at(px: float, py: float) -> Point:
        return (x + s * (px * c - py * n), y + s * (px * n + py * c))

    picture = sky.picture
    if stage.chance("trail", 0.5):
        u = ((stage.x - x) * c + (stage.y - y) * n) / s
        v = (-(stage.x - x) * n + (stage.y - y) * c) / s
        puff = stage.texture(1.5, 1.0, 3)
        for k in (-0.22, 0.22):
            wide = 0.03 + 0.03 * np.maximum(-u, 0)
            trail = np.exp(-(((v - k - 0.03 * puff) / wide) ** 2)) * smooth(-0.5, -0.9, u)
            picture = mix(picture, rgb("#f8f8f8") * (sky.light * 0.7 + 0.2), 0.75 * trail)
    hull, wing = stage.canvas(), stage.canvas()
    hull.limb(at(-0.85, 0), at(0.85, 0), s * 0.05, s * 0.085).limb(
        at(0.85, 0), at(1.0, 0.0), s * 0.085, s * 0.04
    )
    for k in (-1, 1):
        wing.polygon([at(0.28, 0), at(-0.3, 0.95 * k), at(-0.44, 0.95 * k), at(-0.12, 0)])
        wing.polygon([at(-0.7, 0), at(-0.92, 0.32 * k), at(-1.0, 0.32 * k), at(-0.9, 0)])
        wing.limb(at(0.05, 0.3 * k), at(0.2, 0.3 * k), s * 0.04, s * 0.045)
    lit = 0.25 if time == "sunset" else 0.8
    picture = over(picture, rgb("#8a929c") * lit, wing.mask())
    return over(picture, rgb("#d4d8de") * lit, hull.mask(0.001))


def windmill(stage: Stage) -> Array:
    """A windmill in the fields."""
    stage.wishes = {**stage.wishes, "horizon": 0.66}
    time = stage.pick("time", ["day", "golden", "sunset"])
    stage.wishes["time"] = time
    base = stage.pick("base", ["tulips", "grain"])
    stage.wishes["flower"] = "tulip"
    picture = wild.tulips(stage) if base == "tulips" else wild.grain(stage)
    x, y, tall = stage.between("place", -0.25, 0.25), 0.69, 0.34
    lamp = (0.3 if time == "sunset" else 0.95) * rgb("#c8bca8")
    across = (stage.x - x) / (0.10 - 0.05 * np.clip((y - stage.y) / tall, 0, 1))
    side = np.clip(0.7 + 0.35 * across, 0.3, 1.1)[..., None] * lamp
    bricks = rgb("#7a5038") * side * (1 + 0.06 * stage.texture(0.8, 2, 13))[..., None]
    tower = stage.canvas().polygon(
        [(x - 0.10, y), (x - 0.05, y - tall), (x + 0.05, y - tall), (x + 0.10, y)]
    )
    cap = stage.canvas().polygon(
        curve(
            [
                (x - 0.058, y - tall),
                (x - 0.04, y - tall - 0.05),
                (x, y - tall - 0.07),
                (x + 0.04, y - tall - 0.05),
                (x + 0.058, y - tall),
            ],
            6,
        )
    )
    picture = over(picture, bricks, tower.mask())
    picture = over(picture, rgb("#3a3430") * lamp, cap.mask())
    sails, cloth = stage.canvas(), stage.canvas()
    turn = stage.uniform(0, 1.57)
    hx, hy, r = x, y - tall - 0.02, 0.27
    for k in range(4):
        a = turn + k * np.pi / 2
        d, p = (np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))
        sails.line([(hx, hy), (hx + d[0] * r, hy + d[1] * r)], 0.008)
        for q in np.linspace(0.25, 1, 9):
            sx, sy = hx + d[0] * r * q, hy + d[1] * r * q
            sails.line([(sx, sy), (sx + p[0] * 0.05, sy + p[1] * 0.05)], 0.003)
        e = [(0.25, 0.0), (1, 0.0), (1, 0.05), (0.25, 0.05)]
        cloth.polygon([(hx + d[0] * r * q + p[0] * w, hy + d[1] * r * q + p[1] * w) for q, w in e])
    picture = over(picture, rgb("#efe8d8") * lamp, cloth.mask() * 0.6)
    return over(picture, rgb("#2c2420") * lamp, sails.mask())


FRUIT = {"apples": ("#b81c1c", "#d8a83a"), "green apples": ("#7fae2a", "#b8cc4a"), "oranges": ("#f08a14", "#f4a02c"),
         "lemons": ("#f2d21c", "#f6e04a"), "tomatoes": ("#d02a1a", "#dc4a24"), "plums": ("#4a2a5c", "#7a4a80")}  # fmt: skip


def fruit(stage: Stage) -> Array:
    """Fruit on a table in window light; in a bowl perhaps."""
    kind = stage.pick("fruit", [*FRUIT, "mixed"])
    bowl = stage.chance("bowl", 0.35)
    edge = stage.uniform(0.42, 0.55)
    wall = mix(
        rgb(stage.pick("wall", ["#d8d0c4", "#5a646a", "#8a9a8a", "#3a3634", "#b8a890"])),
        rgb("#2a2826"),
        smooth(-0.5, 0.9, stage.x) * 0.6,
    )
    picture = (
        wall
        * (1 + 0.05 * stage.texture(2.2, 0.3, 1))[..., None]
        * np.ones((stage.height, stage.width, 1), np.float32)
    )
    spots = stage.canvas()
    for _ in range(9):
        r = stage.uniform(0.04, 0.1)
        spots.disc(stage.uniform(stage.left, stage.right), stage.uniform(0, edge), r, r)
    picture = picture + rgb("#ffe8c0") * (0.10 * spots.mask(0.02))[..., None]
    down = np.maximum(stage.y - edge, 0.0) + 0.12
    wood = rgb(stage.pick("table", ["#8a5a34", "#b48a5c", "#5c3a24", "#d8d2c8"]))
    grain = stage.noise(
        1.2, stage.x / down * 0.09, 1 / down * 0.9 * 0.1, 0.0, 2
    ) + 0.6 * stage.noise(1.0, stage.x / down * 0.02, 1 / down * 0.5, 0.0, 3)
    table = (
        wood * (1 + 0.13 * grain)[..., None] * (1.05 - 0.4 * smooth(-0.4, 0.9, stage.x))[..., None]
    )
    picture = over(
        picture, table, smooth(edge - 0.008, edge + 0.008, stage.y) * np.ones_like(stage.x)
    )
    r = stage.uniform(0.095, 0.13)
    spots_: list[tuple[float, float]] = []
    if bowl:
        spots_ = [
            (bx * r, 0.62 - abs(k) * 0.0 + by * r)
            for bx, by, k in [
                (-1.7, -0.2, 0),
                (0, -0.5, 0),
                (1.7, -0.2, 0),
                (-0.9, -1.6, 0),
                (0.9, -1.6, 0),
                (-1.0, 0.1, 0),
                (1.0, 0.15, 0),
            ]
        ]
    else:
        for _ in range(60):
            p = (
                stage.uniform(-0.45, 0.45) * min(1.0, stage.aspect),
                stage.uniform(edge + 0.12, 0.84),
            )
            if all(np.hypot(p[0] - q[0], (p[1] - q[1]) * 1.6) > r * 1.9 for q in spots_):
                spots_.append(p)
            if len(spots_) == stage.pick("count", [1, 3, 4, 6]):
                break
        spots_.sort(key=lambda p: p[1])
    lamp = np.array([-0.55, -0.62, 0.56])
    for x, y in spots_:
        name = kind if kind != "mixed" else list(FRUIT)[int(stage.rng.integers(4))]
        dark, bright = (rgb(c) for c in FRUIT[name])
        long = 1.25 if name == "lemons" else 1.0
        dx, dy = (stage.x - x) / (r * long), (stage.y - y) / (r * (0.97 if long == 1 else 1.0))
        if not bowl:
            sx, sy = (
                (stage.x - x - 0.45 * r) / (r * 1.5 * long),
                (stage.y - y - r * 0.82) / (r * 0.38),
            )
            picture = picture * (1 - 0.62 * np.exp(-(sx**2) * 1.6 - sy**2 * 1.3))[..., None]
            picture = (
                picture
                * (
                    1
                    - 0.5
                    * np.exp(
                        -(((stage.x - x) / (r * 0.7)) ** 2)
                        - ((stage.y - y - r * 0.95) / (r * 0.13)) ** 2
                    )
                )[..., None]
            )
        tip = 0.12 * np.exp(-((np.abs(dx) - 1.0) ** 2 + dy**2) / 0.06) if name == "lemons" else 0.0
        rr = np.hypot(dx, dy) - tip
        mask = smooth(1 + 1.2 / (r * stage.height), 1 - 1.2 / (r * stage.height), rr)
        nz = np.sqrt(np.maximum(1 - np.minimum(rr, 1) ** 2, 0))
        dent = (
            np.exp(-(dx**2 + (dy + 0.72) ** 2) / 0.05)
            if "apple" in name or name == "tomatoes"
            else 0.0 * dx
        )
        pores = (
            stage.noise(0.5, dx * 0.10 + x, dy * 0.10 + y, 0.0, 4)
            if name in ("oranges", "lemons")
            else 0.25 * stage.noise(1.0, dx * 0.1 + x, dy * 0.1, 0.0, 4)
        )
        lean = np.clip(dx * lamp[0] + dy * lamp[1] + nz * lamp[2] + 0.05 * pores, -1, 1)
        light = (
            0.13
            + 0.95 * np.clip(lean * 0.85 + 0.15, 0, 1) ** 1.15
            - 0.3 * dent
            + 0.14 * np.clip(dy, 0, 1) * (1 - nz)
        )
        streak = stage.noise(1.5, np.arctan2(dx, dy + 1.2) * 0.4 + x, rr * 0.03, 0.0, 5)
        body = mix(dark, bright, np.clip(0.14 + 0.15 * streak + 0.35 * dent, 0, 1))
        shine = np.clip(dx * -0.40 + dy * -0.52 + nz * 0.755, 0, 1)
        colour = body * light[..., None] + (0.55 * shine**60 + 0.10 * shine**9)[..., None]
        picture = over(picture, colour, mask)
        if "apple" in name:
            stem = stage.canvas().line([(x, y - r * 0.68), (x + r * 0.10, y - r * 1.12)], r * 0.075)
            picture = over(picture, rgb("#4a3018"), stem.mask())
    if bowl:
        cx, cy, w, h = 0.0, 0.62, r * 3.0, r * 2.1
        t = (stage.y - cy) / h
        half = w * np.sqrt(np.clip(1 - np.clip(t, 0, 1) ** 2.2, 0.0, 1))
        inside = (
            smooth(1.01, 0.99, np.abs(stage.x - cx) / np.maximum(half, w * 0.32))
            * smooth(-0.02, 0.02, t + 0.06 * (1 - ((stage.x - cx) / w) ** 2))
            * (t < 1)
        )
        shadow = np.exp(-(((stage.x - 0.12) / (w * 0.8)) ** 2) - ((stage.y - cy - h) / 0.05) ** 2)
        picture = picture * (1 - 0.5 * shadow * (1 - inside))[..., None]
        clay = rgb(stage.pick("clay", ["#e8e4dc", "#3a6a9a", "#7a8a7a", "#b06a44"]))
        lit = np.clip(0.62 - 0.55 * (stage.x - cx) / w - 0.35 * t, 0.1, 1.2)
        gleam = np.exp(-(((stage.x + w * 0.5) / 0.03) ** 2) - ((t - 0.35) / 0.3) ** 2)
        picture = over(
            picture, clay * lit[..., None] + 0.35 * gleam[..., None], inside.astype(np.float32)
        )
    return picture
