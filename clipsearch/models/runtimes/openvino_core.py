"""OpenVINO, imported so that it stays silent, and the compiling of an image tower.

`import openvino` alone sends a usage event through the package `openvino-telemetry`, which comes
with it, and writes an identifier into the home folder. Nothing may leave this machine, so that
package is hidden before the first import; OpenVINO then falls back to a stub of its own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from clipsearch.records import Float32Array, UInt8Array

ImageTower = Callable[[UInt8Array], Float32Array]

_ARITHMETIC: dict[str, dict[str, Any]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32"},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
    # Activations are quantised on the fly, with a scale for every 128 of them: outliers, which
    # trained transformers have, then spoil their neighbours only.
    "int8": {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 128},
}

# Of any tower: what a first call makes may be shared by more than one tower.
_FIRST_CALL = threading.Lock()

# One operation with the mark of `keep_float32`, as OpenVINO writes graphs.
_MARKED_GRAPH = b"""<net name="marked" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="ReLU" version="opset1">
<rt_info><attribute name="precise" version="0"/></rt_info>
<input><port id="0" precision="FP32"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="z" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer></layers><edges>
<edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


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


def streams(threads: int | None) -> int:
    """How many batches a compiled tower works on at a time.

    A core that has a batch of its own waits for no other: with one batch on all cores, whichever
    thread also decodes photos holds up the rest (measured on two cores: 5 to 15 % more processor
    time, and far more on a busy machine). More than four would only take memory.
    """
    return min(threads or os.cpu_count() or 1, 4)


def native_precisions() -> frozenset[str]:
    """Of `bf16` and `int8`, those that this processor has instructions for, as OpenVINO says."""
    names = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return frozenset(name.lower() for name in names) & {"bf16", "int8"}


def processor() -> str:
    """The processor's name and OpenVINO's version: what a measured speed depends on."""
    version = import_openvino().get_version().partition("-")[0]
    return f"{_core().get_property('CPU', 'FULL_DEVICE_NAME')}, openvino {version}"


def keep_float32(output: Any) -> None:
    """Have this `openvino` node, and all that lead to it, computed in float32 in any precision.

    The mark is OpenVINO's own, which Python can copy but not make: it comes from a graph of one
    operation, written out as text.
    """
    marked = _core().read_model(_MARKED_GRAPH, b"").get_results()[0].input_value(0).get_node()
    marks = list(marked.get_rt_info().items())
    pending, seen = [output], set()
    while pending:
        node = pending.pop()
        if node.get_name() not in seen:
            seen.add(node.get_name())
            for name, mark in marks:
                node.set_rt_info(mark, name)
            pending += [value.get_node() for value in node.input_values()]


def compile_graph(graph: Any) -> Any:
    """Compile any `openvino.Model` for one thread of the CPU, in its own arithmetic."""
    return _core().compile_model(graph, "CPU", {"INFERENCE_NUM_THREADS": 1} | _ARITHMETIC["fp32"])


def compile_tower(graph: Any, precision: str, *, threads: int | None, batch: int) -> CompiledTower:
    """A tower for the CPU; nothing is compiled yet.

    Args:
        graph: an `openvino.Model`, uint8 (B, S, S, 3) -> (B, dim).
        precision: what it computes in: `fp32`, `bf16` or `int8` (quantised weights, see
            `openvino_int8`).
        batch: how many images it will mostly be called with.
    """
    settings: dict[str, Any] = {"NUM_STREAMS": streams(threads)}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return CompiledTower(graph, settings | _ARITHMETIC[precision], batch)


class CompiledTower:
    """An image tower; several threads may call it, `streams` of them at a time.

    OpenVINO leaves out more of a graph whose shapes are all known: ViT-B-32 in int8 takes 0.75
    times as long then, `pocket` 0.95 times. So a tower is compiled for batches of one size, and
    what is smaller is filled up. The second size is the last: the usual one.
    """

    def __init__(self, graph: Any, settings: dict[str, Any], batch: int) -> None:
        self._graph = graph
        self._settings = settings
        self._batch = batch
        self._compiled: dict[int, _CompiledBatch] = {}
        self._compiling = threading.Lock()

    def compile(self) -> None:
        """Do now what the first call with as many images as usual would do."""
        self._for(self._batch)

    def __call__(self, pixels: UInt8Array) -> Float32Array:
        """(B, S, S, 3) uint8 -> (B, dim) float32."""
        parts = [pixels[at : at + self._batch] for at in range(0, len(pixels), self._batch)]
        rows = [self._for(len(part))(part) for part in parts]
        return np.concatenate(rows) if len(rows) != 1 else rows[0]

    def _for(self, count: int) -> _CompiledBatch:
        with self._compiling:
            fitting = [size for size in self._compiled if size >= count]
            if fitting:
                return self._compiled[min(fitting)]
            # A single query by a picture does not pay for a whole batch.
            size = self._batch if self._compiled else count
            graph = self._graph.clone()  # reshaping also rewrites, for this size alone
            graph.reshape([size, *list(graph.input(0).get_partial_shape())[1:]])
            found = _core().compile_model(graph, "CPU", self._settings)
            compiled = _CompiledBatch(found, size)
            self._compiled[size] = compiled
            if size == self._batch:
                self._graph = None  # nothing is compiled after it; this is some of the memory
            return compiled


class _CompiledBatch:
    """A tower compiled for batches of one size, or smaller ones."""

    def __init__(self, compiled: Any, size: int) -> None:
        self._compiled = compiled
        self._size = size
        self._idle: list[Any] = []
        self._called = False

    def __call__(self, pixels: UInt8Array) -> Float32Array:
        # The first call makes what all later ones share, behind a guard of C++ that a thread holds
        # while it gives up Python's lock, and that another awaits while it holds that lock:
        # neither goes on. So nobody else calls meanwhile.
        if self._called:
            return self._infer(pixels)
        with _FIRST_CALL:
            rows = self._infer(pixels)
            self._called = True
        return rows

    def _infer(self, pixels: UInt8Array) -> Float32Array:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        count = len(pixels)
        if count < self._size:
            filled = np.zeros((self._size, *pixels.shape[1:]), np.uint8)
            filled[:count] = pixels
            pixels = filled
        request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        rows = np.array(request.get_output_tensor(0).data[:count], dtype=np.float32)
        self._idle.append(request)
        return rows
