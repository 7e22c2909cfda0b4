"""Two processes together compute what one computes alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_model, tiny_pairs

from clipsearch.train import Settings, finetune
from clipsearch.train.gradcache import Inputs, Objective, backward
from clipsearch.train.towers import load_towers

SCRIPT = """
import os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
sys.path.insert(0, sys.argv[1])
from test_train_distributed import gradients, run
base, pairs, out = map(Path, sys.argv[2:5])
torch.distributed.init_process_group("gloo")
rank = int(os.environ["RANK"])
save_file(gradients(base, rank, 2), f"{out}/{rank}.safetensors")
print("report" if run(pairs, base, out / "run") else "silent")
torch.distributed.destroy_process_group()
"""


def gradients(folder: Path, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Loss and gradients of 16 pairs, fed whole and in chunks, of which this process has a part."""
    towers = load_towers(folder, device="cpu")
    parallel = None
    if world > 1:
        parallel = torch.nn.parallel.DistributedDataParallel(towers.model, broadcast_buffers=False)
    tokens, _ = towers.tokenise([f"thing number {i // 3}" for i in range(16)])
    pixels = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    own = slice(rank * 16 // world, (rank + 1) * 16 // world)
    inputs = Inputs(
        photos=torch.arange(16)[own],
        captions=(torch.arange(16) // 3)[own],  # one caption on both sides of the border
        labels=torch.full((16,), -1)[own],
        pixels=pixels[own],
        tokens=torch.from_numpy(tokens[own]),
    )
    found = {}
    for micro_batch in (16, 3):
        towers.model.zero_grad()
        loss = backward(towers, inputs, Objective(), micro_batch=micro_batch, parallel=parallel)
        found[f"{micro_batch}:loss"] = torch.tensor(loss)
        for name, parameter in towers.model.named_parameters():
            assert parameter.grad is not None
            found[f"{micro_batch}:{name}"] = parameter.grad.clone().contiguous()
    return found


def run(pairs: Path, base: Path, output: Path) -> object:
    settings = Settings(
        method="full", epochs=2, batch_size=12, micro_batch=3, crop=1, validation=8, test=8
    )
    return finetune(pairs, output=output, model=base, device="cpu", settings=settings)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with base, pairs and what two processes under torchrun made of them."""
    folder = tmp_path_factory.mktemp("together")
    base, pairs = tiny_model(folder / "base"), tiny_pairs(folder / "pairs", 40)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    done = subprocess.run(
        [sys.executable, *launch, *map(str, (script, Path(__file__).parent, base, pairs, folder))],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_processes_give_the_gradients_of_one(together: tuple[Path, str]) -> None:
    """Of every parameter, scale and towers, with and without cached features."""
    folder, _ = together
    alone = gradients(folder / "base" / "model", 0, 1)
    for rank in range(2):
        mine = load_file(folder / f"{rank}.safetensors")
        assert mine.keys() == alone.keys()
        for name, expected in alone.items():
            scale = max(1.0, float(expected.abs().max()))
            worst = float((mine[name] - expected).abs().max()) / scale
            assert worst < 1e-5, f"{name} on process {rank}"
    for name in ("3:logit_scale", "3:visual.transformer.resblocks.0.attn.in_proj_weight"):
        assert float(alone[name].abs().max()) > 0
    torch.testing.assert_close(alone["16:loss"], alone["3:loss"], atol=1e-5, rtol=0)


def test_a_run_under_torchrun_ends_as_a_run_alone(
    together: tuple[Path, str], tmp_path: Path
) -> None:
    """The same code path: same batches, same steps, weights equal but for the order of sums."""
    folder, said = together
    assert sorted(said.split()) == ["report", "silent"]
    run(folder / "pairs" / "pairs.csv", folder / "base" / "model", tmp_path / "run")
    one, two = (load_file(place / "run/state/last.safetensors") for place in (tmp_path, folder))
    for name, value in one.items():
        if name.startswith("model."):
            # Four steps of Adam at 3e-5 make of rounding a small part of the rate.
            assert float((value - two[name]).abs().max()) < 1e-5, name
    assert json.loads((folder / "run" / "training.json").read_text())["steps"] == 4
