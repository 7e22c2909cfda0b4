"""The models on this machine, for callers that know only the library."""

from __future__ import annotations

from clipsearch.models.sources import (
    ModelEntry,
    export_model,
    import_model,
    list_models,
    pull,
    remove_model,
)

__all__ = ["ModelEntry", "export_model", "import_model", "list_models", "pull", "remove_model"]
