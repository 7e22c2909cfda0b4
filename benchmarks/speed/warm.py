"""Warm queries: an open library, one new text after another, in one process.

    python -m benchmarks.speed.warm WORK [--sizes 1000 100000 1000000] [--rounds 3]

The libraries are those of `queries.py`, which makes them. No text comes twice, so none comes from
the cache of text vectors. Anonymous memory is that of the process in the end: what mapped files
take up is the system's to take back, this is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import libraries, measure, models
from benchmarks.speed.queries import WORDS, library

TEXTS = 200


def ask(folder: Path) -> dict[str, Any]:
    from clipsearch import Library

    (folder / "cache" / "texts.sqlite").unlink(missing_ok=True)
    started = time.perf_counter()
    open_library = Library.open(folder)
    open_library.search("the first text")
    first_ms = 1e3 * (time.perf_counter() - started)
    milliseconds = []
    for number in range(TEXTS):
        text = f"{WORDS[number % len(WORDS)]} number {number}"
        started = time.perf_counter()
        hits = open_library.search(text).hits
        milliseconds.append(1e3 * (time.perf_counter() - started))
        assert len(hits) == 10
    return {
        "first_ms": first_ms,
        "p50_ms": float(np.median(milliseconds)),
        "p95_ms": float(np.quantile(milliseconds, 0.95)),
        "anonymous_mb": measure.anonymous_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ask", type=Path, help="one library, in this process")
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(ask(options.ask)))
        return
    work = options.work.resolve()
    models.make(work)
    names = ("pocket", f"models/{models.NAME}")
    runs: list[dict[str, Any]] = []
    for size in options.sizes:
        for name in names:
            model = name if name == "pocket" else str(work / name)
            libraries.make(library(work, size, name), str(work / "nowhere"), size, model)
        for number in range(options.rounds):
            for name in names:
                folder = library(work, size, name)
                command = [sys.executable, "-m", "benchmarks.speed.warm", str(work)]
                done = subprocess.run(
                    [*command, "--ask", str(folder)], capture_output=True, text=True, check=True
                )
                found = json.loads(done.stdout.splitlines()[-1])
                runs.append(
                    {"name": f"clipsearch, {Path(name).name}", "photos": size, "round": number}
                    | found
                )
                print(runs[-1], flush=True)
    measure.write(
        "speed-warm",
        {
            "claim": "text queries to an open library, none asked before",
            "command": "python -m benchmarks.speed.warm WORK",
            "texts": TEXTS,
        },
        runs,
    )


if __name__ == "__main__":
    main()
