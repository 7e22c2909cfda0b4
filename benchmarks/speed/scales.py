"""What decoding a JPEG at half of its size costs a model: cosines and recall, by the side left.

    python -m benchmarks.speed.scales PHOTOS.tar [--model pocket] [--sides 375 256 240 224]

PHOTOS.tar holds KEY.jpg and KEY.json in pairs, the JSON with `captions`. Each photo is enlarged to
twice the side, written as a JPEG, and read whole and by half; so it tells what is lost by the
decoder's reduction, not what finer detail than the photos have would have been worth.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed import measure
from benchmarks.speed.fidelity import recall

BATCH = 8


def enlarged(image: Image.Image, side: int) -> bytes:
    """A JPEG whose half has a short side of `side`."""
    scale = side / min(image.size)
    size = (2 * round(image.width * scale), 2 * round(image.height * scale))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def read(data: bytes, divisor: int) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (image.width // divisor, image.height // divisor))
    return image.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--sides", type=int, nargs="+", default=[375, 256, 240, 224])
    options = parser.parse_args()
    from clipsearch.models import load_encoder

    encoder = load_encoder(options.model, device="cpu", precision="fp32")
    photos, captions = [], []
    with tarfile.open(options.photos) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            if member.name.endswith(".jpg"):
                photos.append(Image.open(io.BytesIO(content.read())).convert("RGB"))
            elif member.name.endswith(".json"):
                captions.append(json.load(content)["captions"])
    texts = encoder.texts([text for of_photo in captions for text in of_photo])
    owner = np.repeat(np.arange(len(captions)), [len(one) for one in captions])

    def vectors(files: list[bytes], divisor: int) -> np.ndarray:
        pixels = [encoder.preprocess.pixels(read(file, divisor)) for file in files]
        batches = range(0, len(pixels), BATCH)
        return np.concatenate([encoder.images(np.stack(pixels[i : i + BATCH])) for i in batches])

    found = []
    for side in options.sides:
        files = [enlarged(photo, side) for photo in photos]
        whole, half = vectors(files, 1), vectors(files, 2)
        cosines = (whole * half).sum(axis=1)
        found.append(
            {
                "side_left": side,
                "mean_cosine": float(cosines.mean()),
                "worst_cosine": float(cosines.min()),
                "whole": recall(texts, whole, owner),
                "half": recall(texts, half, owner),
            }
        )
        print(found[-1], flush=True)
    measure.write(
        "speed-scales",
        {
            "claim": "what decoding JPEG at half of its size costs, by the short side left",
            "command": "python -m benchmarks.speed.scales PHOTOS.tar",
            "model": options.model,
            "source_px": encoder.preprocess.source_px,
            "photos": len(photos),
            "found": found,
        },
    )


if __name__ == "__main__":
    main()
