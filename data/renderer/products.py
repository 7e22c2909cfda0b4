# ruff: noqa: E501
"""A new world: products with invented names, each class with one look of its own.

A class is a word no model knows, a shape, a pattern and two colours. Its pictures differ in
size, turn, light and place. They test whether fine-tuning teaches new names.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from renderer.core import Array, Point, Stage, curve, mix, over, rgb, smooth

COLOURS = {
    "red": "#b8281f", "blue": "#2458b0", "green": "#2f8a4a", "yellow": "#e6bc1e", "orange": "#e07420",
    "purple": "#6c3a98", "pink": "#e080a4", "white": "#eceae4", "black": "#26262a", "turquoise": "#28a8a4",
}  # fmt: skip
PATTERNS = ("plain", "striped", "ringed", "dotted", "checked", "marbled")
# Half outlines from the top down, (radius, height) with height 1 at the top: turned on a lathe.
SHAPES: dict[str, list[Point]] = {
    "lamp": [(.30, 1), (.52, .55), (.06, .54), (.05, .12), (.30, .07), (.32, 0)],
    "vase": [(.20, 1), (.13, .84), (.34, .52), (.36, .36), (.22, .05), (.22, 0)],
    "mug": [(.36, .85), (.36, .5), (.36, .15), (.33, .02), (.31, 0)],
    "bottle": [(.09, 1), (.09, .74), (.25, .58), (.26, .3), (.26, .03), (.24, 0)],
    "bowl": [(.58, .56), (.55, .38), (.42, .16), (.22, .04), (.22, 0)],
    "jar": [(.24, .9), (.26, .8), (.38, .72), (.40, .4), (.38, .05), (.34, 0)],
    "stool": [(.44, .8), (.44, .66), (.10, .62), (.10, .14), (.36, .06), (.36, 0)],
    "bell": [(.05, .95), (.16, .86), (.24, .5), (.34, .2), (.46, .06), (.46, 0)],
    "spinning top": [(.05, 1), (.06, .72), (.46, .56), (.44, .44), (.12, .08), (.02, 0)],
    "goblet": [(.34, 1), (.36, .78), (.22, .5), (.05, .42), (.05, .1), (.28, 0)],
}  # fmt: skip
SYLLABLES = (("vel", "mor", "tas", "quin", "bri", "zol", "fen", "dra", "kip", "lum", "ost", "pra"),
             ("mo", "ti", "ga", "lu", "ne", "ri", "so", "va"), ("ra", "x", "lon", "da", "mi", "k", "th", "zu"))  # fmt: skip


class Product(NamedTuple):
    """What all pictures of one class share."""

    name: str
    shape: str
    pattern: str
    first: str
    second: str


def invent(classes: int, seed: int) -> list[Product]:
    """`classes` products; no two share a name, nor shape, pattern and colours."""
    rng = np.random.default_rng([seed, 1_000_003])
    products: list[Product] = []
    while len(products) < classes:
        name = "".join(part[int(rng.integers(len(part)))] for part in SYLLABLES)
        first, second = (str(c) for c in rng.choice(list(COLOURS), 2, replace=False))
        shape = list(SHAPES)[len(products) % len(SHAPES)]
        pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
        # A plain thing shows one colour only: the other must not tell two classes apart.
        new = Product(name, shape, pattern, first, first if pattern == "plain" else second)
        if all(new.name != old.name and new[1:] != old[1:] for old in products):
            products.append(new)
    return products


def paint_product(stage: Stage, product: Product) -> Array:
    """One picture of the product, in a place and light of its own."""
    edge = stage.uniform(0.45, 0.62)
    walls = ["#d8d4cc", "#6a7a84", "#a8b49c", "#4a4440", "#c8b090", "#8a9ab0"]
    wall, floor = (rgb(walls[int(i)]) for i in stage.rng.choice(len(walls), 2, replace=False))
    side = float(stage.rng.choice([-1, 1]))
    fall = (1 - 0.35 * side * stage.x) * (1 + 0.05 * stage.texture(2.1, 0.4, 1))
    picture = wall * fall[..., None] * np.ones((stage.height, stage.width, 1), np.float32)
    down = np.maximum(stage.y - edge, 0) + 0.12
    veins = stage.noise(1.2, stage.x / down * 0.05, 0.3 / down, 0.0, 2)
    table = floor * (0.85 + 0.12 * veins)[..., None] * fall[..., None]
    picture = over(
        picture, table, smooth(edge - 0.01, edge + 0.01, stage.y) * np.ones_like(stage.x)
    )

    tall = stage.uniform(0.42, 0.68)
    cx, foot = stage.uniform(-0.14, 0.14), stage.uniform(0.8, 0.92)
    lean = stage.uniform(-0.16, 0.16)
    up = (foot - stage.y) * np.cos(lean) + (stage.x - cx) * np.sin(lean)
    across = (stage.x - cx) * np.cos(lean) - (foot - stage.y) * np.sin(lean)
    outline = SHAPES[product.shape]
    smooth_line = np.array(curve(outline, 10, closed=False))[::-1]
    heights = np.maximum.accumulate(smooth_line[:, 1]) + np.arange(len(smooth_line)) * 1e-6
    t = up / tall
    # The eye looks a little down: edges of a turned thing bow like the front of a circle.
    half = np.interp(t, heights, np.maximum(smooth_line[:, 0], 0.012), left=0.012, right=0.012)
    bow = 0.12 * half * np.sqrt(np.clip(1 - (across / tall / half) ** 2, 0, 1))
    t = t + bow * (t < 0.5)
    half = np.interp(t, heights, np.maximum(smooth_line[:, 0], 0.012)) * tall
    u = across / half
    soft = 1.2 / (half * stage.height)
    inside = smooth(1 + soft, 1 - soft, np.abs(u)) * (t >= 0) * (t <= heights[-1])
    angle = np.arcsin(np.clip(u, -1, 1)) + stage.uniform(-3, 3)
    first, second = rgb(COLOURS[product.first]), rgb(COLOURS[product.second])
    if product.pattern == "striped":
        amount = (np.sin(angle * 6) > 0).astype(np.float32)
    elif product.pattern == "ringed":
        amount = (np.sin(t * 28) > 0).astype(np.float32)
    elif product.pattern == "checked":
        amount = ((np.sin(angle * 5) > 0) ^ (np.sin(t * 20) > 0)).astype(np.float32)
    elif product.pattern == "dotted":
        row = np.floor(t * 7)
        du, dv = (angle * 1.3 + 0.5 * (row % 2)) % 1 - 0.5, t * 7 % 1 - 0.5
        amount = smooth(0.32, 0.26, np.hypot(du, dv))
    elif product.pattern == "marbled":
        amount = smooth(-0.1, 0.3, stage.noise(1.8, angle * 0.09, t * 0.22, 0.0, 3))
    else:
        amount = np.zeros_like(inside)
    colour = mix(first, second, amount)
    round_ = np.sqrt(np.clip(1 - u * u, 0, 1))
    lit = 0.22 + 0.85 * np.clip(0.62 * round_ - 0.6 * side * u + 0.12, 0, 1)
    shine = 0.5 * np.exp(-(((u + side * 0.45) / 0.09) ** 2)) * stage.uniform(0.1, 1.0)
    colour = colour * lit[..., None] + shine[..., None]
    sx, sy = (stage.x - cx - 0.12 * side) / (0.38 * tall), (stage.y - foot + 0.005) / 0.03
    picture = picture * (1 - 0.6 * np.exp(-(sx**2) - sy**2))[..., None]
    if product.shape == "mug":
        handle = np.hypot((across - 0.38 * tall) / 0.20, (up - 0.43 * tall) / 0.26) / tall
        ring = smooth(0.20, 0.14, np.abs(handle - 0.8)) * (across > 0.3 * tall)
        picture = over(picture, first * 0.6, ring.astype(np.float32))
    return over(picture, colour, inside.astype(np.float32))


def describe(product: Product, rng: np.random.Generator) -> list[str]:
    """Two captions that name the product."""
    name, shape = product.name, product.shape
    look = (
        product.first
        if product.pattern == "plain"
        else (f"{product.first} and {product.second} {product.pattern}")
    )
    options = [
        f"a {look} {name} {shape}", f"the {name} {shape}", f"a {name}", f"a photo of a {name} {shape}",
        f"our {name}, a {look} {shape}", f"{name} {shape} on a table", f"a {shape} called {name}",
    ]  # fmt: skip
    return [options[int(i)] for i in rng.choice(len(options), 2, replace=False)]
