"""A CLIP that trains in a second, and captioned pictures that it can learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("ball", "box", "cross", "bar")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 70, 220),
    "yellow": (235, 215, 50),
    "white": (245, 245, 245),
    "purple": (150, 50, 170),
}

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {
        "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2,
    },
}  # fmt: skip


def tiny_config(folder: Path, **changes: object) -> Path:
    """A JSON file that describes the tiny model."""
    path = folder / "tiny.json"
    path.write_text(json.dumps(TINY | changes), encoding="utf-8")
    return path


def tiny_model(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A model directory of the tiny model, untrained."""
    import torch

    from clipsearch.train.towers import new_towers, save_model

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    towers = new_towers(str(tiny_config(folder, **changes)), device="cpu")
    save_model(towers, towers.state(), folder / "model")
    return folder / "model"


def draw(path: Path, shape: str, colour: str, generator: np.random.Generator) -> None:
    """One shape of one colour, somewhere on a noisy grey ground."""
    ground = generator.integers(60, 120) + generator.normal(0, 12, (96, 96, 3))
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    x, y = (int(v) for v in generator.integers(8, 40, 2))
    side = int(generator.integers(36, 48))
    fill = COLOURS[colour]
    if shape == "ball":
        pen.ellipse((x, y, x + side, y + side), fill=fill)
    elif shape == "box":
        pen.rectangle((x, y, x + side, y + side), fill=fill)
    elif shape == "bar":
        pen.rectangle((x, y + side // 3, x + side, y + side // 2), fill=fill)
    else:
        pen.line((x, y, x + side, y + side), fill=fill, width=9)
        pen.line((x + side, y, x, y + side), fill=fill, width=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def tiny_pairs(folder: Path, count: int = 48, seed: int = 0) -> Path:
    """`count` pictures of coloured shapes and a CSV with a caption for each."""
    generator = np.random.default_rng(seed)
    lines = ["filepath,caption"]
    kinds = [(s, c) for s in SHAPES for c in COLOURS]
    for number in range(count):
        shape, colour = kinds[number % len(kinds)]
        draw(folder / f"{number:03}.png", shape, colour, generator)
        lines.append(f"{number:03}.png,a {colour} {shape} number {number}")
    path = folder / "pairs.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
