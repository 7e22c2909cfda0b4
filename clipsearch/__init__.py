"""clipsearch: find photos by meaning, on your own machine.

    import clipsearch
    with clipsearch.Library.open("~/photos.clipsearch") as library:      # created if new
        library.index(["~/Photos"], progress=print)
        for hit in library.query("sunset over ocean", k=10):
            print(hit.score, hit.path)

Everything public is imported when it is first used, so that `import clipsearch` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsearch.errors import ClipsearchError as ClipsearchError
    from clipsearch.library import Hit as Hit
    from clipsearch.library import IndexReport as IndexReport
    from clipsearch.library import Library as Library
    from clipsearch.models import load_encoder as load_encoder
    from clipsearch.train import evaluate_retrieval as evaluate_retrieval
    from clipsearch.train import finetune as finetune

__version__ = "0.1.0"

_HOME = {
    "ClipsearchError": "clipsearch.errors",
    "Hit": "clipsearch.library",
    "IndexReport": "clipsearch.library",
    "Library": "clipsearch.library",
    "evaluate_retrieval": "clipsearch.train",
    "finetune": "clipsearch.train",
    "load_encoder": "clipsearch.models",
}

__all__ = [
    "ClipsearchError",
    "Hit",
    "IndexReport",
    "Library",
    "__version__",
    "evaluate_retrieval",
    "finetune",
    "load_encoder",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'clipsearch' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
