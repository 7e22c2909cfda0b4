"""A killed run goes on to the weights of an unbroken one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny_model, tiny_pairs

from clipsearch.models.config import WEIGHTS_NAME
from clipsearch.train import Settings, finetune
from clipsearch.train.states import LAST, read_metrics

KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[5])
import clipsearch.train.loop as loop
from test_train_resume import run
loop._STATE_EVERY_S = float(sys.argv[4])   # 0: states within epochs too

def show(step):
    print(step.step, flush=True)
    time.sleep(0.05)

run(*map(Path, sys.argv[1:4]), progress=show)
"""


def run(pairs: Path, base: Path, output: Path, **more: object) -> None:
    settings = Settings(
        method="lora", epochs=4, batch_size=12, micro_batch=6, ema=0.8, validation=8, test=8,
        learning_rate=1e-3, patience=9,
    )  # fmt: skip
    finetune(
        pairs, model=base, output=output, device="cpu", threads=1, resume=True, settings=settings,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    """Runs of one thread, whatever other tests use."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("resume")
    base, pairs = tiny_model(folder / "base"), tiny_pairs(folder / "pairs", 56)
    run(pairs, base, folder / "whole")
    return pairs, base, folder / "whole"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize(("kill_after", "state_every_s"), [(2, 0.0), (8, 1e9)])
def test_killed_after_any_step_it_ends_with_the_same_weights(
    world: tuple[Path, Path, Path], tmp_path: Path, kill_after: int, state_every_s: float
) -> None:
    pairs, base, whole = world
    output = tmp_path / "run"
    words = [str(word) for word in (pairs, base, output, state_every_s, Path(__file__).parent)]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == kill_after:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert not (output / "training.json").exists()
    run(pairs, base, output)

    for name in (f"state/{LAST}", WEIGHTS_NAME):
        expected, resumed = load_file(whole / name), load_file(output / name)
        assert expected.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[key]) for key, value in expected.items()), name
    # The log has each step once, with the same losses.
    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(folder) if line["kind"] == "step"]
        for folder in (whole, output)
    ]
    assert losses[0] == losses[1]
