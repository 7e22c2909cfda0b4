"""The text tower once more, beside the photos as a new image tower sees them.

    python -m benchmarks.pocket.retell --pack PACK --start DIR --image FILE --photos DIR
                                       --rendered DIR --work DIR --output DIR

For an image tower that was trained without a text tower of its own: sentences stay near where they
were, all 400,000 of them, while captions find their photos in several views.
"""

from __future__ import annotations

import argparse
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from benchmarks.pocket.export import WEIGHTS, save_half
from benchmarks.pocket.files import Log, whole
from benchmarks.pocket.heads import in_words
from benchmarks.pocket.pack import KINDS, read_pictures, read_tokens
from benchmarks.pocket.photos import Photo, read_rendered, read_tars, view_batches
from benchmarks.pocket.settings import Settings
from benchmarks.pocket.student import Lessons, TextTower, embed_all, train_student
from clipsearch.models import load_encoder
from clipsearch.models.encoder import LocalEncoder
from clipsearch.records import Float32Array
from clipsearch.train.metrics import retrieval_metrics

_VIEWS = 4  # whole, mirrored, and two random ones
_KINDS = ("captions", "labels", "imagenet", "world")


@dataclass(frozen=True, slots=True)
class Owners:
    """The photo of each caption, and the label of each labelled photo."""

    owner: np.ndarray
    label: np.ndarray


def see_views(encoder: LocalEncoder, photos: list[Photo], path: Path, seed: int) -> Float32Array:
    """(views, N, D - 1) unit rows, from their file where there is one."""
    if not path.exists():
        side = encoder.preprocess.size
        views = []
        for view in range(_VIEWS):
            batches = view_batches(photos, side, view=view, seed=seed, batch=16)
            with ThreadPoolExecutor(encoder.batches_at_once) as pool:
                views.append(np.concatenate(list(pool.map(encoder.images, batches))))
        with whole(path) as draft:
            np.save(draft, np.stack(views)[:, :, :-1])
    seen: Float32Array = np.load(path)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("pack", "start", "image", "photos", "rendered", "work", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--hold", type=float, default=10.0, help="weight of staying put")
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    settings = replace(Settings(), student_steps=chosen.steps, student_rate=chosen.rate, seed=31)
    say = Log(chosen.work)
    pictures = {kind: read_pictures(chosen.pack, kind) for kind in KINDS}
    scenes = len(pictures["scenes"].jpegs)
    photos = {
        "captioned": [
            *read_tars(chosen.photos / "train", "flickr8k-train-*.tar"),
            *read_rendered(chosen.rendered)[:scenes],
        ],
        "labelled": read_tars(chosen.photos / "train", "labelled-*.tar"),
        "dev": read_tars(chosen.photos / "dev", "*.tar"),
    }
    joined = chosen.work / "joined"
    write_model(joined, chosen.start, load_file(chosen.image))
    encoder = load_encoder(joined, precision="int8", threads=2)
    seen = {
        kind: see_views(encoder, photos[kind], chosen.work / f"{kind}.npy", settings.seed)
        for kind in photos
    }
    flickr = pictures["flickr"]
    owner = np.concatenate([flickr.owner, len(flickr.jpegs) + pictures["scenes"].owner])

    state = {name: value.float() for name, value in load_file(chosen.start / WEIGHTS).items()}
    tower = TextTower(settings, state["token_embedding.weight"])
    tower.load_open_clip(state)
    tokens = {kind: each.clip for kind, each in read_tokens(chosen.pack).items()}
    path = chosen.work / "told.npz"
    if not path.exists():
        told = {kind: _said(tower, tokens[kind]) for kind in _KINDS}
        with whole(path) as draft:
            np.savez(draft, **told)  # type: ignore[arg-type]
    told = dict(np.load(path))
    scale = math.exp(float(state["logit_scale"]))
    scale *= float(np.linalg.norm(told["captions"][:, 0, :-1], axis=1).mean())
    lessons = Lessons(
        captions=tokens["captions"],
        captions_taught=told["captions"],
        labels=tokens["labels"],
        labels_taught=told["labels"],
        imagenet=tokens["imagenet"],
        imagenet_taught=told["imagenet"],
        world=tokens["world"][:, 0],
        world_taught=told["world"][:, 0],
        photos=seen["captioned"],
        labelled=seen["labelled"],
    )
    dev = functional.pad(torch.from_numpy(seen["dev"][0]), (0, 1)).numpy()

    def measure() -> str:
        said = embed_all(tower, tokens["dev"][:, 0])
        return in_words(retrieval_metrics(dev, said, pictures["dev"].owner))

    say(f"steps {chosen.steps}, rate {chosen.rate}, hold {chosen.hold}: dev {measure()}")

    def report(step: int, line: str) -> None:
        if step % 100 == 0:
            say(f"step {step}: {line}: dev {measure()}")

    train_student(
        tower,
        lessons,
        Owners(owner, pictures["labelled"].label),
        settings,
        report=report,
        scale=scale,
        hold=chosen.hold,
    )
    write_model(chosen.output, joined, tower.open_clip_state())
    say(f"written: dev {measure()}")


def write_model(folder: Path, start: Path, changed: dict[str, Tensor]) -> None:
    """A copy of a model's directory with some of its weights changed, and without its marks."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in start.iterdir():
        if file.name not in (WEIGHTS, "fingerprints.json"):
            shutil.copy(file, folder / file.name)
    save_half({**load_file(start / WEIGHTS), **changed}, folder / WEIGHTS)


def _said(tower: TextTower, groups: np.ndarray) -> Float32Array:
    """(G, V, L) tokens -> (G, V, D) unit rows."""
    flat = groups.reshape(-1, groups.shape[-1])
    order = np.argsort((flat > 0).sum(1), kind="stable")
    rows = np.empty((len(flat), tower.text_projection.shape[1]), np.float32)
    rows[order] = embed_all(tower, flat[order])
    return rows.reshape(*groups.shape[:-1], -1)


if __name__ == "__main__":
    main()
