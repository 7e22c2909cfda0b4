"""The training and evaluation photos: WebDataset tars of `KEY.jpg` and `KEY.json` members."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from clipsearch.records import UInt8Array

MIXED = -1  # the view that shows two photos in one


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo with what people said of it: captions, or a label, never both."""

    key: str
    source: str
    jpeg: bytes
    captions: tuple[str, ...] = ()
    label: str | None = None


def read_tar(path: Path) -> list[Photo]:
    """Every photo of one tar, in the tar's order."""
    facts: dict[str, dict[str, object]] = {}
    jpegs: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is None:
                continue
            key, _, suffix = member.name.rpartition(".")
            if suffix == "json":
                facts[key] = json.load(stream)
            elif suffix == "jpg":
                jpegs[key] = stream.read()
    return [
        Photo(
            key=key,
            source=str(facts[key]["source"]),
            jpeg=jpeg,
            captions=tuple(_tidy(str(c)) for c in _list(facts[key].get("captions"))),
            label=None if facts[key].get("label") is None else str(facts[key]["label"]),
        )
        for key, jpeg in jpegs.items()
    ]


def read_tars(folder: Path, pattern: str) -> list[Photo]:
    """Every photo of the tars in `folder` that match a glob, tars in the order of their names."""
    return [photo for path in sorted(folder.glob(pattern)) for photo in read_tar(path)]


def read_rendered(folder: Path) -> list[Photo]:
    """The scenes that `data/render.py training` wrote: JPEGs beside `pairs.csv`, rows by photo."""
    captions: dict[str, list[str]] = {}
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["filepath"], []).append(_tidy(row["caption"]))
    return [
        Photo(name, "rendered", (folder / name).read_bytes(), tuple(said))
        for name, said in captions.items()
    ]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _tidy(caption: str) -> str:
    """Flickr8k's captions are tokenised: ' .' at the end, ' ,' inside."""
    words = caption.replace(" ,", ",").replace(" 's", "'s").split()
    return " ".join(words).rstrip(" .")


def open_rgb(jpeg: bytes) -> Image.Image:
    """The photo as it was stored, in RGB."""
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def squash(image: Image.Image, side_px: int) -> Image.Image:
    """The whole photo, squashed into a square: what the finished model sees."""
    return image.resize((side_px, side_px), Image.Resampling.BICUBIC)


def random_view(image: Image.Image, side_px: int, rng: np.random.Generator) -> Image.Image:
    """A photo as somebody else might have taken it: cropped, mirrored, lit a little differently.

    The crop keeps 45 to 100 % of the area: captions tell of the whole photo.
    """
    width, height = image.size
    area = rng.uniform(0.45, 1.0)
    stretch = np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    crop_width = min(1.0, float(np.sqrt(area * stretch))) * width
    crop_height = min(1.0, float(np.sqrt(area / stretch))) * height
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    view = image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = ImageEnhance.Brightness(view).enhance(rng.uniform(0.7, 1.25))
    view = ImageEnhance.Contrast(view).enhance(rng.uniform(0.8, 1.2))
    return ImageEnhance.Color(view).enhance(rng.uniform(0.8, 1.2))


def mixed_view(
    image: Image.Image, other: Image.Image, side_px: int, rng: np.random.Generator
) -> Image.Image:
    """Two photos in one: laid over each other (mixup), or one in a corner of the other (CutMix).

    Nobody captions such a picture, but a teacher can be asked what it sees in it (Beyer et al.
    2022). The draws are relative to the side, so every size shows the same picture.
    """
    below, above = (random_view(each, side_px, rng) for each in (image, other))
    if rng.random() < 0.5:
        return Image.blend(below, above, rng.uniform(0.25, 0.75))
    share = rng.uniform(0.4, 0.8)
    part = round(share * side_px)
    left, top = (round(rng.uniform(0, 1 - share) * side_px) for _ in range(2))
    below.paste(above.resize((part, part), Image.Resampling.BICUBIC), (left, top))
    return below


def mixed_with(index: int, count: int, seed: int) -> tuple[np.random.Generator, int]:
    """Which of `count` photos is mixed with this one, and the generator for how."""
    rng = np.random.default_rng((seed, index))
    return rng, int(rng.integers(count))


def view_batches(
    photos: list[Photo], side_px: int, *, view: int, seed: int, batch: int = 64
) -> Iterator[UInt8Array]:
    """(B, side, side, 3) uint8 batches of all photos, in order, decoded one batch ahead.

    View 0 is the whole photo, view 1 its mirror image, every further one random (seeded by photo
    and view, so that a cache that is made again is the same); `MIXED` is the photo with another.
    """

    def pixels(index: int) -> UInt8Array:
        image = open_rgb(photos[index].jpeg)
        if view == MIXED:
            rng, partner = mixed_with(index, len(photos), seed)
            shown = mixed_view(image, open_rgb(photos[partner].jpeg), side_px, rng)
        elif view >= 2:
            shown = random_view(image, side_px, np.random.default_rng((seed, view, index)))
        else:
            shown = squash(image, side_px)
            if view == 1:
                shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(shown)

    def load(start: int) -> UInt8Array:
        return np.stack([pixels(i) for i in range(start, min(start + batch, len(photos)))])

    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for start in range(0, len(photos), batch):
            now = ahead.result() if ahead is not None else load(start)
            following = start + batch
            ahead = pool.submit(load, following) if following < len(photos) else None
            yield now
