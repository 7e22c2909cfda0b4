"""Cold queries: `query TEXT` from start to exit at 1,000, 100,000 and 1,000,000 photos.

    python -m benchmarks.speed.queries WORK [--sizes 1000 100000 1000000] [--rounds 5]

Every text is new, so none comes from the cache of text vectors. rclip's databases are written in
its own schema and it is told not to look for new photos (-n); its vectors are random unit ones.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import libraries, measure, models, peer

WORDS = ("dog", "beach", "mountain", "red car", "birthday", "old boat", "child", "street at night")


def peer_rows(root: str, count: int) -> Iterator[tuple[str, float, int, bytes, str]]:
    generator = np.random.default_rng(3)
    for start in range(0, count, libraries.BLOCK):
        size = min(libraries.BLOCK, count - start)
        vectors = generator.standard_normal((size, 512), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        for place, vector in enumerate(vectors):
            number = start + place
            path = f"{root}/{libraries.photo_path(number)}"
            yield path, 1e9, 1, vector.tobytes(), f"{number:064x}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    work = options.work.resolve()
    models.make(work)
    rclip = peer.install(work)
    home = work / "home"
    nowhere = work / "nowhere"
    nowhere.mkdir(exist_ok=True)
    names = ("pocket", f"models/{models.NAME}")
    for size in options.sizes:
        data = peer.data_folder(work, f"query-{size}")
        if not (data / "db.sqlite3").exists():
            draft = data / "db.draft"
            draft.unlink(missing_ok=True)
            peer.write_database(draft, peer_rows(str(nowhere), size))
            draft.rename(data / "db.sqlite3")
        for name in names:
            model = name if name == "pocket" else str(work / name)
            libraries.make(library(work, size, name), str(nowhere), size, model)
    runs: list[dict[str, Any]] = []
    for size in options.sizes:
        programs = [
            *(ours(work, size, name) for name in names),
            theirs(work, size, rclip),
        ]
        runs += [
            {**run.as_dict(), "photos": size}
            for run in measure.in_turn(programs, rounds=options.rounds, home=home)
        ]
    measure.write(
        "speed-queries",
        {
            "claim": "one text query, cold: start to exit, ten hits printed",
            "command": "clipsearch query TEXT; rclip -n TEXT",
            "peer": measure.versions(
                str(rclip.parent / "python"), ("rclip", "onnxruntime", "numpy")
            ),
        },
        runs,
    )


def library(work: Path, size: int, name: str) -> Path:
    return work / f"library-{size}-{Path(name).name}"


def asking(command: list[str], at: int) -> tuple[list[str], Callable[[], None]]:
    """A command whose text at this place is another one each time it is run."""
    numbers = itertools.count()

    def change() -> None:
        number = next(numbers)
        command[at] = f"{WORDS[number % len(WORDS)]} number {number}"

    return command, change


def ours(work: Path, size: int, name: str) -> measure.Program:
    folder = library(work, size, name)
    command, change = asking(
        [measure.clipsearch_command(), "--library", str(folder), "query", "TEXT"], 4
    )

    def forget() -> None:
        change()
        (folder / "cache" / "texts.sqlite").unlink(missing_ok=True)

    return measure.Program(f"clipsearch, {Path(name).name}", command, work, before=forget)


def theirs(work: Path, size: int, rclip: Path) -> measure.Program:
    data = peer.data_folder(work, f"query-{size}")
    command, change = asking([str(rclip), "-n", "TEXT"], 2)
    return measure.Program(
        "rclip 4.0.8, ViT-B-32-256",
        command,
        work / "nowhere",
        {"RCLIP_DATADIR": str(data)},
        before=change,
    )


if __name__ == "__main__":
    main()
