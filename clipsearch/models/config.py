"""A model directory: open_clip's `local-dir:` form, read without open_clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.errors import ModelError
from clipsearch.models.preprocess import Preprocess

CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
# The names that open_clip prefers, in its order; others count as well.
_PREFERRED_WEIGHTS = (
    WEIGHTS_NAME,
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What `open_clip_config.json` says, and where the weights lie.

    Attributes:
        model: open_clip's `model_cfg`: embed_dim, vision_cfg, text_cfg, quick_gelu, custom_text.
    """

    folder: Path
    weights: Path
    model: Mapping[str, Any]
    preprocess: Preprocess

    @property
    def dim(self) -> int:
        return int(self.model["embed_dim"])

    @property
    def vision(self) -> Mapping[str, Any]:
        vision: Mapping[str, Any] = self.model["vision_cfg"]
        return vision

    @property
    def text(self) -> Mapping[str, Any]:
        text: Mapping[str, Any] = self.model["text_cfg"]
        return text

    @property
    def quick_gelu(self) -> bool:
        return bool(self.model.get("quick_gelu", False))

    @property
    def context_length(self) -> int:
        return int(self.text.get("context_length") or 77)

    @property
    def needs_transformers(self) -> bool:
        """Whether its words go through a tokenizer or tower of the `transformers` package."""
        return bool(self.text.get("hf_tokenizer_name") or self.text.get("hf_model_name"))


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model directory.

    Raises:
        ModelError: no configuration, not one of open_clip's, or no safetensors beside it.
    """
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is no model directory: it holds no {CONFIG_NAME}",
            hint="a model directory is what open_clip calls `local-dir:`: that file and "
            f"{WEIGHTS_NAME}",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    model = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        raise ModelError(f"{path} describes no CLIP model: embed_dim, vision_cfg or text_cfg lacks")
    preprocess = Preprocess.from_config(
        content.get("preprocess_cfg") or {}, size=model["vision_cfg"].get("image_size")
    )
    return ModelConfig(folder, find_weights(folder), model, preprocess)


def find_weights(folder: Path) -> Path:
    """The safetensors file that open_clip would choose in this folder.

    Raises:
        ModelError: there is none. Pickled weights are never loaded from a model directory, since
            they can run code; `models import` converts them.
    """
    for name in _PREFERRED_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob("*.safetensors"))
    if not others:
        raise ModelError(
            f"{folder} holds no weights (*.safetensors)",
            hint="`clipsearch models import` turns .bin and .pt checkpoints into safetensors",
        )
    return others[0]
