"""How good `pocket` is, in figures: `python -m benchmarks.pocket.evaluate --photos FOLDER`.

Everything goes through the program's own encoder. Raw results, with machine and versions, go to
`benchmarks/results/pocket-{what}.json`. The eval photos are opened once per released version;
`--dev` uses the dev photos instead, and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.pocket.photos import Photo, open_rgb, read_tar, read_tars
from benchmarks.pocket.sentences import article
from benchmarks.pocket.wordnet import Nouns, read_nouns
from clipsearch.models import load_encoder
from clipsearch.models.encoder import LocalEncoder
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array
from clipsearch.train.metrics import retrieval_metrics

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
ALBUM = HERE.parents[1] / "data"

Change = Callable[[Image.Image], Image.Image]


def embed_photos(encoder: LocalEncoder, images: Sequence[Image.Image]) -> Float32Array:
    """(N, D) unit rows."""
    parts = []
    for start in range(0, len(images), encoder.batch_size):
        batch = images[start : start + encoder.batch_size]
        parts.append(encoder.images(np.stack([encoder.preprocess.pixels(i) for i in batch])))
    return np.concatenate(parts)


def retrieval(
    encoder: LocalEncoder, photos: list[Photo], changes: Mapping[str, Change]
) -> dict[str, object]:
    """Text to image and back among captioned photos, once after each change of the photos."""
    images = [open_rgb(photo.jpeg) for photo in photos]
    captions = encoder.texts([caption for photo in photos for caption in photo.captions])
    owner = np.repeat(np.arange(len(photos)), [len(photo.captions) for photo in photos])
    found: dict[str, object] = {}
    for name, change in changes.items():
        vectors = embed_photos(encoder, [change(image) for image in images])
        found[name] = retrieval_metrics(vectors, captions, owner).as_dict()
    return found


def classification(encoder: LocalEncoder, photos: list[Photo]) -> dict[str, object]:
    """Top-1 by words alone, and precision@5 of photo to photo, among photos with labels.

    Precision@5 counts photos of the same label among the five nearest others.
    """
    names = sorted({str(photo.label) for photo in photos})
    truth = np.array([names.index(str(photo.label)) for photo in photos])
    vectors = embed_photos(encoder, [open_rgb(photo.jpeg) for photo in photos])
    found: dict[str, object] = {"photos": len(photos), "classes": len(names)}
    for kind, templates in (("one_template", _ONE_TEMPLATE), ("ensemble_80", _eighty())):
        guesses = (vectors @ name_vectors(encoder, names, templates).T).argmax(1)
        found[f"top1_{kind}"] = float(np.mean(guesses == truth))
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :5]
    found["precision_at_5"] = float(np.mean(truth[nearest] == truth[:, None]))
    others = np.bincount(truth)[truth] - 1
    found["precision_at_5_ceiling"] = float(np.mean(np.minimum(others, 5) / 5))
    return found


def name_vectors(
    encoder: LocalEncoder, names: Sequence[str], templates: Sequence[Callable[[str], str]]
) -> Float32Array:
    """(C, D): the mean over templates of each name's unit vectors, of unit length again."""
    said = [article(template(name)) for name in names for template in templates]
    vectors = encoder.texts(said).reshape(len(names), len(templates), -1).mean(1)
    rows: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


def _photo_of(name: str) -> str:
    return f"a photo of a {name}."


_ONE_TEMPLATE = (_photo_of,)


def _eighty() -> Sequence[Callable[[str], str]]:
    templates: Sequence[Callable[[str], str]] = import_open_clip().OPENAI_IMAGENET_TEMPLATES
    return templates


def album(encoder: LocalEncoder) -> dict[str, object]:
    """The rank of the right photo for each of the album's queries."""
    paths = sorted((ALBUM / "album").glob("*.jpg"))
    vectors = embed_photos(encoder, [Image.open(path).convert("RGB") for path in paths])
    with (ALBUM / "queries.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = encoder.texts([row["query"] for row in rows]) @ vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")
    names = [path.relative_to(ALBUM).as_posix() for path in paths]
    queries = [
        {
            "query": row["query"],
            "rank": 1 + [names[i] for i in ranked].index(row["filepath"]),
            "first_three": [names[i] for i in ranked[:3]],
        }
        for row, ranked in zip(rows, order, strict=True)
    ]
    in_three = sum(query["rank"] <= 3 for query in queries)  # type: ignore[operator]
    return {"photos": len(paths), "in_first_3": in_three, "of": len(queries), "queries": queries}


