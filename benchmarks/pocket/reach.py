"""A finished text tower whose sentences reach by another power of `Teacher.hold_back`.

    python -m benchmarks.pocket.reach --start DIR --from-power 0.6 --to-power 0.8 --output DIR

The tower learned lengths l = reach ** 0.6, and what is wanted is l ** (0.8 / 0.6). Its last
coordinate, times one factor, comes near that for all sentences at once: the factor is fitted to the
lengths of ImageNet's thousand names in every template. Which photos a sentence finds stays the
same, to the last one; which of several sentences a photo finds does not.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from benchmarks.pocket.export import WEIGHTS, save_half
from benchmarks.pocket.sentences import LABEL_TEMPLATES, fill
from clipsearch.models import load_encoder
from clipsearch.models.fingerprints import write_shipped
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array

_FACTORS = np.arange(0.5, 2.0, 0.005)


def scaled_lengths(texts: Float32Array, factor: float) -> Float32Array:
    """(N,) lengths of (N, D) unit rows without their last coordinate, after that was scaled."""
    there, back = np.linalg.norm(texts[:, :-1], axis=1), factor * texts[:, -1]
    lengths: Float32Array = there / np.hypot(there, back)
    return lengths


def fitted_factor(texts: Float32Array, power: float) -> float:
    """What the last coordinate is to be multiplied by, for lengths to this power."""
    wanted = scaled_lengths(texts, 1.0) ** power
    errors = [np.square(scaled_lengths(texts, each) - wanted).sum() for each in _FACTORS]
    return float(_FACTORS[int(np.argmin(errors))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--start", type=Path, required=True, help="a model's directory")
    parser.add_argument("--from-power", type=float, required=True)
    parser.add_argument("--to-power", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    power = chosen.to_power / chosen.from_power
    names = import_open_clip().IMAGENET_CLASSNAMES
    encoder = load_encoder(str(chosen.start))
    texts = encoder.texts([fill(t, name) for name in names for t in LABEL_TEMPLATES])
    factor = fitted_factor(texts, power)
    apart = np.abs(scaled_lengths(texts, factor) - scaled_lengths(texts, 1.0) ** power)
    print(f"factor {factor:.3f}; lengths differ by {apart.mean():.4f}, {apart.max():.4f} at most")

    shutil.copytree(chosen.start, chosen.output)
    state = load_file(chosen.output / WEIGHTS)
    state["text_projection"][:, -1] *= factor
    save_half(state, chosen.output / WEIGHTS)
    write_shipped(chosen.output)


if __name__ == "__main__":
    main()
