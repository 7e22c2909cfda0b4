"""EfficientNet-Lite image towers as an OpenVINO graph, straight from the weights.

Batch norms are folded into the convolutions and the normalisation of pixels is the graph's first
step, so indexing with such a tower needs neither torch nor open_clip.

Source: timm's `tf_efficientnet_lite*` (Tan and Le 2019; lite: no squeeze-excitation, ReLU6).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clipsearch.errors import ModelError
from clipsearch.models.config import ModelConfig
from clipsearch.models.runtimes.openvino_core import import_openvino, keep_float32
from clipsearch.models.weights import WeightsFile
from clipsearch.records import Float32Array

TRUNK = "visual.trunk."
_STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # every EfficientNet's
_BATCH_NORM_EPS = 1e-3  # TensorFlow's, which the tf_ models keep
_SAME_PADDING = "same_upper"  # TensorFlow pads the odd pixel at the end; timm's Conv2dSame too


def supports(config: ModelConfig) -> bool:
    """Whether `build_graph` computes this image tower."""
    vision = config.vision
    name = str(vision.get("timm_model_name") or "")
    return (
        name.startswith("tf_efficientnet_lite")
        and "." not in name
        and vision.get("timm_pool", "avg") == "avg"
        and vision.get("timm_proj", "linear") in ("linear", "mlp")
    )


def build_graph(config: ModelConfig, weights: WeightsFile) -> Any:
    """An `openvino.Model`: (B, S, S, 3) uint8 -> (B, dim) float32, any B.

    Up to the end of the first stage it stays float32 whatever it is compiled for. That is where
    bfloat16 hurts: in it alone, worst of 200 photos, the cosine to float32 falls to 0.97; in all
    that follows, to 0.999 (measured with `pocket`). It takes a fifth of the time.

    Raises:
        ModelError: the weights are not those of such a tower.
        ImportError: OpenVINO is not installed.
    """
    return LiteGraph(config, weights).model()


class LiteGraph:
    """One tower, built from the first operation to the last."""

    def __init__(self, config: ModelConfig, weights: WeightsFile) -> None:
        self._openvino = import_openvino()
        from openvino import opset13

        self._ops = opset13
        self._config = config
        self._weights = weights

    def model(self) -> Any:
        side = self._config.preprocess.size
        shape = self._openvino.PartialShape([-1, side, side, 3])
        pixels = self._ops.parameter(shape, np.uint8, name="pixels")
        start = self._start(pixels)
        keep_float32(start)
        return self._openvino.Model([self._rest(start)], [pixels], "image_tower")

    def _start(self, pixels: Any) -> Any:
        x = self._relu6(self._conv(self._normalised(pixels), "conv_stem", "bn1", stride=2))
        return self._stage(x, 0)

    def _rest(self, x: Any) -> Any:
        for stage in range(1, len(_STAGE_STRIDES)):
            x = self._stage(x, stage)
        x = self._relu6(self._conv(x, "conv_head", "bn2"))
        return self._head(self._ops.reduce_mean(x, np.array([2, 3]), keep_dims=False))

    def _stage(self, x: Any, stage: int) -> Any:
        for block in range(self._count(f"blocks.{stage}.")):
            stride = _STAGE_STRIDES[stage] if block == 0 else 1
            x = self._block(x, f"blocks.{stage}.{block}.", stride)
        return x

    def _normalised(self, pixels: Any) -> Any:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32.

        On planes of one colour, S * S numbers long: with the three colours innermost, OpenVINO
        takes ten times as long. Without the reshaping it would choose that by itself.
        """
        preprocess = self._config.preprocess
        side = preprocess.size
        std = np.asarray(preprocess.std, np.float64)
        scale = self._constant((1 / (255 * std)).reshape(1, 3, 1))
        shift = self._constant((-np.asarray(preprocess.mean, np.float64) / std).reshape(1, 3, 1))
        x = self._ops.transpose(pixels, np.array([0, 3, 1, 2]))
        x = self._ops.reshape(x, np.array([0, 3, side * side]), special_zero=True)
        x = self._ops.convert(x, np.float32)
        x = self._ops.add(self._ops.multiply(x, scale), shift)
        return self._ops.reshape(x, np.array([0, 3, side, side]), special_zero=True)

    def _block(self, x: Any, name: str, stride: int) -> Any:
        """An inverted residual; the first stage's blocks have no expansion (`conv_pwl`)."""
        expands = f"{TRUNK}{name}conv_pwl.weight" in self._weights
        y = x
        if expands:
            y = self._relu6(self._conv(y, name + "conv_pw", name + "bn1"))
            y = self._relu6(self._depthwise(y, name + "conv_dw", name + "bn2", stride))
            y = self._conv(y, name + "conv_pwl", name + "bn3")
        else:
            y = self._relu6(self._depthwise(y, name + "conv_dw", name + "bn1", stride))
            y = self._conv(y, name + "conv_pw", name + "bn2")
        same_channels = x.get_output_partial_shape(0)[1] == y.get_output_partial_shape(0)[1]
        return self._sum(x, y) if stride == 1 and same_channels else y

    def _conv(self, x: Any, conv: str, norm: str, stride: int = 1) -> Any:
        kernel, bias = self._folded(conv, norm)
        return self._convolved(x, kernel, bias, stride)

    def _depthwise(self, x: Any, conv: str, norm: str, stride: int) -> Any:
        kernel, bias = self._folded(conv, norm)  # (C, 1, K, K); one group a channel
        return self._convolved(x, kernel[:, None], bias, stride)

    def _convolved(self, x: Any, kernel: Float32Array, bias: Float32Array, stride: int) -> Any:
        return self._convolution(x, self._constant(kernel), bias, stride)

    def _convolution(self, x: Any, kernel: Any, bias: Float32Array, stride: int) -> Any:
        grouped = len(kernel.get_output_shape(0)) == 5
        convolution = self._ops.group_convolution if grouped else self._ops.convolution
        y = convolution(
            x,
            kernel,
            [stride, stride], [0, 0], [0, 0], [1, 1], _SAME_PADDING,
        )  # fmt: skip
        return self._ops.add(y, self._constant(bias.reshape(1, -1, 1, 1)))

    def _relu6(self, x: Any) -> Any:
        return self._ops.clamp(x, 0.0, 6.0)

    def _sum(self, x: Any, y: Any) -> Any:
        return self._ops.add(x, y)

    def _head(self, x: Any) -> Any:
        if "visual.head.mlp.fc1.weight" in self._weights:
            x = self._ops.gelu(self._linear(x, "visual.head.mlp.fc1"), "erf")
            return self._linear(x, "visual.head.mlp.fc2")
        return self._linear(x, "visual.head.proj")

    def _linear(self, x: Any, name: str) -> Any:
        weight = self._weights.float32(name + ".weight")
        y = self._ops.matmul(x, self._constant(weight), transpose_a=False, transpose_b=True)
        if name + ".bias" not in self._weights:
            return y
        return self._ops.add(y, self._constant(self._weights.float32(name + ".bias")))

    def _folded(self, conv: str, norm: str) -> tuple[Float32Array, Float32Array]:
        """Kernel and bias of a convolution with its batch norm folded in, in float64."""
        kernel = self._weights.float32(f"{TRUNK}{conv}.weight").astype(np.float64)
        gain, bias, mean, variance = (
            self._weights.float32(f"{TRUNK}{norm}.{part}").astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gain / np.sqrt(variance + _BATCH_NORM_EPS)
        folded = kernel * gain[:, None, None, None]
        return folded.astype(np.float32), (bias - mean * gain).astype(np.float32)

    def _constant(self, values: Any) -> Any:
        return self._ops.constant(np.ascontiguousarray(values, np.float32))

    def _count(self, name: str) -> int:
        """How many blocks a stage has."""
        start = len(TRUNK + name)
        numbers = {
            int(tensor[start:].split(".", 1)[0])
            for tensor in self._weights.places
            if tensor.startswith(TRUNK + name)
        }
        if not numbers or numbers != set(range(len(numbers))):
            raise ModelError(f"{self._weights.path}: not the weights of an EfficientNet-Lite tower")
        return len(numbers)
