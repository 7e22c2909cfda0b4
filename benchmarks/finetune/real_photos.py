"""Fine-tuning on 500 real photos: does search get better, and what is forgotten?

    python -m benchmarks.finetune.real_photos TUNE GUARD [--splits 5] [--controls 3]

TUNE: 799 captioned photos (WebDataset tar) that the base model never saw, split 500 / 100 / 199 by
photo, another way for each seed. GUARD: general captioned photos; one half helps to choose the
mixture of weights, the other is reported. `--controls N`: N more splits that train and judge on
captions dealt to other photos, which must not come out better.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finetune.common import (
    add_training_options,
    machine,
    mean_and_error,
    save,
    training_settings,
)
from clipsearch.models.fingerprints import fingerprints
from clipsearch.models.sources import find_model
from clipsearch.records import Float32Array
from clipsearch.train import Settings, TrainingReport, finetune
from clipsearch.train.pairs import PhotoSource, read_pairs
from clipsearch.train.towers import Towers


def table(
    tar: Path, folder: Path, *, shuffled: bool = False, photos_at_most: int | None = None
) -> Path:
    """The tar as files and JSON lines; if asked, each photo with another one's captions."""
    photos = read_pairs(tar).photos[:photos_at_most]
    captions = [photo.captions for photo in photos]
    if shuffled:
        random.Random(0).shuffle(captions)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (photo, words) in enumerate(zip(photos, captions, strict=True)):
        lines.append(json.dumps({"image": _copy(photo.source, folder, number), "captions": words}))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _copy(source: PhotoSource, folder: Path, number: int) -> str:
    name = f"{number:05}.jpg"
    with source.as_file() as path:
        shutil.copyfile(path, folder / name)
    return name


def remember_vectors(method: str) -> None:
    """Put the same inputs through what is locked once for all splits."""
    names = {
        "text": ["embed_pixels"],
        "tokens": ["embed_pixels"],
        "projection": ["photo_features", "text_features"],
    }
    for name in names.get(method, []):
        setattr(Towers, name, _remembered(getattr(Towers, name), cut=method == "projection"))


def _remembered(plain: Callable[..., Float32Array], *, cut: bool) -> Callable[..., Float32Array]:
    known: dict[bytes, Float32Array] = {}

    def remembered(self: Towers, inputs: Any, **options: int) -> Float32Array:
        if cut:
            self.cut()  # as the first call for this model would have done
        digest = hashlib.blake2b(np.ascontiguousarray(inputs), digest_size=16).digest()
        if digest not in known:
            known[digest] = plain(self, inputs, **options)
        return known[digest]

    return remembered


def row(report: TrainingReport, seed: int) -> dict[str, Any]:
    """What one run says, in points."""
    test, guard = report.test, report.guard
    assert guard is not None

    def points(comparison: Any) -> dict[str, float]:
        base, tuned = comparison.base.text_to_image, comparison.tuned.text_to_image
        back, forth = comparison.base.image_to_text, comparison.tuned.image_to_text
        found = {f"t2i_R@{k}_base": 100 * base.recall[k] for k in (1, 5, 10)}
        found |= {f"t2i_R@{k}_tuned": 100 * tuned.recall[k] for k in (1, 5, 10)}
        found |= {f"i2t_R@{k}_base": 100 * back.recall[k] for k in (1, 5, 10)}
        found |= {f"i2t_R@{k}_tuned": 100 * forth.recall[k] for k in (1, 5, 10)}
        found["gain_t2i_R@10"] = found["t2i_R@10_tuned"] - found["t2i_R@10_base"]
        found |= {"gain": comparison.gain, "gain_error": comparison.gain_error}
        return found

    return {
        "seed": seed, "method": report.method, "alpha": report.alpha, "promoted": report.promoted,
        "photos": report.photos, "test": points(test), "guard": points(guard),
        "guard_points_lost": guard.points_lost, "steps": report.steps, "stopped": report.stopped,
        "seconds": report.seconds, "peak_mb": report.peak_bytes / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tune", type=Path)
    parser.add_argument("guard", type=Path)
    add_training_options(parser, epochs=10, anchor=Settings().anchor)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--controls", type=int, default=0, help="splits with shuffled captions")
    parser.add_argument("--guard-photos", type=int, help="only the first N of GUARD")
    parser.add_argument("--name", help="of the result; default: the method's")
    given = parser.parse_args()
    remember_vectors(given.method)
    settings = training_settings(given, validation=100, test=199)
    model = find_model(given.model)
    result: dict[str, Any] = {
        "machine": machine(),
        "model": given.model if given.model == "pocket" else Path(given.model).name,
        "fingerprints": asdict(fingerprints(model)),
        "guard_photos": given.guard_photos,
        "settings": settings.as_dict(),
    }
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        guard = table(given.guard, scratch / "guard", photos_at_most=given.guard_photos)
        for kind, splits in (("captions", given.splits), ("shuffled", given.controls)):
            pairs = table(given.tune, scratch / kind, shuffled=kind == "shuffled")
            rows = []
            for seed in range(splits):
                output = scratch / f"{kind}-{seed}"
                report = finetune(
                    pairs,
                    output=output,
                    model=model,
                    guard=guard,
                    device="cpu",
                    settings=replace(settings, seed=seed),
                )
                assert report is not None
                rows.append(row(report, seed))
                print(kind, json.dumps(rows[-1]), flush=True)
                shutil.rmtree(output / "state")
            if not rows:
                continue
            result[kind] = {
                "gain_t2i_R@10_points": mean_and_error([r["test"]["gain_t2i_R@10"] for r in rows]),
                "gain_mean_reciprocal_rank": mean_and_error([r["test"]["gain"] for r in rows]),
                "guard_points_lost": mean_and_error([r["guard_points_lost"] for r in rows]),
                "promoted": sum(r["promoted"] for r in rows),
                "runs": rows,
            }
            save(given.name or f"finetune-real-{given.method}", result)


if __name__ == "__main__":
    main()
