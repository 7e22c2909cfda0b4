"""The methods of fine-tuning on one split, in a table: gain, forgetting, seconds, peak memory.

    python -m benchmarks.finetune.methods TUNE GUARD [--epochs 3] [--guard-photos 300]

Each method runs in a process of its own, so that its peak memory is its own. `text`,
`tokens` and `projection` lock the image tower or its trunk: their epochs cost next to nothing once
the vectors are there, so they get four times as many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.finetune.common import RESULTS, machine, save

METHODS = {"text": 4, "tokens": 4, "projection": 4, "lora": 1, "full": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tune", type=Path)
    parser.add_argument("guard", type=Path)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--guard-photos", type=int, default=300)
    parser.add_argument("--micro-batch", type=int, default=32)
    given = parser.parse_args()
    rows = []
    for method, times in METHODS.items():
        name = f"finetune-method-{method}"
        subprocess.run(
            [
                sys.executable, "-m", "benchmarks.finetune.real_photos", given.tune, given.guard,
                "--splits", "1", "--model", given.model, "--method", method, "--name", name,
                "--epochs", str(times * given.epochs), "--batch-size", "128",
                "--guard-photos", str(given.guard_photos), "--micro-batch", str(given.micro_batch),
            ],
            check=True,
        )  # fmt: skip
        path = RESULTS / f"{name}.json"
        run = json.loads(path.read_text())["captions"]["runs"][0]
        path.unlink()
        rows.append(run)
        print(
            f"{method:10} t2i R@10 {run['test']['t2i_R@10_base']:.1f} -> "
            f"{run['test']['t2i_R@10_tuned']:.1f}, guard lost {run['guard_points_lost']:.2f}, "
            f"{run['seconds']:.0f} s, {run['peak_mb']:.0f} MB",
            flush=True,
        )
        save("finetune-methods", {"machine": machine(), "model": given.model, "rows": rows})


if __name__ == "__main__":
    main()
