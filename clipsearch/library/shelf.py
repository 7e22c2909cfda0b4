"""The models on this machine, for callers that know only the library."""

from __future__ import annotations

from clipsearch.models.presets import BY_NAME
from clipsearch.models.sources import (
    ModelEntry,
    export_model,
    import_model,
    list_models,
    pull,
    remove_model,
)

__all__ = [
    "ModelEntry",
    "cost_of",
    "export_model",
    "import_model",
    "list_models",
    "pull",
    "remove_model",
]

# Whole runs on two CPU cores, 500 px photos (benchmarks/README.md): pocket 201 photos/s,
# ViT-B-32-256 73.
_SLOWER_THAN_POCKET = 2.8


def cost_of(preset: str) -> tuple[int, float]:
    """The megabytes of a preset, and how many times longer than pocket it takes for a photo."""
    return BY_NAME[preset].size_mb, _SLOWER_THAN_POCKET
