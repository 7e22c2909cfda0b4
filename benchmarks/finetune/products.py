"""A new world: 300 products with invented names, found by name in pictures never seen.

    python data/render.py products WORLD --count 3000 --classes 300 --seed 8
    python -m benchmarks.finetune.products WORLD GUARD [--method tokens]

Nine pictures of each product teach, choose and judge within the run; the tenth of each is kept out
of it altogether. On those 300 the base and the tuned model are measured: search with a product's
two captions, 300 pictures to choose from, one of them right.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.finetune.common import add_training_options, machine, save, training_settings
from benchmarks.finetune.real_photos import table
from clipsearch.models import load_encoder
from clipsearch.train import Settings, evaluate_retrieval, finetune


def divide(world: Path, scratch: Path) -> tuple[Path, Path]:
    """(pairs to train on, pairs with the last picture of each product)."""
    with (world / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pictures: dict[str, list[str]] = {}
    for row in rows:
        names = pictures.setdefault(row["filepath"].rsplit("-", 1)[0], [])
        if row["filepath"] not in names:
            names.append(row["filepath"])
    held_out = {names[-1] for names in pictures.values()}
    paths = []
    for name, chosen in (
        ("taught.jsonl", [row for row in rows if row["filepath"] not in held_out]),
        ("unseen.jsonl", [row for row in rows if row["filepath"] in held_out]),
    ):
        path = scratch / name
        lines = [
            json.dumps(
                {
                    "image": str((world / row["filepath"]).resolve()),
                    "caption": row["caption"],
                    "label": row["filepath"].rsplit("-", 1)[0],
                }
            )
            for row in chosen
        ]
        path.write_text("\n".join(lines) + "\n")
        paths.append(path)
    return paths[0], paths[1]


def unseen_recall(model: str | Path, pairs: Path, scratch: Path) -> dict[str, Any]:
    encoder = load_encoder(model, device="cpu", cache_folder=scratch / "cache")
    found = evaluate_retrieval(pairs, encoder).metrics.text_to_image
    return {
        "pool": found.pool, "queries": found.queries, "median_rank": found.median_rank,
        **{f"R@{k}": 100 * value for k, value in found.recall.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", type=Path)
    parser.add_argument("guard", type=Path)
    add_training_options(parser, epochs=20, anchor=Settings().anchor)
    parser.set_defaults(method="tokens")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        taught, unseen = divide(given.world, scratch)
        guard = table(given.guard, scratch / "guard")
        before = unseen_recall(given.model, unseen, scratch)
        print("before", before, flush=True)
        report = finetune(
            taught,
            output=scratch / "run",
            model=given.model,
            guard=guard,
            device="cpu",
            say=print,
            progress=lambda step: print(
                f"step {step.step}/{step.steps} loss {step.loss:.3f} recall {step.recall}",
                flush=True,
            ),
            settings=training_settings(given, validation=200, test=200),
        )
        assert report is not None
        print("\n".join(report.notes()))
        after = unseen_recall(scratch / "run", unseen, scratch)
        print("after", after, flush=True)
        record = json.loads((scratch / "run" / "training.json").read_text())
    assert report.guard is not None
    save(
        f"finetune-products-{given.method}",
        {
            "machine": machine(), "model": Path(given.model).name, "method": given.method,
            "products": before["pool"], "unseen_before": before, "unseen_after": after,
            "chance_R@5": 100 * 5 / before["pool"], "alpha": report.alpha,
            "alphas": record["alphas"], "guard_points_lost": report.guard.points_lost,
            "guard_t2i_R@10": [100 * report.guard.base.text_to_image.recall[10],
                               100 * report.guard.tuned.text_to_image.recall[10]],
            "steps": report.steps, "seconds": report.seconds, "peak_mb": report.peak_bytes / 1e6,
            "identity": record["identity"],
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
