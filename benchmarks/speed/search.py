"""Search alone at a million vectors: building, opening, one query at a time, in one process.

    python -m benchmarks.speed.search WORK [--count 1000000] [--spread hard]

The library is made as `libraries.py` makes it; its index is built anew here. Recall is that of the
shipped search against comparing with every vector, on queries that it was not tuned on: text-like
ones with clustered vectors, near nothing with hard ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import libraries, measure, models

QUERIES = 200


def build(folder: Path) -> dict[str, Any]:
    from clipsearch.store import ann
    from clipsearch.store.reader import Reader

    # What `warm.py` asked went through a text tower of random weights, far from any photo, and
    # texts that were asked count when it is chosen how many lists are looked at.
    (folder / "cache" / "texts.sqlite").unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with Reader.open(folder) as reader:
        model = reader.active_model()
        assert model is not None
        report = ann.build(folder, reader, model)
    facts = report.facts
    assert facts is not None
    return {
        "build_s": report.seconds,
        "build_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mb": before,
        "nlist": facts.nlist,
        "nprobe": facts.nprobe["10"],
        "file_mb": facts.file_bytes / 1e6,
        "why": facts.why,
    }


def ask(folder: Path, spread: str) -> dict[str, Any]:
    from clipsearch.store import ann
    from clipsearch.store.reader import Reader

    with Reader.open(folder) as reader:
        model = reader.active_model()
        assert model is not None
        import faiss  # noqa: F401  (its import is part of a cold query, not of opening)

        started = time.perf_counter()
        index, _ = ann.open_index(folder, model)
        open_ms = 1e3 * (time.perf_counter() - started)
        assert index is not None
        picked = np.random.default_rng(5).choice(model.rows, QUERIES, replace=False)
        photos = reader.vectors(model.id, np.sort(picked))
        asked = libraries.SPREADS[spread](model.dim)
        queries = asked.queries(photos / np.linalg.norm(photos, axis=1, keepdims=True))
        exact = ann.nearest(reader, None, model, queries, 10)
        for _ in range(2):  # the first turn brings the lists into memory
            found, milliseconds, index_only = [], [], []
            for query in queries:
                started = time.perf_counter()
                answer = ann.nearest(reader, index, model, query[np.newaxis], 10)
                milliseconds.append(1e3 * (time.perf_counter() - started))
                started = time.perf_counter()
                index.lists.search(query[np.newaxis], 10, nprobe=index.nprobe(10))
                index_only.append(1e3 * (time.perf_counter() - started))
                found.append(answer.rows[0])
        started = time.perf_counter()
        ann.nearest(reader, index, model, queries, 10)
        batch_ms = 1e3 * (time.perf_counter() - started) / QUERIES
    return {
        "open_ms": open_ms,
        "recall_at_10": ann.recall_at_k(np.stack(found), exact.rows),
        "p50_ms": float(np.median(milliseconds)),
        "p95_ms": float(np.quantile(milliseconds, 0.95)),
        "index_only_p50_ms": float(np.median(index_only)),
        "batch_of_200_ms_each": batch_ms,
        "anonymous_mb": measure.anonymous_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--spread", choices=tuple(libraries.SPREADS), default="clustered")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=("build", "ask"))
    options = parser.parse_args()
    work = options.work.resolve()
    hard = "" if options.spread == "clustered" else f"-{options.spread}"
    folder = work / f"library-{options.count}-{models.NAME}{hard}"
    if options.step:
        found = build(folder) if options.step == "build" else ask(folder, options.spread)
        print(json.dumps(found))
        return
    models.make(work)
    model = str(work / "models" / models.NAME)
    libraries.make(folder, str(work / "nowhere"), options.count, model, spread=options.spread)
    results: dict[str, list[Any]] = {"build": [], "ask": []}
    for step, rounds in (("build", 1), ("ask", options.rounds)):
        for _ in range(rounds):
            # In a process of its own, so that memory is that of this step.
            command = [sys.executable, "-m", "benchmarks.speed.search", str(work), "--step", step]
            command += ["--count", str(options.count), "--spread", options.spread]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[step].append(json.loads(done.stdout.splitlines()[-1]))
            print(step, results[step][-1], flush=True)
    measure.write(
        f"speed-search{hard}",
        {
            "claim": "search alone, one query at a time, recall@10 measured",
            "command": f"python -m benchmarks.speed.search WORK --spread {options.spread}",
            "vectors": {"count": options.count, "dim": 512, "kind": options.spread},
            **results,
        },
    )


if __name__ == "__main__":
    main()
