"""Importing open_clip where torchvision's compiled operators do not fit the installed torch.

A CPU build of torch beside the package index's torchvision (built for CUDA) cannot load them, and
`import torchvision` then fails with `operator torchvision::nms does not exist`. open_clip needs
torchvision's transforms only, never these operators: declaring their schemas is enough.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from clipsearch.errors import ModelError

# nms is declared by every torchvision, qnms too since 0.29: fake kernels are registered for both.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[Any] = []  # a torch.library.Library forgets its operators when it is collected


def import_open_clip() -> Any:
    """The module `open_clip`, working around torchvision when, and only when, that is needed.

    Raises:
        ModelError: open_clip or torchvision cannot be imported for any other reason.
    """
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"]
    try:
        import_torchvision()
        import open_clip
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"open_clip cannot be imported: {error}",
            hint="reinstall torch, torchvision and open_clip_torch so that they fit each other",
        ) from error
    return open_clip


def import_torchvision() -> ModuleType:
    """The module `torchvision`, with the same workaround: timm and transformers import it too."""
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _forget("torchvision")
        _declare_operators()
        import torchvision
    module: ModuleType = torchvision
    return module


def _declare_operators() -> None:
    import torch

    declare: Any = torch.library.Library  # untyped in torch
    library = declare("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)


def _forget(package: str) -> None:
    """A failed import leaves submodules behind that a second try would take for whole."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
