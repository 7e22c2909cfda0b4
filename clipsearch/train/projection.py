"""The image tower cut before its projection: its trunk's features are made once, then projected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipsearch.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_PROJECTION = re.compile(r"visual\.(head\.|proj$)")


def is_projection(name: str) -> bool:
    """Whether a parameter of this name belongs to what comes after the image tower's trunk."""
    return _PROJECTION.match(name) is not None


def cut_before_projection(model: Any) -> Callable[[Tensor], Tensor]:
    """Make `encode_image` take the trunk's features (B, F) where photos (B, 3, S, S) are expected.

    Returns:
        The trunk: photos (B, 3, S, S) -> features (B, F).
    Raises:
        ModelError: the image tower ends without a projection that could be trained alone.
    """
    visual = model.visual
    if hasattr(visual, "trunk") and any(True for _ in visual.head.parameters()):  # timm's
        trunk, project = visual.trunk, visual.head
    elif hasattr(visual, "transformer") and getattr(visual, "proj", None) is not None:

        def trunk(photos: Tensor) -> Tensor:
            matrix, visual.proj = visual.proj, None
            try:
                return visual(photos)  # type: ignore[no-any-return]
            finally:
                visual.proj = matrix

        def project(features: Tensor) -> Tensor:
            return features @ visual.proj  # type: ignore[no-any-return]

    else:
        raise ModelError(
            "this model's image tower ends without a projection that could be trained alone",
            hint="choose `--method text`, or `--method full --unlock-last 1`",
        )

    def encode_image(image: Tensor, normalize: bool = False) -> Tensor:
        import torch

        vectors = project(image) if image.ndim == 2 else visual(image)
        return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors

    model.encode_image = encode_image
    return trunk  # type: ignore[no-any-return]
