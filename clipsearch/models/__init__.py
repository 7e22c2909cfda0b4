"""Pixels and words to unit vectors: names of models, their directories, and what runs them."""

from __future__ import annotations

from clipsearch.models.encoder import LocalEncoder, load_encoder
from clipsearch.models.fingerprints import fingerprints
from clipsearch.models.preprocess import Preprocess
from clipsearch.models.sources import (
    ModelEntry,
    default_cache_folder,
    export_model,
    find_model,
    import_model,
    is_here,
    list_models,
    models_folder,
    pull,
    remove_model,
)
from clipsearch.models.torchvision_shim import import_open_clip

__all__ = [
    "LocalEncoder",
    "ModelEntry",
    "Preprocess",
    "default_cache_folder",
    "export_model",
    "find_model",
    "fingerprints",
    "import_model",
    "import_open_clip",
    "is_here",
    "list_models",
    "load_encoder",
    "models_folder",
    "pull",
    "remove_model",
]
