"""Memory of one exact step on batches of 256, 1,024 and 4,096 pairs with a micro-batch of 32.

    python -m benchmarks.finetune.memory

Each size runs in a process of its own. 'beyond inputs' is the process' peak less what it held
when model, optimizer state and the batch's own uint8 pixels and tokens were in place.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.finetune.common import machine, save

CHILD = """
import json, resource, sys, tempfile
from pathlib import Path
import numpy as np, torch
from benchmarks.finetune.speed import _small_vit
from clipsearch.train.gradcache import Inputs, Objective, backward
from clipsearch.train.towers import load_towers

count, micro_batch = map(int, sys.argv[1:])
torch.set_num_threads(2)
with tempfile.TemporaryDirectory() as name:
    towers = load_towers(_small_vit(Path(name)), device="cpu")
towers.training_mode()

def inputs(count):
    generator = np.random.default_rng(0)
    tokens, _ = towers.tokenise([f"a photo of thing number {i}" for i in range(count)])
    return Inputs(
        photos=torch.arange(count), captions=torch.arange(count), labels=torch.full((count,), -1),
        pixels=generator.integers(0, 256, (count, 128, 128, 3), dtype=np.uint8),
        tokens=torch.from_numpy(tokens),
    )

backward(towers, inputs(micro_batch), Objective(), micro_batch=micro_batch)  # gradients exist now
batch = inputs(count)

def held():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()

before = held()
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
backward(towers, batch, Objective(), micro_batch=micro_batch)
status = Path("/proc/self/status").read_text()
peak = int(next(x for x in status.splitlines() if x.startswith("VmHWM")).split()[1]) * 1024
stored = batch.pixels.nbytes + batch.tokens.numpy().nbytes
features = 2 * count * 256 * 4
print(json.dumps({"batch": count, "micro_batch": micro_batch, "inputs_mb": stored / 1e6,
                  "features_mb": features / 1e6, "beyond_inputs_mb": (peak - before) / 1e6}))
"""


def main() -> None:
    rows = []
    for count, micro_batch in ((256, 32), (1024, 32), (4096, 32), (256, 256)):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(count), str(micro_batch)],
            capture_output=True,
            text=True,
            check=True,
        )
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    save("finetune-memory", {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
