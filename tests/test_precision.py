"""A faster arithmetic is used where it was seen to give the same vectors, and nowhere else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from test_encoder import blotches
from tiny_models import VIT, write_model

from clipsearch.errors import ModelError
from clipsearch.models import load_encoder
from clipsearch.models.config import read_config
from clipsearch.models.runtimes import openvino_core, openvino_lite
from clipsearch.models.runtimes.trial import PHOTOS, Trial, Verdict, keep_verdict, read_verdict
from clipsearch.models.weights import WeightsFile

ROWS = np.random.default_rng(0).standard_normal((20, 64), dtype=np.float32)
PIXELS = np.zeros((len(ROWS), 2, 2, 3), np.uint8)


def held(other: np.ndarray, *, pause_s: float) -> tuple[Trial, list[Verdict]]:
    """A trial that has seen all its photos; the exact tower gives ROWS after a pause."""

    def exact(pixels: np.ndarray) -> np.ndarray:
        time.sleep(pause_s)
        return ROWS

    verdicts: list[Verdict] = []
    trial = Trial(exact, lambda pixels: other, verdicts.append)
    for _ in range(PHOTOS // len(ROWS)):
        assert trial(PIXELS) is ROWS
    return trial, verdicts


def test_alike_and_faster_passes():
    other = ROWS + np.float32(0.01)
    trial, (verdict,) = held(other, pause_s=0.003)
    assert verdict.passed
    assert verdict.photos == PHOTOS
    assert trial(PIXELS) is other


def test_one_unlike_vector_fails_it():
    other = ROWS.copy()
    other[3] = -other[3]
    trial, (verdict,) = held(other, pause_s=0.003)
    assert not verdict.passed
    assert verdict.worst_cosine == pytest.approx(-1)
    assert trial(PIXELS) is ROWS


def test_alike_but_no_faster_fails():
    slow = Verdict(PHOTOS, 1.0, 1.0, 1.0)
    assert not slow.passed


def test_a_verdict_is_remembered(tmp_path: Path):
    verdict = Verdict(PHOTOS, 0.9995, 0.998, 1.7)
    keep_verdict(tmp_path, "one", verdict)
    keep_verdict(tmp_path, "two", Verdict(PHOTOS, 0.9, 0.1, 1.7))
    assert read_verdict(tmp_path, "one") == verdict
    assert read_verdict(tmp_path, "three") is None
    (tmp_path / "precision.json").write_text("[damaged")
    assert read_verdict(tmp_path, "one") is None


def test_matrix_products_of_bytes_keep_a_towers_vectors(tmp_path: Path):
    folder = write_model(tmp_path / "vit", vision={**VIT, "width": 192}, half=False)
    cache = tmp_path / "cache"
    exact = load_encoder(folder, precision="fp32", cache_folder=cache, threads=2)
    quantised = load_encoder(folder, precision="int8", cache_folder=cache, threads=2)
    pixels = blotches(exact.preprocess.size)
    cosines = (exact.images(pixels) * quantised.images(pixels)).sum(axis=1)
    assert cosines.min() > 0.99
    assert not np.array_equal(exact.images(pixels), quantised.images(pixels))
    assert "int8" in quantised.runtime


def test_int8_is_refused_for_convolutions(tmp_path: Path):
    encoder = load_encoder(write_model(tmp_path / "lite"), precision="int8", threads=1)
    with pytest.raises(ModelError, match="int8"):
        encoder.images(blotches(encoder.preprocess.size))


def test_half_precision_starts_in_float32(tmp_path: Path):
    folder = write_model(tmp_path / "lite")
    exact = load_encoder(folder, precision="fp32", cache_folder=tmp_path, threads=2)
    half = load_encoder(folder, precision="bf16", cache_folder=tmp_path, threads=2)
    pixels = blotches(exact.preprocess.size, 8)
    assert (exact.images(pixels) * half.images(pixels)).sum(axis=1).min() > 0.999


def test_the_first_stage_stays_in_float32(tmp_path: Path):
    config = read_config(write_model(tmp_path / "lite"))
    graph = openvino_lite.build_graph(config, WeightsFile(config.weights))
    core = openvino_core.import_openvino().Core()
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    types = [
        str(node.get_rt_info()["runtimePrecision"].get())
        for node in compiled.get_runtime_model().get_ordered_ops()
        if "Convolution" in node.get_rt_info()["layerType"].get()
    ]
    native = "bf16" in openvino_core.native_precisions()
    # The stem, and the two convolutions of the first stage.
    assert types[:3] == ["f32"] * 3
    assert set(types[3:]) == {"bf16" if native else "f32"}
