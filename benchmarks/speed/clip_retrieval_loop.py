"""clip-retrieval's `inference` on a folder: `python clip_retrieval_loop.py WEIGHTS PHOTOS OUTPUT`.

For the Python of clip-retrieval's own environment (`peer.py`), so nothing of ours is imported. Its
command is called as a function, since a build of torch without CUDA cannot load the operators of
the package index's torchvision, and nobody but this script can declare them.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

OPERATORS = ("nms", "qnms")


def declared() -> Any:
    """torchvision's operators, if it cannot bring its own; they go when this is collected."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


operators = declared()  # at once: clip-retrieval's helper processes import this file as well


def main() -> None:
    weights, folder, output = sys.argv[1:]
    from clip_retrieval.clip_inference.main import main as inference

    inference(
        input_dataset=folder,
        output_folder=output,
        clip_model=f"open_clip:ViT-B-32-256/{weights}",
        enable_text=False,
        batch_size=32,  # it also warms up with two batches of as many
        num_prepro_workers=2,
    )


if __name__ == "__main__":
    main()
