"""What the fine-tuning benchmarks share: where results go, and on what machine they came about."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from clipsearch.train import Settings

RESULTS = Path(__file__).resolve().parent.parent / "results"


def save(name: str, result: dict[str, Any]) -> None:
    """Write `benchmarks/results/NAME.json` and say so."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def machine() -> dict[str, Any]:
    """Processor, cores, versions and the day."""
    names = ("torch", "open_clip_torch", "timm", "numpy", "pillow")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "date": time.strftime("%Y-%m-%d"),
    }


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard error of the mean, and how many."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "standard_error": error, "n": len(values)}


def add_training_options(
    parser: argparse.ArgumentParser,
    *,
    epochs: int,
    anchor: float,
    learning_rate: float | None = None,
) -> None:
    """The options of a run that tunes a model, with these defaults."""
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--method", default="text")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--anchor", type=float, default=anchor)
    parser.add_argument("--batch-size", type=int, default=Settings().batch_size)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--patience", type=int, default=Settings().patience)


def training_settings(given: argparse.Namespace, *, validation: float, test: float) -> Settings:
    """The settings that `add_training_options` asked for."""
    return Settings(
        method=given.method,
        epochs=given.epochs,
        learning_rate=given.learning_rate,
        anchor=given.anchor,
        batch_size=given.batch_size,
        micro_batch=given.micro_batch,
        patience=given.patience,
        validation=validation,
        test=test,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((ln.split(":")[1].strip() for ln in lines if ln.startswith("model name")), "")
