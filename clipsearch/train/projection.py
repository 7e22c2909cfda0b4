"""Both towers cut before their last maps: what the trunks give is made once, then projected.

With the trunks locked a step takes milliseconds and a run on a few hundred photos seconds. So few
numbers learn the photos by heart soon; features that are left out at random keep them from it
(Srivastava et al. 2014, 'Dropout'). The shares were chosen on development photos.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from clipsearch.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

_PHOTO_DROPOUT, _TEXT_DROPOUT = 0.5, 0.1
_PROJECTION = re.compile(r"visual\.(head\.|proj$)|(text\.)?text_projection(\.|$)")

Map = Callable[["Tensor"], "Tensor"]


class Trunks(NamedTuple):
    """What comes before the projections: (B, 3, S, S) photos or (B, L) tokens -> (B, F)."""

    photos: Map
    texts: Map


def is_projection(name: str) -> bool:
    """Whether a parameter of this name belongs to what comes after a tower's trunk."""
    return _PROJECTION.match(name) is not None


def cut_before_projections(model: Any) -> Trunks:
    """Make `encode_image` and `encode_text` take the trunks' features (B, F) too. Once a model.

    Raises:
        ModelError: a tower ends without a projection that could be trained alone.
    """
    visual, words = model.visual, getattr(model, "text", model)
    if hasattr(visual, "trunk") and any(True for _ in visual.head.parameters()):  # timm's
        photos, project_photos = visual.trunk, visual.head
    elif hasattr(visual, "transformer") and getattr(visual, "proj", None) is not None:
        photos, project_photos = _without(visual, "proj", visual), _last_map(visual, "proj")
    else:
        raise _no_projection("image")
    if getattr(words, "text_projection", None) is None:
        raise _no_projection("text")
    texts = _without(words, "text_projection", model.encode_text)
    project_texts = _last_map(words, "text_projection")

    def taking_features(whole: Callable[..., Tensor], project: Map, dropout: float) -> Any:
        import torch

        def encode(inputs: Tensor, normalize: bool = False) -> Tensor:
            if inputs.ndim > 2 or not inputs.is_floating_point():  # photos, tokens
                return whole(inputs, normalize=normalize)
            shown = torch.nn.functional.dropout(inputs, dropout, model.training)
            vectors = project(shown)
            return torch.nn.functional.normalize(vectors, dim=-1) if normalize else vectors

        return encode

    model.encode_image = taking_features(model.encode_image, project_photos, _PHOTO_DROPOUT)
    model.encode_text = taking_features(model.encode_text, project_texts, _TEXT_DROPOUT)
    return Trunks(photos, texts)


def _without(module: nn.Module, name: str, tower: Map) -> Map:
    """The tower as it is while this part of it is missing, which open_clip's towers allow."""

    def trunk(inputs: Tensor) -> Tensor:
        part = getattr(module, name)
        setattr(module, name, None)
        try:
            return tower(inputs)
        finally:
            setattr(module, name, part)

    return trunk


def _last_map(module: nn.Module, name: str) -> Map:
    """Its matrix or linear map, looked up at each call: weights are put in place by name."""

    def project(features: Tensor) -> Tensor:
        part: Any = getattr(module, name)
        return part(features) if callable(part) else features @ part  # type: ignore[no-any-return]

    return project


def _no_projection(tower: str) -> ModelError:
    return ModelError(
        f"this model's {tower} tower ends without a projection that could be trained alone",
        hint="choose `--method text`, or `--method full --unlock-last 1`",
    )
