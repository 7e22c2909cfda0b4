"""The loop that people write with plain open_clip: a DataLoader, `encode_image`, one array.

    python benchmarks/speed/plain_loop.py MODEL_DIRECTORY PHOTOS OUTPUT.npy

It keeps no catalogue, cannot go on where it was stopped, and ends at the first bad photo.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipsearch.models import import_open_clip


class Photos(torch.utils.data.Dataset[Any]):
    """Preprocessed photos of one folder."""

    def __init__(self, folder: Path, preprocess: Any) -> None:
        self._paths = sorted(folder.iterdir())
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        return self._preprocess(Image.open(self._paths[index]).convert("RGB"))


def main() -> None:
    directory, folder, output = sys.argv[1:]
    # torchvision may need our workaround before open_clip can be imported.
    open_clip = import_open_clip()
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    model.eval()
    loader = torch.utils.data.DataLoader(
        Photos(Path(folder), preprocess), batch_size=32, num_workers=2
    )
    with torch.inference_mode():
        rows = [model.encode_image(batch, normalize=True).numpy() for batch in loader]
    np.save(output, np.concatenate(rows))


if __name__ == "__main__":
    main()