def outside_words(encoder: LocalEncoder, photos: list[Photo]) -> dict[str, object]:
    """Everyday words that no training caption holds, asked of labelled photos.

    A word fits a label that WordNet calls the same thing or a kind of it; words that fit no label
    are counted, not scored.
    """
    words = (HERE / "words-outside-captions.txt").read_text(encoding="utf-8").split("\n")
    words = [word for word in words if word]
    nouns = read_nouns()
    labels = sorted({str(photo.label) for photo in photos})
    truth = np.array([labels.index(str(photo.label)) for photo in photos])
    vectors = embed_photos(encoder, [open_rgb(photo.jpeg) for photo in photos])
    asked = []
    for word in words:
        fitting = [i for i, label in enumerate(labels) if fits(nouns, word, label)]
        if not fitting:
            continue
        scores = vectors @ encoder.texts([article(f"a photo of a {word}")])[0]
        right = np.isin(truth[np.argsort(-scores, kind="stable")[:5]], fitting)
        share = float(np.isin(truth, fitting).mean())
        asked.append(
            {
                "word": word,
                "labels": [labels[i] for i in fitting],
                "right_in_first_5": int(right.sum()),
                "share_of_photos": share,
            }
        )
    hits = [entry["right_in_first_5"] for entry in asked]
    return {
        "words": len(words),
        "with_photos": len(asked),
        "found_in_first_5": float(np.mean([hit > 0 for hit in hits])),  # type: ignore[operator]
        "precision_at_5": float(np.mean(hits)) / 5,  # type: ignore[arg-type]
        "chance_precision": float(np.mean([entry["share_of_photos"] for entry in asked])),  # type: ignore[arg-type]
        "asked": asked,
    }


def fits(nouns: Nouns, word: str, label: str) -> bool:
    """Whether the label's commonest meaning is the word's commonest meaning, or a kind of it."""
    if word == label:
        return True
    meant, named = nouns.senses.get(word), nouns.senses.get(label.lower())
    if not meant or not named:
        return False
    offset: int | None = named[0]
    while offset is not None:
        if offset == meant[0]:
            return True
        above = nouns.synsets[offset].hypernyms
        offset = above[0] if above else None
    return False


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream).convert("RGB")


def _centre(image: Image.Image) -> Image.Image:
    width, height = image.size
    keep = 0.5**0.5  # of each side: half of the area
    left, top = width * (1 - keep) / 2, height * (1 - keep) / 2
    return image.crop((round(left), round(top), round(width - left), round(height - top)))


def _rotated(image: Image.Image) -> Image.Image:
    return image.rotate(5, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0))


def _darkened(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.5)


def _half_size(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


CHANGES: dict[str, Change] = {
    "as_they_are": _unchanged,
    "jpeg_quality_40": _jpeg,
    "centre_half": _centre,
    "rotated_5_degrees": _rotated,
    "darkened_by_half": _darkened,
    "half_size": _half_size,
}


def speed(encoder: LocalEncoder, photos: list[Photo]) -> dict[str, object]:
    """Photos through the image tower, the best of three runs: a second, and a second of one core.

    Every core has a batch of its own, as in `clipsearch index`. The first figure means little on a
    machine that does other things; the second still does.
    """
    images = [open_rgb(photo.jpeg) for photo in photos[:256]]
    pixels = np.stack([encoder.preprocess.pixels(image) for image in images])
    batches = np.split(pixels, range(encoder.batch_size, len(pixels), encoder.batch_size))
    encoder.images(batches[0])
    seconds, core_seconds = [], []
    for _ in range(3):
        began, began_cores = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(encoder.images, batches))
        seconds.append(time.perf_counter() - began)
        core_seconds.append(time.process_time() - began_cores)
    return {
        "runtime": encoder.runtime,
        "photos_per_second": len(images) / min(seconds),
        "photos_per_core_second": len(images) / min(core_seconds),
        "load_average": os.getloadavg()[0],
    }


def setting() -> dict[str, object]:
    """Machine, versions and command: what a figure needs to be understood later."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    packages = ("numpy", "pillow", "torch", "open_clip_torch", "openvino")
    return {
        "command": " ".join(
            # Where photos lie on the machine is nobody's business.
            ["python", "-m", f"benchmarks.pocket.{Path(sys.argv[0]).stem}"]
            + [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        ),
        "machine": f"{platform.machine()}, {len(cpu)} x {cpu[0].partition(':')[2].strip()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--precision", default="auto", help="of the image tower: fp32, bf16, int8")
    parser.add_argument("--dev", action="store_true", help="the dev photos alone")
    parser.add_argument("--speed", action="store_true", help="the speed on dev photos alone")
    chosen = parser.parse_args()
    encoder = load_encoder(chosen.model, precision=chosen.precision)
    found: dict[str, object] = {}
    if chosen.speed:
        photos = read_tars(chosen.photos / "dev", "*.tar")
        found[f"speed-{chosen.precision}"] = speed(encoder, photos)
    elif chosen.dev:
        photos = read_tars(chosen.photos / "dev", "*.tar")
        found["dev"] = retrieval(encoder, photos, {"as_they_are": _unchanged})
    else:
        photos = read_tar(chosen.photos / "eval" / "flickr8k-1k.tar")
        found["retrieval"] = retrieval(encoder, photos, CHANGES)
        sets = {
            path.stem: read_tar(path)
            for path in sorted((chosen.photos / "labelled-eval").glob("*.tar"))
        }
        found["classification"] = {n: classification(encoder, ps) for n, ps in sets.items()}
        found["words"] = outside_words(encoder, [p for ps in sets.values() for p in ps])
        found["album"] = album(encoder)
    chosen.results.mkdir(exist_ok=True)
    for what, figures in found.items():
        path = chosen.results / f"pocket-{what}.json"
        report = {**setting(), "model": chosen.model, what: figures}
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(path, json.dumps(figures)[:600])


if __name__ == "__main__":
    main()
