"""Paint photographs: the sample album, training pictures, and a world of invented products.

    python data/render.py album OUT
    python data/render.py training OUT --count N --seed S
    python data/render.py products OUT --count N --classes C --seed S

The same arguments give the same pictures (with the same numpy and Pillow). `training` and
`products` write OUT/pairs.csv with the columns filepath,caption; paths are relative to OUT.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from renderer.album import SHOTS, write_album
from renderer.core import Stage, develop
from renderer.products import describe, invent, paint_product
from renderer.scenes import SCENES, weights
from renderer.words import captions

SHORT_SIDE = 256
SHAPES = ((384, 256), (384, 256), (342, 256), (342, 256), (256, 256), (256, 342), (256, 384))
QUALITIES = (78, 85, 90, 92)


def render_training(folder: Path, count: int, seed: int) -> None:
    """Write `count` pictures of all families and OUT/pairs.csv, two or three captions each."""
    folder.mkdir(parents=True, exist_ok=True)
    families = list(SCENES)
    chance = weights(families)
    began = time.perf_counter()
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["filepath", "caption"])
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            family = families[int(rng.choice(len(families), p=chance))]
            width, height = SHAPES[int(rng.integers(len(SHAPES)))]
            stage = Stage((seed, number, 1), width, height)
            picture = develop(stage, SCENES[family](stage))
            name = f"{family}-{seed}-{number:06d}.jpg"
            picture.save(folder / name, quality=int(rng.choice(QUALITIES)))
            for caption in captions(family, stage.facts, rng, int(rng.integers(2, 4))):
                table.writerow([name, caption])
            if number % 500 == 499:
                rate = (number + 1) / (time.perf_counter() - began)
                print(f"{number + 1} of {count} pictures, {rate:.1f} a second", flush=True)


def render_products(folder: Path, count: int, classes: int, seed: int) -> None:
    """Write `count` pictures of `classes` invented products in turn, and OUT/pairs.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    products = invent(classes, seed)
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["filepath", "caption"])
        for number in range(count):
            product = products[number % classes]
            stage = Stage((seed, number, 2), SHORT_SIDE, SHORT_SIDE)
            name = f"{product.name}-{number:04d}.jpg"
            develop(stage, paint_product(stage, product)).save(folder / name, quality=88)
            for caption in describe(product, stage.rng):
                table.writerow([name, caption])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    album = commands.add_parser("album", help="the sample album, with pairs.csv beside its folder")
    album.add_argument("folder", type=Path, metavar="OUT")
    training = commands.add_parser("training", help="pictures of every family, with captions")
    training.add_argument("folder", type=Path, metavar="OUT")
    training.add_argument("--count", type=int, default=1000)
    training.add_argument("--seed", type=int, default=0)
    products = commands.add_parser("products", help="a world of products with invented names")
    products.add_argument("folder", type=Path, metavar="OUT")
    products.add_argument("--count", type=int, default=300)
    products.add_argument("--classes", type=int, default=30)
    products.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "album":
        write_album(given.folder)
        with (given.folder.parent / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["filepath", "caption"])
            for shot in SHOTS:
                path = f"{given.folder.name}/{shot.name}.jpg"
                table.writerows([path, caption] for caption in shot.captions)
    elif given.command == "products":
        render_products(given.folder, given.count, given.classes, given.seed)
    else:
        render_training(given.folder, given.count, given.seed)


if __name__ == "__main__":
    main()
