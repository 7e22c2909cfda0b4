"""An image tower on a GPU that torch calls `cuda`: several batches in flight.

Each batch in flight has a lane of its own: a CUDA stream, pinned buffers in which the copies run
beside the arithmetic of the other lane, and a CUDA graph of the tower for whole batches. Without
the graph every one of a tower's few hundred kernels is launched from Python, which has to win the
interpreter lock back each time from as many threads as decode photos.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from clipsearch.models.config import ModelConfig
from clipsearch.models.runtimes.torch_towers import image_module
from clipsearch.records import Float32Array, UInt8Array

LARGEST_BATCH = 256
_PROBE = 8  # images by whose memory that of a batch is told


class CudaImageTower:
    """B times (S, S, 3) uint8 -> (B, dim) float32 rows, not yet unit length.

    Several threads may call it; as many as it has lanes run at a time, others wait. A call leaves
    the interpreter lock to others while it waits for the GPU.

    Args:
        lanes: batches in flight.

    Attributes:
        batch_size: images to hand over at once: a power of two of which `lanes` batches take half
            of the memory that was free, `LARGEST_BATCH` at most. No call may bring more.
    """

    def __init__(self, config: ModelConfig, *, precision: str, lanes: int) -> None:
        import torch

        module: Any = image_module(config, precision).to("cuda")
        module.to(memory_format=torch.channels_last)  # uint8 pixels lie so already
        self.batch_size = _batch_that_fits(module, config.preprocess.size, lanes)
        capturing = threading.Lock()
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(lanes):
            self._lanes.put(_Lane(module, self.batch_size, capturing))

    def __call__(self, pixels: Sequence[UInt8Array] | UInt8Array) -> Float32Array:
        lane = self._lanes.get()
        try:
            return lane.run(pixels)
        finally:
            self._lanes.put(lane)


class _Lane:
    """What one batch in flight needs for itself; for one thread at a time.

    Args:
        whole: the size of batch that a graph is captured of.
        capturing: held while a graph is captured, one after another.
    """

    def __init__(self, module: Any, whole: int, capturing: threading.Lock) -> None:
        import torch

        self._torch: Any = torch
        self._module = module
        self._whole = whole
        self._capturing: threading.Lock | None = capturing  # None once no graph could be made
        self._stream = self._torch.cuda.Stream()
        # Whoever waits for it sleeps: by default a core would be kept busy with waiting.
        self._done = self._torch.cuda.Event(blocking=True)
        self._pixels: Any = torch.empty(0)  # pinned, made with the first batch
        self._rows: Any = torch.empty(0)
        self._graph: Any = None
        self._graph_input: Any = None
        self._graph_output: Any = None

    def run(self, pixels: Sequence[UInt8Array] | UInt8Array) -> Float32Array:
        torch, count = self._torch, len(pixels)
        if count > len(self._pixels):
            shape = (count, *pixels[0].shape)
            self._pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        np.stack(list(pixels), out=self._pixels.numpy()[:count])
        with torch.cuda.stream(self._stream), torch.inference_mode():
            try:
                self._launch(count)
            finally:
                # Also after a failure: the next batch may only overwrite what has been copied.
                self._done.record(self._stream)
                self._done.synchronize()
            if count == self._whole and self._graph is None and self._capturing is not None:
                self._capture()
        rows: Float32Array = self._rows.numpy()[:count].copy()
        return rows

    def _launch(self, count: int) -> None:
        torch = self._torch
        if count == self._whole and self._graph is not None:
            self._graph_input.copy_(self._pixels, non_blocking=True)
            self._graph.replay()
            rows = self._graph_output
        else:
            rows = self._module(self._pixels[:count].to("cuda", non_blocking=True)).float()
        if count > len(self._rows):
            self._rows = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
        self._rows[:count].copy_(rows, non_blocking=True)

    def _capture(self) -> None:
        """Make the graph, after a whole batch went through without: that loaded all kernels."""
        torch = self._torch
        assert self._capturing is not None
        with self._capturing:
            try:
                self._graph_input = self._pixels.to("cuda")
                graph = torch.cuda.CUDAGraph()
                # Other threads go on allocating memory meanwhile, which `global` would forbid them.
                with torch.cuda.graph(
                    graph, stream=self._stream, capture_error_mode="thread_local"
                ):
                    self._graph_output = self._module(self._graph_input).float()
                self._graph = graph
            except RuntimeError:
                # Out of memory, or a tower that asks the GPU something on its way: without, then.
                self._capturing = self._graph_input = self._graph_output = None


def _batch_that_fits(module: Any, side: int, lanes: int) -> int:
    import torch

    batch = torch.zeros((_PROBE, side, side, 3), dtype=torch.uint8, device="cuda")
    with torch.inference_mode():
        module(batch)  # kernels and their workspaces come with the first call
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        module(batch)
    per_image = max(1, torch.cuda.max_memory_allocated() - before) / _PROBE
    free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - before
    fit = max(1, int(free / 2 / lanes / per_image))
    return min(LARGEST_BATCH, 1 << (fit.bit_length() - 1))
