"""Model directories with random weights, made by open_clip: real architectures, small ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LITE = {
    "timm_model_name": "tf_efficientnet_lite0",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "image_size": 96,
}
VIT = {"image_size": 64, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
POCKET_PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}


def write_model(
    folder: Path,
    *,
    vision: dict[str, Any] = LITE,
    text: dict[str, Any] = TEXT,
    preprocess: dict[str, Any] = POCKET_PREPROCESS,
    half: bool = True,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Write an open_clip model directory; `settings` go into `model_cfg` (custom_text, ...)."""
    import torch
    from safetensors.torch import save_file

    from clipsearch.models import import_open_clip

    open_clip = import_open_clip()
    torch.manual_seed(seed)
    config = {"embed_dim": 48, **settings}
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = kind(**arguments, vision_cfg=dict(vision), text_cfg=dict(text))
    for name, tensor in model.state_dict().items():
        # Fresh batch norms and biases are 0 and 1, which would hide a mistake in folding them.
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0, 0.1)
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "open_clip_model.safetensors")
    content = {
        "model_cfg": {**config, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def reference(folder: Path) -> tuple[Any, Any]:
    """open_clip's own model and tokenizer for a directory."""
    from clipsearch.models import import_open_clip

    open_clip = import_open_clip()
    model = open_clip.create_model(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}")
