"""Matrix products of an OpenVINO graph with 8-bit weights, by numpy alone.

Each output channel's weights get one scale. No photos are needed for calibration and no package
beside OpenVINO. What becomes of the products depends on the processor:

- With VNNI they stay products. Activations stay float32 in the graph; OpenVINO quantises them as
  they come, in small groups.
- Without it OpenVINO would widen the weights to floats again. But it multiplies bytes in
  convolutions on every processor, so a product becomes a convolution of 1 x 1 over all rows, and
  the graph itself brings each row to 0..255 between its least and its largest value. On two Zen 3
  cores that takes 0.5 to 0.65 times as long as float32, and half of the memory (ViT-B-32).

Convolutions are left alone: their inputs' ranges would have to be known beforehand, as
`openvino_lite_int8` knows them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from clipsearch.models.runtimes.openvino_bytes import products_overflow, rounded, widened
from clipsearch.records import Float32Array

# Smaller ones cost next to no time and may be the tower's most sensitive.
_LEAST_WEIGHTS = 1 << 14


def kind() -> str:
    """A name for what `quantised` makes on this processor."""
    return "int8-convolutions" if products_overflow() else "int8"


def quantised(graph: Any) -> Any:
    """The same `openvino.Model`, changed in place: weights of MatMul as int8 and scales."""
    as_convolutions = products_overflow()
    rows: dict[tuple[str, int], _Rows] = {}  # of one input there may be several products
    for product, weights in list(_large_products(graph)):
        if not as_convolutions:
            output = _product(product, weights)
        elif _has_many_rows(product):
            x = product.input_value(0)
            place = x.get_node().get_name(), x.get_index()
            if place not in rows:
                rows[place] = _rows(x)
            output = _convolution(product, rows[place], weights)
        else:
            continue
        product.output(0).replace(output)
    graph.validate_nodes_and_infer_types()
    return graph


def _large_products(graph: Any) -> Iterator[tuple[Any, Float32Array]]:
    """Each product (..., K) x (K, N) with many weights that are constant; those as (N, K)."""
    for product in graph.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        source = product.input_value(1).get_node()
        if source.get_type_name() != "Constant":
            continue
        weights = source.get_data()
        if weights.ndim != 2 or weights.size < _LEAST_WEIGHTS or weights.dtype != np.float32:
            continue
        yield product, weights if product.get_attributes()["transpose_b"] else weights.T


def _product(product: Any, weights: Float32Array) -> Any:
    from openvino import opset13 as ops

    quicker = ops.matmul(
        product.input_value(0),
        widened(*rounded(weights, in_pairs=False)),
        transpose_a=product.get_attributes()["transpose_a"],
        transpose_b=True,
    )
    return quicker.output(0)


class _Rows(NamedTuple):
    """The rows x of a product's (..., K) input as whole numbers q, x = reach * q / 255 + least.

    Attributes:
        whole: (1, K, 1, R), 0 to 255 each.
        reach, least: (..., 1).
    """

    whole: Any
    reach: Any
    least: Any


def _has_many_rows(product: Any) -> bool:
    """Whether there are several rows a picture, whose number is known but for the batch."""
    shape = product.input_value(0).get_partial_shape()
    if shape.rank.is_dynamic or len(shape) < 3 or product.get_attributes()["transpose_a"]:
        return False
    unknown = [place for place, length in enumerate(shape) if length.is_dynamic]
    return len(unknown) <= 1 and len(shape) - 1 not in unknown


def _rows(x: Any) -> _Rows:
    from openvino import opset13 as ops

    rank = len(x.get_partial_shape())
    last = np.array([rank - 1])
    least = ops.reduce_min(x, last, keep_dims=True)
    reach = ops.subtract(ops.reduce_max(x, last, keep_dims=True), least)
    reach = ops.maximum(reach, ops.constant(np.float32(1e-12)))
    low, one, high = (ops.constant(np.full((1,) * rank, end, np.float32)) for end in (0, 1, 255))
    share = ops.divide(ops.subtract(x, least), reach)
    whole = ops.fake_quantize(share, low, one, low, high, 256)
    width = x.get_partial_shape()[rank - 1].get_length()
    flat = ops.reshape(whole, np.array([1, 1, -1, width]), special_zero=False)
    return _Rows(ops.transpose(flat, np.array([0, 3, 1, 2])), reach, least)


def _convolution(product: Any, rows: _Rows, weights: Float32Array) -> Any:
    """With weights w = scale * n: x w = reach * scale / 255 * (q n) + least * scale * sum(n)."""
    from openvino import opset13 as ops

    whole, scales = rounded(weights, in_pairs=True)
    sums = scales[:, 0] * whole.sum(axis=1, dtype=np.int32)
    # The scale comes later, with that of the rows.
    kernel = widened(whole[:, :, None, None], np.ones((1, 1, 1, 1), np.float32))
    y = ops.convolution(rows.whole, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    shape = [
        -1 if length.is_dynamic else length.get_length()
        for length in product.get_output_partial_shape(0)
    ]
    y = ops.reshape(ops.transpose(y, np.array([0, 2, 3, 1])), np.array(shape), special_zero=False)
    steps = ops.constant(scales[:, 0] / np.float32(255))
    y = ops.multiply(y, ops.multiply(rows.reach, steps))
    return ops.add(y, ops.multiply(rows.least, ops.constant(sums.astype(np.float32)))).output(0)
