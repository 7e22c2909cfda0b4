"""The whole of `train.sh` on a few photos: `python -m benchmarks.pocket.rehearse --help`.

It runs twice from nothing, in a few steps of every stage: once undisturbed, and once killed (the
whole process group, by SIGKILL) a moment after it has written some more files, and started again,
until it is through. Both must end with the same weights, bit for bit. Figures mean nothing here:
every stage has learned for seconds. An undisturbed run that is there already is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from benchmarks.pocket.evaluate import RESULTS, setting
from benchmarks.pocket.export import WEIGHTS

_SCRIPT = Path(__file__).with_name("train.sh")
_LONGEST = 1800.0  # seconds


def take_some(photos: Path, few: Path, each: int) -> None:
    """Some photos of every tar in train/ and dev/, in tars of the same names."""
    for path in sorted((*photos.glob("train/*.tar"), *photos.glob("dev/*.tar"))):
        out = few / path.relative_to(photos)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path) as whole, tarfile.open(out, "w") as part:
            members = whole.getmembers()  # a photo is two files, one after the other
            apart = 2 * max(1, len(members) // (2 * each))
            for start in range(0, len(members), apart):
                for member in members[start : start + 2]:
                    part.addfile(member, whole.extractfile(member))


def finished_files(work: Path) -> int:
    """Files that a stage has finished."""
    return sum(
        not path.name.startswith("draft-")
        for pattern in ("**/*.pt", "**/*.npy", "**/*.npz", "**/*.safetensors", "**/done")
        for path in work.glob(pattern)
    )


class Rehearsal:
    """One run from nothing, in a folder of its own."""

    def __init__(self, photos: Path, work: Path) -> None:
        self._photos, self.work = photos, work
        work.mkdir(parents=True, exist_ok=True)
        self.kills = 0
        self.seconds = 0.0

    def undisturbed(self) -> None:
        began = time.perf_counter()
        process = self._start()
        if process.wait(_LONGEST):
            sys.exit(f"train.sh failed; its output is in {self.work / 'output.txt'}")
        self.seconds = time.perf_counter() - began

    @property
    def is_done(self) -> bool:
        return (self.work / "pocket" / "done").exists()

    def disturbed(self, rng: random.Random, most: int) -> None:
        """Killed a moment after one to `most` files more, and started again, to the end."""
        began = time.perf_counter()
        while not self._survives(finished_files(self.work) + rng.randint(1, most), rng):
            self.kills += 1
        self.seconds = time.perf_counter() - began

    def _survives(self, until: int, rng: random.Random) -> bool:
        process = self._start()
        while process.poll() is None:
            if finished_files(self.work) >= until:
                time.sleep(rng.uniform(0, 2))
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait() == 0
            time.sleep(0.05)
        if process.returncode:
            sys.exit(f"train.sh failed; its output is in {self.work / 'output.txt'}")
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        command = ["bash", str(_SCRIPT), "--rehearsal", str(self._photos), str(self.work)]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with (self.work / "output.txt").open("ab") as output:
            return subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PATH": path},
            )

    def digest(self) -> str:
        """Of the finished model's weights."""
        return hashlib.sha256((self.work / "pocket" / WEIGHTS).read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="with train/ and dev/")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--each", type=int, default=16, help="photos of every tar")
    parser.add_argument("--most", type=int, default=8, help="files between two kills, at most")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    few = chosen.work / "photos"
    take_some(chosen.photos, few, chosen.each)
    once = Rehearsal(few, chosen.work / "undisturbed")
    if not once.is_done:
        once.undisturbed()
        print(f"undisturbed: {once.seconds:.0f} s", flush=True)
    again = Rehearsal(few, chosen.work / "killed")
    if finished_files(again.work):
        sys.exit(f"{again.work} is to be killed from its beginning; remove it first")
    again.disturbed(random.Random(chosen.seed), chosen.most)
    print(f"killed {again.kills} times: {again.seconds:.0f} s", flush=True)
    report = {
        **setting(),
        "photos_of_each_tar": chosen.each,
        "files": finished_files(once.work),
        "kills": again.kills,
        "same_weights": once.digest() == again.digest(),
        "sha256": [once.digest(), again.digest()],
    }
    path = chosen.results / "pocket-rehearsal.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(path, report["same_weights"])
    if not report["same_weights"]:
        sys.exit("the run that was killed ended with other weights")


if __name__ == "__main__":
    main()
