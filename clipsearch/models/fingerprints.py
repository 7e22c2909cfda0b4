"""The names of a model's two halves, by content.

Stored vectors are comparable if and only if image fingerprints are equal, so that fingerprint
covers what decides an image vector: the image tower's tensors, its settings, the preprocessing
and the embedding's dimension. The text fingerprint covers the other tensors (`logit_scale` too),
the text tower's settings and its tokenizer. Neither needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipsearch.models.cache import keep
from clipsearch.models.config import CONFIG_NAME, ModelConfig, read_config
from clipsearch.models.weights import WeightsFile
from clipsearch.records import Fingerprints, file_stamp

SHIPPED_NAME = "fingerprints.json"
_CACHE_NAME = "fingerprints.json"
_DIGEST_BYTES = 16
# Bump when the meaning of a fingerprint changes: every library then sees new models.
_VERSION = 1

# Settings that matter in training only, or that only say where initial weights came from.
_NO_EFFECT = {
    "timm_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout",
    "hf_model_pretrained", "output_tokens",
}  # fmt: skip
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "vocab.txt", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip
# Besides the weights.
_DECISIVE_FILES = {CONFIG_NAME, SHIPPED_NAME, *_TOKENIZER_FILES}


def fingerprints(folder: Path, *, cache_folder: Path | None = None) -> Fingerprints:
    """The fingerprints of a model directory.

    Hashing reads all weights (about 1 GB a second); the result is kept under `cache_folder` by
    path, for as long as the directory's files have the same stamps.

    Raises:
        ModelError: not a model directory.
    """
    config = read_config(folder)
    shipped = _read_shipped(config)
    if shipped is not None:
        return shipped
    if cache_folder is None:
        return compute_fingerprints(config)
    cache = cache_folder / _CACHE_NAME
    known = _read_cache(cache)
    key = str(folder.resolve())
    stamp = [_VERSION, _config_digest(config), file_stamps(config.folder)]
    entry = known.get(key)
    if isinstance(entry, dict) and entry.get("stamp") == stamp:
        return Fingerprints(image=entry["image"], text=entry["text"])
    computed = compute_fingerprints(config)
    known[key] = {"stamp": stamp, "image": computed.image, "text": computed.text}
    keep(cache, json.dumps(known).encode())
    return computed


def file_stamps(folder: Path) -> dict[str, list[int]]:
    """By name, the stamps of the files in a model directory that decide its vectors.

    Equal ones mean the same files, as far as can be told without reading them.
    """
    stamps = {
        path.name: file_stamp(path)
        for path in folder.glob("*")
        if path.name in _DECISIVE_FILES or path.suffix == ".safetensors"
    }
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}


def compute_fingerprints(config: ModelConfig) -> Fingerprints:
    """Hash the weights, whatever was remembered of them."""
    weights = WeightsFile(config.weights)
    names = sorted(weights.places)
    preprocess = _preprocess(config)
    shared = {"version": _VERSION, "embed_dim": config.dim, "quick_gelu": config.quick_gelu}
    return Fingerprints(
        image=_digest(
            weights,
            (name for name in names if name.startswith("visual.")),
            {**shared, "vision": _effective(config.vision), "preprocess": preprocess},
        ),
        text=_digest(
            weights,
            (name for name in names if not name.startswith("visual.")),
            {
                **shared,
                "text": _effective(config.text),
                "custom_text": bool(config.model.get("custom_text")),
                "tokenizer": _tokenizer_digests(config),
            },
        ),
    )


def write_shipped(folder: Path) -> Fingerprints:
    """Compute the fingerprints of a directory that is shipped, and write them beside it."""
    config = read_config(folder)
    computed = compute_fingerprints(config)
    content = {
        "weights_bytes": config.weights.stat().st_size,
        "config_digest": _config_digest(config),
        "image": computed.image,
        "text": computed.text,
    }
    (folder / SHIPPED_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return computed


def _digest(weights: WeightsFile, names: Iterable[str], settings: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(_canonical(settings))
    for name in names:
        if name.endswith("num_batches_tracked"):  # a counter of training steps
            continue
        place = weights.places[name]
        digest.update(_canonical([name, place.dtype, place.shape]))
        digest.update(weights.raw(name))
    return digest.hexdigest()


def _preprocess(config: ModelConfig) -> dict[str, Any]:
    """What decides the pixels that the tower sees.

    How far a JPEG may be reduced while it is decoded belongs to it where the model states it. That
    the others are reduced to their own size does not: every library would have to be embedded
    again for pixels that differ as two versions of a decoder do.
    """
    settings = asdict(config.preprocess)
    if settings["least_source_px"] is None:
        del settings["least_source_px"]
    return settings


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in settings.items()
        if key not in _NO_EFFECT and value not in (None, {}, [])
    }


def _tokenizer_digests(config: ModelConfig) -> dict[str, str]:
    if not config.needs_transformers:
        return {}
    return {
        name: hashlib.blake2b((config.folder / name).read_bytes(), digest_size=16).hexdigest()
        for name in _TOKENIZER_FILES
        if (config.folder / name).is_file()
    }


def _config_digest(config: ModelConfig) -> str:
    content = [config.model, _preprocess(config)]
    return hashlib.blake2b(_canonical(content), digest_size=_DIGEST_BYTES).hexdigest()


def _read_shipped(config: ModelConfig) -> Fingerprints | None:
    """The fingerprints written beside a model of this package; nobody else's are believed.

    Installing changes the modification time, so they are matched by size and configuration; a
    directory that can be edited in place could keep both and still hold other weights.
    """
    if config.folder.resolve().parent != Path(__file__).resolve().parent:
        return None
    content = _read_cache(config.folder / SHIPPED_NAME)
    if content.get("weights_bytes") != config.weights.stat().st_size:
        return None
    if content.get("config_digest") != _config_digest(config):
        return None
    return Fingerprints(image=str(content["image"]), text=str(content["text"]))


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
