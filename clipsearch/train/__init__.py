"""Teach a model a user's own world, and say honestly whether it learned: see `run.py`.

Imported when first used: this room needs torch, and most commands do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.train.evaluate import evaluate_probe as evaluate_probe
    from clipsearch.train.evaluate import evaluate_retrieval as evaluate_retrieval
    from clipsearch.train.evaluate import evaluate_zero_shot as evaluate_zero_shot
    from clipsearch.train.loop import TrainingProgress as TrainingProgress
    from clipsearch.train.report import TrainingReport as TrainingReport
    from clipsearch.train.run import finetune as finetune
    from clipsearch.train.settings import Settings as Settings

_HOME = {
    "Settings": "settings",
    "TrainingProgress": "loop",
    "TrainingReport": "report",
    "evaluate_probe": "evaluate",
    "evaluate_retrieval": "evaluate",
    "evaluate_zero_shot": "evaluate",
    "finetune": "run",
}

__all__ = [
    "Settings",
    "TrainingProgress",
    "TrainingReport",
    "evaluate_probe",
    "evaluate_retrieval",
    "evaluate_zero_shot",
    "finetune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clipsearch.train' has no attribute {name!r}")
    return getattr(import_module(f"clipsearch.train.{_HOME[name]}"), name)
