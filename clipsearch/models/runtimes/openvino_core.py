"""OpenVINO, imported so that it stays silent, and the compiling of an image tower.

`import openvino` alone sends a usage event through the package `openvino-telemetry`, which comes
with it, and writes an identifier into the home folder. Nothing may leave this machine, so that
package is hidden before the first import; OpenVINO then falls back to a stub of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from clipsearch.records import Float32Array, UInt8Array


def import_openvino() -> Any:
    """The module `openvino`, with its telemetry switched off for this whole process.

    Raises:
        ImportError: OpenVINO is not installed, or not for this machine.
    """
    if "openvino" not in sys.modules:
        # None makes `import openvino_telemetry` raise ImportError, which OpenVINO expects.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino


@lru_cache(maxsize=1)
def _core() -> Any:
    return import_openvino().Core()


def compile_tower(
    model: Any, *, precision: str, threads: int | None
) -> Callable[[UInt8Array], Float32Array]:
    """Compile an OpenVINO model of one uint8 (B, S, S, 3) input and one (B, dim) output.

    Args:
        precision: `fp32` or `bf16`: the type that convolutions and matrix products run in.
    """
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision],
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = _core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(pixels: UInt8Array) -> Float32Array:
        request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)

    return run
