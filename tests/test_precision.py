"""A faster arithmetic is used where it was seen to give the same vectors, and nowhere else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ALBUM
from PIL import Image
from test_encoder import blotches
from test_openvino_int8 import largest_pair
from tiny_models import VIT, write_model

from clipsearch.errors import UsageError
from clipsearch.models import load_encoder
from clipsearch.models.config import read_config
from clipsearch.models.encoder import LocalEncoder
from clipsearch.models.runtimes import openvino_core, openvino_lite, openvino_lite_int8
from clipsearch.models.runtimes.trial import (
    LEAST_COSINE,
    LEAST_MEAN_COSINE,
    PHOTOS,
    Trial,
    Verdict,
    keep_verdict,
    read_verdict,
)
from clipsearch.models.sources import find_model
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


def test_fp16_is_refused_on_a_cpu_where_it_is_many_times_slower():
    with pytest.raises(UsageError, match="fp16 is for GPUs") as caught:
        load_encoder("pocket", device="cpu", precision="fp16").load()
    assert "--precision" in (caught.value.hint or "")


def test_one_unlike_vector_fails_it():
    other = ROWS.copy()
    other[3] = -other[3]
    trial, (verdict,) = held(other, pause_s=0.003)
    assert not verdict.passed
    assert verdict.worst_cosine == pytest.approx(-1)
    assert trial(PIXELS) is ROWS


def test_a_photo_that_no_tower_makes_anything_of_is_no_part_of_a_trial():
    rows = ROWS.copy()
    rows[2] = np.inf
    verdicts: list[Verdict] = []
    trial = Trial(lambda _: rows, lambda _: rows, verdicts.append)
    for _ in range(PHOTOS):
        trial(PIXELS)
    assert verdicts[0].worst_cosine == pytest.approx(1)


def test_what_only_the_faster_tower_makes_nothing_of_fails():
    other = ROWS.copy()
    other[3] = np.nan
    _, (verdict,) = held(other, pause_s=0.003)
    assert verdict.worst_cosine == -1


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


def album(encoder: LocalEncoder) -> np.ndarray:
    """The sample album's photos as the encoder takes them."""
    paths = sorted(ALBUM.glob("*.jpg"))
    return np.stack([encoder.preprocess.pixels(Image.open(path)) for path in paths])


def test_convolutions_of_bytes_keep_pockets_vectors(tmp_path: Path):
    exact = load_encoder("pocket", precision="fp32", cache_folder=tmp_path, threads=2)
    quantised = load_encoder("pocket", precision="int8", cache_folder=tmp_path, threads=2)
    pixels = album(exact)
    cosines = (exact.images(pixels) * quantised.images(pixels)).sum(axis=1)
    # What a trial asks for; without the correction of biases the mean is 0.998.
    assert cosines.mean() >= LEAST_MEAN_COSINE
    assert cosines.min() >= LEAST_COSINE
    assert cosines.max() < 0.99999


def test_auto_holds_its_first_trial_of_pocket_with_int8(tmp_path: Path):
    encoder = load_encoder("pocket", cache_folder=tmp_path, threads=2)
    pixels = album(encoder)
    for _ in range(-(-PHOTOS // len(pixels))):
        encoder.images(pixels)
    if "int8" in openvino_core.native_precisions():
        (key,) = json.loads((tmp_path / "precision.json").read_text())
        assert ", int8, " in key


def test_convolutions_multiply_bytes_behind_the_first_stage():
    config = read_config(find_model("pocket"))
    graph = openvino_lite_int8.build_graph(config, WeightsFile(config.weights))
    types = convolution_types(graph, "f32")
    assert types[:3] == ["f32"] * 3
    native = "int8" in openvino_core.native_precisions()
    assert set(types[3:]) <= ({"u8", "i8"} if native else {"u8", "i8", "f32"})


@pytest.mark.parametrize("overflow", [True, False])
def test_weights_leave_room_where_products_overflow(
    monkeypatch: pytest.MonkeyPatch, overflow: bool
):
    monkeypatch.setattr(openvino_lite_int8, "products_overflow", lambda: overflow)
    config = read_config(find_model("pocket"))
    graph = openvino_lite_int8.build_graph(config, WeightsFile(config.weights))
    kernels = [
        node.data
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8"
    ]
    # (O, I, 1, 1), or (C, 1, 1, K, K) for depthwise ones, which need no room.
    pairs = max(largest_pair(kernel[:, :, 0, 0]) for kernel in kernels if kernel.ndim == 4)
    assert pairs <= 128 if overflow else pairs > 200
    assert {np.abs(kernel).max() for kernel in kernels if kernel.ndim == 5} == {127}


def test_means_behind_relu6_are_those_of_a_clipped_normal_distribution():
    mean, deviation = np.array([-4.0, -0.5, 0.0, 2.0, 5.5, 9.0]), np.array([1, 2, 0.5, 3, 1, 0.2])
    drawn = np.random.default_rng(1).standard_normal((200_000, 1)) * deviation + mean
    expected = drawn.clip(0, 6).mean(axis=0)
    found = openvino_lite_int8.clipped_mean(mean, deviation)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_half_precision_starts_in_float32(tmp_path: Path):
    folder = write_model(tmp_path / "lite")
    exact = load_encoder(folder, precision="fp32", cache_folder=tmp_path, threads=2)
    half = load_encoder(folder, precision="bf16", cache_folder=tmp_path, threads=2)
    pixels = blotches(exact.preprocess.size, 8)
    assert (exact.images(pixels) * half.images(pixels)).sum(axis=1).min() > 0.999


def test_the_first_stage_stays_in_float32(tmp_path: Path):
    config = read_config(write_model(tmp_path / "lite"))
    graph = openvino_lite.build_graph(config, WeightsFile(config.weights))
    types = convolution_types(graph, "bf16")
    native = "bf16" in openvino_core.native_precisions()
    # The stem, and the two convolutions of the first stage.
    assert types[:3] == ["f32"] * 3
    assert set(types[3:]) == {"bf16" if native else "f32"}


def convolution_types(graph: Any, hint: str) -> list[str]:
    """What each convolution computes in, from the first to the last."""
    core = openvino_core.import_openvino().Core()
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return [
        str(node.get_rt_info()["runtimePrecision"].get())
        for node in compiled.get_runtime_model().get_ordered_ops()
        if "Convolution" in node.get_rt_info()["layerType"].get()
    ]
