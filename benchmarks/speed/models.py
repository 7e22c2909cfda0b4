"""Models with random weights, for clipsearch and for rclip: enough to measure speed.

    python -m benchmarks.speed.models WORK

WORK/models/ViT-B-32-256 and ViT-B-32 (224 px) are open_clip directories. WORK/rclip holds the
weights of the first as rclip wants them: two ONNX files, the tokenizer's vocabulary, and the
licence files without which each run of it would ask its hub for them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

NAME, SMALLER = "ViT-B-32-256", "ViT-B-32"
RCLIP_NAME = "ViT-B-32-256-datacomp_s34b_b86k"
WEIGHTS = "open_clip_model.safetensors"
_CONFIG = "open_clip_config.json"
LEGAL_FILES = ("LICENSE", "OPENAI-CLIP-MIT.txt", "README.md", "THIRD_PARTY_NOTICES.md")


def make(work: Path) -> None:
    """What is missing of all this."""
    peer = work / "rclip"
    if not (work / "models" / SMALLER / _CONFIG).exists():
        make_directory(work / "models" / SMALLER)
    if (peer / "LICENSE").exists():
        return
    open_clip, model = make_directory(work / "models" / NAME)
    export(model, peer / RCLIP_NAME)
    vocabulary = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    (peer / "tokenizer").mkdir(exist_ok=True)
    shutil.copy(vocabulary, peer / "tokenizer")
    for name in LEGAL_FILES:
        (peer / name).write_text("for a benchmark with random weights\n")


def make_directory(folder: Path) -> tuple[Any, Any]:
    """A directory that open_clip loads, named as the architecture; open_clip and the model."""
    import torch
    from safetensors.torch import save_file

    from clipsearch.models import import_open_clip

    open_clip = import_open_clip()
    torch.manual_seed(0)
    model = open_clip.create_model(folder.name, pretrained=None).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / WEIGHTS,
    )
    config = {"model_cfg": open_clip.get_model_config(folder.name), "preprocess_cfg": {}}
    (folder / _CONFIG).write_text(json.dumps(config))
    return open_clip, model


def export(model: Any, folder: Path) -> None:
    """Both towers as ONNX files, with the input and output names that rclip asks for."""
    import torch

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.clip = model

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.clip.encode_text(tokens)

    folder.mkdir(parents=True, exist_ok=True)
    side = model.visual.image_size[0]
    for module, example, name in (
        (model.visual, torch.zeros(2, 3, side, side), "visual"),
        (Text(), torch.ones(2, 77, dtype=torch.long), "textual"),
    ):
        torch.onnx.export(
            module,
            (example,),
            str(folder / f"{name}.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
