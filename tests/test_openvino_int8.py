"""Products of bytes are the products of floats but for rounding, on processors of both kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipsearch.models.runtimes import openvino_bytes, openvino_core, openvino_int8
from clipsearch.models.runtimes.openvino_core import compile_graph, compile_tower, import_openvino

K, N = 192, 160
RANDOM = np.random.default_rng(5)
WEIGHTS = (RANDOM.standard_normal((N, K)) * 0.05).astype(np.float32)


def largest_pair(whole: np.ndarray) -> int:
    """Of (O, C) whole numbers: the largest sum of two neighbours of one sign."""
    both = np.maximum(np.stack([whole, -whole.astype(np.int32)]), 0)
    return int((both[..., ::2] + both[..., 1::2]).max())


def product_graph(shape: list[int], weights: np.ndarray, *, transposed: bool = True) -> Any:
    """x W of float32 `x` of this shape, of which -1 is any length."""
    openvino = import_openvino()
    from openvino import opset13 as ops

    x = ops.parameter(openvino.PartialShape(shape), np.float32)
    constant = ops.constant(np.ascontiguousarray(weights if transposed else weights.T))
    y = ops.matmul(x, constant, transpose_a=False, transpose_b=transposed)
    return openvino.Model([y], [x], "product")


def answer(graph: Any, x: np.ndarray) -> np.ndarray:
    return np.array(compile_graph(graph)([x])[0])


def test_neighbours_share_the_room_of_16_bits():
    whole, scales = openvino_bytes.rounded(WEIGHTS, in_pairs=True)
    assert whole.dtype == np.int8
    assert scales.shape == (N, 1)
    assert 120 <= largest_pair(whole) <= 128  # 255 * 128 < 2 ** 15
    assert np.abs(whole * scales - WEIGHTS).max() <= scales.max() / 2 + 1e-7
    halved = np.abs(WEIGHTS).max(axis=1) / 63
    assert np.median(halved / scales[:, 0]) > 1.3  # what halving all weights would cost


def test_one_large_weight_keeps_all_its_bits():
    weights = np.zeros((1, 5), np.float32)
    weights[0, 3:] = 8, 1
    whole, scales = openvino_bytes.rounded(weights, in_pairs=True)
    assert whole.tolist() == [[0, 0, 0, 127, 16]]  # 8 stands beside a zero, 1 beside none
    assert scales[0, 0] == pytest.approx(8 / 127)


def test_without_need_only_the_largest_weight_counts():
    whole, _ = openvino_bytes.rounded(np.abs(WEIGHTS), in_pairs=False)
    assert np.abs(whole).max(axis=1).tolist() == [127] * N
    assert largest_pair(whole) > 200


@pytest.mark.parametrize("overflow", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ([-1, 7, K], (3, 7, K)),
        ([7, -1, K], (7, 3, K)),  # tokens first, as some towers have it
        ([2, 5, 4, K], (2, 5, 4, K)),
    ],
)
def test_a_product_keeps_its_values(
    monkeypatch: pytest.MonkeyPatch,
    shape: list[int],
    size: tuple[int, ...],
    transposed: bool,
    overflow: bool,
):
    monkeypatch.setattr(openvino_int8, "products_overflow", lambda: overflow)
    graph = product_graph(shape, WEIGHTS, transposed=transposed)
    x = RANDOM.standard_normal(size).astype(np.float32) * 3 + 1
    x[0, 0] *= 100  # a row's own range must not spoil the others
    expected = x @ WEIGHTS.T
    found = answer(openvino_int8.quantised(graph), x)
    assert found.shape == expected.shape
    lengths = np.linalg.norm(expected, axis=-1), np.linalg.norm(found, axis=-1)
    cosines = (expected * found).sum(axis=-1) / (lengths[0] * lengths[1])
    assert cosines.min() > 0.9995
    assert not np.array_equal(found, expected)


def test_no_sum_is_cut_where_all_large_activations_meet_weights_of_one_sign(
    monkeypatch: pytest.MonkeyPatch,
):
    """The worst rows for every output: bytes of 255 where its weights are positive, else of 0."""
    monkeypatch.setattr(openvino_int8, "products_overflow", lambda: True)
    whole, scales = openvino_bytes.rounded(WEIGHTS, in_pairs=True)
    x = np.concatenate([whole > 0, whole < 0]).astype(np.float32)[None] * 255
    expected = x @ whole.T.astype(np.float32) * scales[:, 0]
    found = answer(openvino_int8.quantised(product_graph([-1, 2 * N, K], WEIGHTS)), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3 * np.abs(expected).max())
    diagonal = np.arange(N)
    np.testing.assert_allclose(found[0, diagonal, diagonal], expected[0, diagonal, diagonal], 1e-5)


def test_a_row_of_one_value_keeps_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openvino_int8, "products_overflow", lambda: True)
    x = np.zeros((1, 3, K), np.float32)
    x[0, 1:] = [[2.5], [-4]]
    found = answer(openvino_int8.quantised(product_graph([-1, 3, K], WEIGHTS)), x)
    assert np.isfinite(found).all()
    assert not found[0, 0].any()
    np.testing.assert_allclose(found[0, 1], 2.5 * WEIGHTS.sum(axis=1), atol=0.15)


def test_several_products_of_one_input_bring_it_to_bytes_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openvino_int8, "products_overflow", lambda: True)
    openvino = import_openvino()
    from openvino import opset13 as ops

    x = ops.parameter(openvino.PartialShape([-1, 7, K]), np.float32)
    weights = [ops.constant(WEIGHTS * factor) for factor in (1, 2, -1)]
    outputs = [ops.matmul(x, one, transpose_a=False, transpose_b=True) for one in weights]
    graph = openvino_int8.quantised(openvino.Model(outputs, [x], "three"))
    types = [node.get_type_name() for node in graph.get_ordered_ops()]
    assert types.count("Convolution") == 3
    assert types.count("FakeQuantize") == 1
    assert types.count("MatMul") == 0


@pytest.mark.parametrize("shape", [[-1, K], [-1, -1, K]])
def test_what_is_one_row_a_picture_or_of_unknown_shape_stays_float(
    monkeypatch: pytest.MonkeyPatch, shape: list[int]
):
    monkeypatch.setattr(openvino_int8, "products_overflow", lambda: True)
    graph = openvino_int8.quantised(product_graph(shape, WEIGHTS))
    assert "MatMul" in {node.get_type_name() for node in graph.get_ordered_ops()}


def test_a_processors_kind_has_its_own_name(monkeypatch: pytest.MonkeyPatch):
    names = set()
    for overflow in (True, False):
        monkeypatch.setattr(openvino_int8, "products_overflow", lambda found=overflow: found)
        names.add(openvino_int8.kind())
    assert len(names) == 2  # one's graph and verdict say nothing of the other's


class Compiled:
    """Counts what is compiled, by the size of its batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        core = openvino_core._core()
        compile_model = type(core).compile_model

        def counted(found: Any, graph: Any, *arguments: Any) -> Any:
            self.sizes.append(graph.input(0).get_partial_shape()[0].get_length())
            return compile_model(found, graph, *arguments)

        monkeypatch.setattr(type(core), "compile_model", counted)


