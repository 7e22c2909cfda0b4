"""Fingerprints tell models apart by what decides their vectors, and by nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_model

from clipsearch.errors import ModelError
from clipsearch.models import fingerprints
from clipsearch.models.config import read_config
from clipsearch.models.fingerprints import compute_fingerprints
from clipsearch.models.weights import WeightsFile

POCKET = Path(__file__).resolve().parent.parent / "clipsearch" / "models" / "pocket"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def changed(model: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model with its tensors or configuration changed."""

    def change(
        *, tensor: str | None = None, config: Callable[[dict], object] | None = None
    ) -> Path:
        from safetensors.numpy import load_file, save_file

        copy = tmp_path / "copy"
        shutil.copytree(model, copy)
        if tensor is not None:
            tensors = load_file(copy / "open_clip_model.safetensors")
            tensors[tensor] = np.asarray(tensors[tensor] + 1)
            save_file(tensors, copy / "open_clip_model.safetensors")
        if config is not None:
            path = copy / "open_clip_config.json"
            content = json.loads(path.read_text())
            config(content)
            path.write_text(json.dumps(content))
        return copy

    return change


@pytest.mark.parametrize(
    ("tensor", "image_changes", "text_changes"),
    [
        ("visual.head.proj.weight", True, False),
        ("visual.trunk.bn1.running_mean", True, False),
        ("visual.trunk.bn1.num_batches_tracked", False, False),
        ("token_embedding.weight", False, True),
        ("logit_scale", False, True),
    ],
)
def test_a_tensor_changes_the_fingerprint_of_its_own_tower(
    model, changed, tensor, image_changes, text_changes
):
    before, after = fingerprints(model), fingerprints(changed(tensor=tensor))
    assert (before.image != after.image) == image_changes
    assert (before.text != after.text) == text_changes


@pytest.mark.parametrize(
    ("change", "image_changes", "text_changes"),
    [
        (lambda c: c["preprocess_cfg"].update(resize_mode="shortest"), True, False),
        (lambda c: c["preprocess_cfg"].update(interpolation="bicubic"), False, False),  # default
        (lambda c: c["preprocess_cfg"].update(source_px=60), True, False),
        (lambda c: c["model_cfg"]["vision_cfg"].update(image_size=128), True, False),
        (lambda c: c["model_cfg"]["vision_cfg"].update(timm_drop=0.2), False, False),
        (lambda c: c["model_cfg"]["text_cfg"].update(context_length=64), False, True),
        (lambda c: c["model_cfg"].update(quick_gelu=True), True, True),
    ],
)
def test_a_setting_changes_what_it_decides(model, changed, change, image_changes, text_changes):
    before, after = fingerprints(model), fingerprints(changed(config=change))
    assert (before.image != after.image) == image_changes
    assert (before.text != after.text) == text_changes


def test_the_same_model_elsewhere_has_the_same_fingerprints(model, changed):
    assert fingerprints(model) == fingerprints(changed())


def test_known_fingerprints_are_not_computed_again_until_the_file_changes(model, changed, tmp_path):
    copy, cache = changed(), tmp_path / "cache"
    before = fingerprints(copy, cache_folder=cache)
    (kept,) = cache.iterdir()
    marked = kept.read_text().replace(before.image, "f" * 32)
    kept.write_text(marked)
    assert fingerprints(copy, cache_folder=cache).image == "f" * 32
    os.utime(copy / "open_clip_model.safetensors")
    assert fingerprints(copy, cache_folder=cache) == before
    kept.write_text("{ damaged")
    assert fingerprints(copy, cache_folder=cache) == before


def test_other_weights_of_equal_size_and_time_have_their_own_fingerprint(model, changed, tmp_path):
    copy, cache = tmp_path / "model", tmp_path / "cache"
    shutil.copytree(model, copy)
    weights = copy / "open_clip_model.safetensors"
    other = changed(tensor="visual.head.proj.weight") / weights.name
    before = fingerprints(copy, cache_folder=cache)
    times = weights.stat()
    shutil.copy(other, weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (
        times.st_size,
        times.st_mtime_ns,
    )
    after = fingerprints(copy, cache_folder=cache)
    assert after == fingerprints(other.parent)
    assert after != before


def test_fingerprints_left_in_a_users_directory_are_not_believed(model, changed):
    copy = changed()
    before = fingerprints(copy)
    config = read_config(copy)
    (copy / "fingerprints.json").write_text(
        json.dumps({"weights_bytes": config.weights.stat().st_size, "image": "0", "text": "0"})
    )
    assert fingerprints(copy) == before


def test_fingerprints_need_no_torch(model):
    script = (
        "import sys; from pathlib import Path; from clipsearch.models import fingerprints;"
        f"fingerprints(Path({str(model)!r}));"
        "assert not {'torch', 'open_clip', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_cut_off_weights_file_is_refused(changed):
    copy = changed()
    weights = copy / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cut off"):
        fingerprints(copy)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"7", "not a whole safetensors file"),
        (
            b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
            "a is not as large as its shape says",
        ),
    ],
)
def test_a_damaged_weights_file_is_refused(tmp_path, header, match):
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match=match):
        WeightsFile(file).float32("a")


@pytest.mark.skipif(
    not (POCKET / "fingerprints.json").is_file(), reason="pocket has no weights yet"
)
def test_the_fingerprints_in_the_box_are_those_of_the_weights_in_the_box():
    shipped = json.loads((POCKET / "fingerprints.json").read_text())
    computed = compute_fingerprints(read_config(POCKET))
    assert (shipped["image"], shipped["text"]) == (computed.image, computed.text)
    assert fingerprints(POCKET) == computed
