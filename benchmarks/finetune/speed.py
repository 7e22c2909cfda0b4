"""Steps per second and peak memory of training, beside open_clip's own training script.

    python -m benchmarks.finetune.speed [--batch 64] [--rounds 3] [--model DIR]

Both train the same model from the same weights on the same pictures with the same batch, all
weights, InfoNCE, AdamW, float32, as whole processes, in turns. Nothing else is trained on: the
anchor of general sentences, which open_clip does not have, is off. A step's time is the median over
the steps after the first two; open_clip's is its own logged batch time, data loading included, and
ours the time from one log line to the next. Peak memory is the kernel's account of the whole
process (and of its data loading worker for open_clip, which is left out of its figure).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.finetune.common import machine, save

SMALL_VIT = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 128, "patch_size": 16, "width": 256, "layers": 6,
                   "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 4},
}  # fmt: skip

OURS = """
import json, sys, time
from pathlib import Path
from clipsearch.train import Settings, finetune
import clipsearch.train.run as run
times = []
batch, micro, epochs = map(int, sys.argv[4:7])
def show(step): times.append(time.perf_counter())
class Enough(Exception): pass
def stop(*_, **__): raise Enough
run._best_alpha = stop        # training alone is timed
try:
    finetune(sys.argv[1], output=Path(sys.argv[2]), model=Path(sys.argv[3]), device="cpu",
             threads=2, progress=show, settings=Settings(method="full", epochs=epochs,
             batch_size=batch, micro_batch=micro, validation=8, test=8, patience=99, crop=0.9,
             anchor=0))
except Enough:
    pass
print(json.dumps(times))
"""

THEIRS = """
import sys
from clipsearch.models import import_open_clip
import_open_clip()
import torch
torch.set_num_threads(2)
from open_clip_train.main import main
main(sys.argv[1:])
"""


def pictures(folder: Path, count: int) -> Path:
    """JPEGs of 256 x 256 and a table that both programs read."""
    generator = np.random.default_rng(0)
    lines = ["filepath,title"]
    for number in range(count):
        grid = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / f"{number:05}.jpg"
        Image.fromarray(grid).resize((256, 256), Image.Resampling.BICUBIC).save(path, quality=90)
        words = " ".join(str(word) for word in generator.integers(0, 1000, 6))
        lines.append(f"{path},a photo of number {number} with {words}")
    table = folder / "pairs.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def run(words: list[str]) -> tuple[str, float, int]:
    """(output, wall seconds, peak bytes of the process itself)."""
    began = time.perf_counter()
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,"
        " text=True)\n"
        "print(done.stdout)\n"
        "print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)\n"
        "sys.exit(done.returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    peak = int(re.findall(r"PEAK (\d+)", done.stdout)[-1])
    return done.stdout, time.perf_counter() - began, peak


def ours(table: Path, model: Path, scratch: Path, batch: int, epochs: int) -> dict[str, float]:
    words = [str(table), str(scratch / "ours"), str(model), str(batch), str(batch), str(epochs)]
    text, wall, peak = run([sys.executable, "-c", OURS, *words])
    times = next(json.loads(line) for line in text.splitlines() if line.startswith("["))
    # The first step of an epoch also waits for the validation before it.
    per_epoch = len(times) // epochs
    gaps = [b - a for i, (a, b) in enumerate(pairwise(times)) if (i + 1) % per_epoch]
    return {"step_s": statistics.median(gaps[2:]), "steps": len(times), "wall_s": wall,
            "peak_mb": peak / 1e6}  # fmt: skip


def theirs(table: Path, model: Path, scratch: Path, batch: int, epochs: int) -> dict[str, float]:
    words = [
        "--train-data", str(table), "--dataset-type", "csv", "--csv-separator", ",",
        "--csv-img-key", "filepath", "--csv-caption-key", "title", "--model", f"local-dir:{model}",
        "--batch-size", str(batch), "--epochs", str(epochs), "--workers", "1", "--lr", "1e-5",
        "--warmup", "2", "--precision", "fp32", "--log-every-n-steps", "1", "--device", "cpu",
        "--logs", str(scratch / "theirs"), "--grad-clip-norm", "1.0", "--beta2", "0.98",
        "--save-frequency", "0",
    ]  # fmt: skip
    text, wall, peak = run([sys.executable, "-c", THEIRS, *words])
    times = [float(value) for value in re.findall(r"Batch \(t\): ([\d.]+)", text)]
    return {"step_s": statistics.median(times[2:]), "steps": len(times), "wall_s": wall,
            "peak_mb": peak / 1e6}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--photos", type=int, default=400)
    parser.add_argument("--model", type=Path, help="a model directory; default: a small ViT")
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"clipsearch": [], "open_clip": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = pictures(folder, given.photos + 16)
        model = given.model or _small_vit(folder)
        for number in range(given.rounds):
            for who, go in (("clipsearch", ours), ("open_clip", theirs)):
                place = folder / f"{who}-{number}"
                found[who].append(go(table, model, place, given.batch, given.epochs))
                print(who, found[who][-1], flush=True)
    ratios = [
        b["step_s"] / a["step_s"]
        for a, b in zip(found["clipsearch"], found["open_clip"], strict=True)
    ]
    save(
        "finetune-speed" + (f"-{given.model.name}" if given.model else ""),
        {
            "machine": machine(),
            "batch": given.batch,
            "photos": given.photos,
            "epochs": given.epochs,
            "model": str(given.model.name) if given.model else SMALL_VIT,
            "runs": found,
            "speed_ratio_median": statistics.median(ratios),
            "speed_ratios": ratios,
        },
    )


def _small_vit(folder: Path) -> Path:
    import torch

    from clipsearch.train.towers import new_towers, save_model

    torch.manual_seed(0)
    config = folder / "vit.json"
    config.write_text(json.dumps(SMALL_VIT))
    towers = new_towers(str(config), device="cpu")
    save_model(towers, towers.state(), folder / "model")
    return folder / "model"


if __name__ == "__main__":
    main()