def tower_graph() -> Any:
    """(B, 2, 2, 3) uint8 -> (B, 12) float32: the pixels themselves."""
    openvino = import_openvino()
    from openvino import opset13 as ops

    x = ops.parameter(openvino.PartialShape([-1, 2, 2, 3]), np.uint8)
    flat = ops.reshape(ops.convert(x, np.float32), np.array([-1, 12]), special_zero=False)
    return openvino.Model([flat], [x], "pixels")


@pytest.mark.parametrize(
    ("calls", "compiled"),
    [([4, 4, 3, 1], [4]), ([1, 1], [1]), ([1, 2, 3, 4], [1, 4]), ([3, 2, 4], [3, 4]), ([9], [4])],
)
def test_a_tower_is_compiled_for_two_sizes_of_batch_at_most(
    monkeypatch: pytest.MonkeyPatch, calls: list[int], compiled: list[int]
):
    counted = Compiled(monkeypatch)
    tower = compile_tower(tower_graph(), "fp32", threads=1, batch=4)
    for count in calls:
        pixels = RANDOM.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
        np.testing.assert_array_equal(tower(pixels), pixels.reshape(count, 12))
    assert counted.sizes == compiled


def test_what_is_compiled_ahead_is_the_usual_batch(monkeypatch: pytest.MonkeyPatch):
    counted = Compiled(monkeypatch)
    tower = compile_tower(tower_graph(), "fp32", threads=1, batch=4)
    assert counted.sizes == []
    tower.compile()
    tower(np.zeros((2, 2, 2, 3), np.uint8))
    assert counted.sizes == [4]
