"""Matrix products of an OpenVINO graph with 8-bit weights, by numpy alone.

Each output channel's weights get one scale, its largest weight at 127. Activations stay float32 in
the graph; OpenVINO quantises them as they come, in small groups, where the processor multiplies
bytes quicker than floats. So no photos are needed for calibration and no package beside OpenVINO.
Convolutions are left alone: OpenVINO multiplies bytes there only with ranges known beforehand, as
`openvino_lite_int8` has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Smaller ones cost next to no time and may be the tower's most sensitive.
_LEAST_WEIGHTS = 1 << 14


def quantised(graph: Any) -> Any:
    """The same `openvino.Model`, changed in place: (N, K) weights of MatMul as int8 and scales."""
    from openvino import opset13 as ops

    for product in graph.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        source = product.input_value(1).get_node()
        if source.get_type_name() != "Constant":
            continue
        weights = source.get_data()
        if weights.ndim != 2 or weights.size < _LEAST_WEIGHTS or weights.dtype != np.float32:
            continue
        if not product.get_attributes()["transpose_b"]:
            weights = weights.T
        scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-12) / np.float32(127)
        whole = np.rint(weights / scales).astype(np.int8)
        widened = ops.multiply(ops.convert(ops.constant(whole), np.float32), ops.constant(scales))
        quicker = ops.matmul(
            product.input_value(0),
            widened,
            transpose_a=product.get_attributes()["transpose_a"],
            transpose_b=True,
        )
        product.output(0).replace(quicker.output(0))
    graph.validate_nodes_and_infer_types()
    return graph
