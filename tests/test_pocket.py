"""The model in the box, as it ships: small, loadable by plain open_clip, and good at the album."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsearch.models import load_encoder
from clipsearch.models.encoder import LocalEncoder
from clipsearch.models.torchvision_shim import import_open_clip

ROOT = Path(__file__).resolve().parent.parent
POCKET = ROOT / "clipsearch" / "models" / "pocket"
ALBUM = ROOT / "data"


@pytest.fixture(scope="module")
def encoder() -> LocalEncoder:
    return load_encoder("pocket", device="cpu", precision="fp32", threads=2)


def album_photo(name: str) -> Image.Image:
    return Image.open(ALBUM / name).convert("RGB")


def queries() -> list[dict[str, str]]:
    with (ALBUM / "queries.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_model_in_the_box_stays_within_40_megabytes():
    assert sum(path.stat().st_size for path in POCKET.iterdir()) <= 40e6


def test_plain_open_clip_loads_pocket_and_agrees_with_our_encoder(encoder: LocalEncoder):
    import torch

    open_clip = import_open_clip()
    name = f"local-dir:{POCKET}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    texts = [query["query"] for query in queries()]
    photos = [album_photo(query["filepath"]) for query in queries()[:6]]
    with torch.no_grad():
        said = model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True).numpy()
        seen = model.encode_image(torch.stack([transform(p) for p in photos]), normalize=True)
    ours = encoder.images(np.stack([encoder.preprocess.pixels(photo) for photo in photos]))
    # Float32 both; resizing and the order of sums differ, measured below 1e-4.
    assert np.sum(said * encoder.texts(texts), axis=1).min() > 0.9999
    assert np.sum(seen.numpy() * ours, axis=1).min() > 0.999


def test_pocket_finds_the_albums_photos_for_natural_queries(encoder: LocalEncoder):
    paths = sorted((ALBUM / "album").glob("*.jpg"))
    names = [path.relative_to(ALBUM).as_posix() for path in paths]
    pixels = [encoder.preprocess.pixels(album_photo(name)) for name in names]
    photos = np.concatenate([encoder.images(np.stack([each])) for each in pixels])
    asked = queries()
    scores = encoder.texts([query["query"] for query in asked]) @ photos.T
    best = np.argsort(-scores, axis=1)[:, :3]
    found = [
        query["filepath"] in [names[i] for i in row] for query, row in zip(asked, best, strict=True)
    ]
    assert len(asked) == 25
    assert sum(found) >= 20


def test_photos_leave_the_coordinate_alone_that_holds_sentences_back(encoder: LocalEncoder):
    photos = [album_photo(query["filepath"]) for query in queries()[:4]]
    seen = encoder.images(np.stack([encoder.preprocess.pixels(photo) for photo in photos]))
    assert np.all(seen[:, -1] == 0)
    # A name that thousands of photos taught would else win over one that none did.
    common, rare = encoder.texts(["a photo of a dog", "a photo of a theodolite"])
    assert common[-1] > rare[-1] + 0.1
