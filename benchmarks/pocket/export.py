"""The finished model as a directory that plain open_clip loads: `local-dir:DIRECTORY`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pocket.heads import ImageHead, unit
from benchmarks.pocket.settings import Settings
from benchmarks.pocket.student import VOCABULARY, TextTower, embed_tokens, tokenize
from clipsearch.models.torchvision_shim import import_open_clip

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


def model_config(settings: Settings) -> dict[str, object]:
    """open_clip's description of the architecture and of what its photos look like."""
    return {
        "model_cfg": {
            "embed_dim": settings.dim,
            "vision_cfg": {
                "timm_model_name": f"tf_efficientnet_lite{settings.lite}",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "timm_proj_bias": True,
                "image_size": settings.side_px,
            },
            "text_cfg": {
                "context_length": settings.context_length,
                "vocab_size": VOCABULARY,
                "width": settings.text_width,
                "heads": settings.text_heads,
                "layers": settings.text_layers,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def export_model(
    folder: Path,
    settings: Settings,
    trunk: nn.Module,
    image_head: ImageHead,
    text_tower: TextTower,
    logit_scale: float,
) -> None:
    """Write config and float16 weights; the classifier of the trunk stays behind."""
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {"logit_scale": torch.tensor(math.log(logit_scale))}
    for name, value in trunk.state_dict().items():
        if not name.startswith("classifier."):
            state[f"visual.trunk.{name}"] = value
    for name, value in _fold(image_head).items():
        state[f"visual.head.proj.{name}"] = value
    state |= text_tower.open_clip_state()
    save_half(state, folder / WEIGHTS)
    _write_config(folder, settings)


def save_half(state: dict[str, Tensor], path: Path) -> None:
    """Floating point in half precision, the rest as it is."""
    half = {
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    save_file({k: v.clone() for k, v in half.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _write_config(folder: Path, settings: Settings) -> None:
    config = json.dumps(model_config(settings), indent=2) + "\n"
    (folder / CONFIG).write_text(config, encoding="utf-8")


def _fold(head: ImageHead) -> dict[str, Tensor]:
    """The head's map with the standardisation of its inputs folded in, and a last row of zeros."""
    weight = head.map.weight / head.deviation
    bias = head.map.bias - weight @ head.mean
    return {"weight": functional.pad(weight, (0, 0, 0, 1)), "bias": functional.pad(bias, (0, 1))}


@torch.no_grad()
def verify(
    folder: Path,
    trunk: nn.Module,
    image_head: ImageHead,
    text_tower: TextTower,
    sentences: Sequence[str],
    settings: Settings,
) -> tuple[float, float]:
    """The lowest cosine between plain open_clip's vectors and the trained parts': photo, sentence.

    Raises:
        ValueError: below 0.999, which is more than rounding to half precision explains.
    """
    open_clip = import_open_clip()
    name = f"local-dir:{folder}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    model.eval()
    noise = np.random.default_rng(settings.seed).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    pixels = torch.from_numpy(noise).permute(0, 3, 1, 2).float()
    pixels = functional.interpolate(pixels, settings.side_px, mode="bilinear") / 127.5 - 1.0
    seen = model.encode_image(pixels, normalize=True)
    pooled = trunk.forward_head(trunk.forward_features(pixels), pre_logits=True)
    expected = functional.pad(unit(image_head(pooled)), (0, 1))
    said = model.encode_text(open_clip.get_tokenizer(name)(list(sentences)), normalize=True)
    taught = embed_tokens(text_tower, tokenize(sentences, settings.context_length))
    cosines = tuple(float((a * b).sum(1).min()) for a, b in ((seen, expected), (said, taught)))
    if min(cosines) < 0.999:
        raise ValueError(f"open_clip's vectors differ from the trained ones: cosines {cosines}")
    return cosines[0], cosines[1]
