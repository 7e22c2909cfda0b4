"""What a faster arithmetic costs pocket: cosines on 200 real photos, and recall, against fp32.

    python -m benchmarks.speed.fidelity PHOTOS.tar [--model pocket]

PHOTOS.tar holds KEY.jpg and KEY.json in pairs, the JSON with `captions`. It must not be what the
model was trained on.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import measure


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="pocket")
    options = parser.parse_args()
    from clipsearch.models import load_encoder
    from clipsearch.models.runtimes.openvino_core import native_precisions
    from clipsearch.models.runtimes.trial import PHOTOS
    from clipsearch.photos.decode import decode_photo

    pictures, captions = [], []
    with tarfile.open(options.photos) as archive, tempfile.TemporaryDirectory() as work:
        cache = Path(work)
        encoders = {
            precision: load_encoder(
                options.model, device="cpu", precision=precision, cache_folder=cache
            )
            for precision in ("fp32", *sorted(native_precisions()), "auto")
        }
        preprocess = encoders["fp32"].preprocess
        file = cache / "photo.jpg"
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            if member.name.endswith(".jpg"):
                file.write_bytes(content.read())
                image = decode_photo(file, side_px=preprocess.source_px).image
                assert image is not None
                pictures.append(preprocess.pixels(image))
            elif member.name.endswith(".json"):
                captions.append(json.load(io.TextIOWrapper(content))["captions"])
        texts = encoders["fp32"].texts([text for of_photo in captions for text in of_photo])
        vectors = {}
        for precision, encoder in encoders.items():
            vectors[precision] = np.concatenate(
                [encoder.images(np.stack(pictures[i : i + 4])) for i in range(0, len(pictures), 4)]
            )
        owner = np.repeat(np.arange(len(captions)), [len(one) for one in captions])
        found: dict[str, Any] = {}
        for precision, rows in vectors.items():
            cosines = (rows * vectors["fp32"]).sum(axis=1)
            found[precision] = {
                "computed_in": encoders[precision].precision,
                "mean_cosine_of_200": float(cosines[:PHOTOS].mean()),
                "worst_cosine_of_200": float(cosines[:PHOTOS].min()),
                "worst_cosine": float(cosines.min()),
                "text_to_photo_recall": recall(texts, rows, owner),
            }
            print(precision, found[precision], flush=True)
        measure.write(
            "speed-fidelity",
            {
                "claim": "vectors and recall in a faster arithmetic against fp32",
                "command": "python -m benchmarks.speed.fidelity PHOTOS.tar",
                "model": options.model,
                "photos": len(pictures),
                "captions": len(texts),
                "precisions": found,
                "trial": measure.read_json(cache / "precision.json"),
            },
        )


def recall(texts: Any, photos: Any, owner: Any) -> dict[str, float]:
    """The share of captions whose photo is among the first k, in percent."""
    scores = texts @ photos.T
    own = scores[np.arange(len(texts)), owner]
    ranks = (scores > own[:, None]).sum(axis=1)
    return {f"R@{k}": round(float((ranks < k).mean()) * 100, 2) for k in (1, 5, 10)}


if __name__ == "__main__":
    main()
