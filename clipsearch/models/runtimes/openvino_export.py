"""Any image tower as an OpenVINO graph: converted from torch once, then read from the cache."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import ModelError
from clipsearch.models.config import ModelConfig
from clipsearch.models.runtimes import openvino_int8
from clipsearch.models.runtimes.openvino_core import compile_tower, import_openvino
from clipsearch.records import Float32Array

# Float32 on both sides; what is left is the order of sums.
_LEAST_COSINE = 0.9999


class ConversionError(Exception):
    """OpenVINO cannot run this tower as torch does."""


def exported_tower(
    config: ModelConfig,
    image_fingerprint: str,
    cache_folder: Path,
    *,
    threads: int | None,
    check_files: Callable[[], None],
    int8: bool = False,
) -> Any:
    """The tower as an `openvino.Model`, from the cache if this version has exported it before.

    Args:
        check_files: called before a tower is kept; raises where what was read may not be the model
            of that fingerprint.
        int8: with the weights of its matrix products quantised (`openvino_int8`).
    Raises:
        ConversionError: OpenVINO refuses it, or its vectors are not torch's.
        ImportError: OpenVINO is not installed.
        ModelError: the model itself is broken.
    """
    openvino = import_openvino()
    version = openvino.get_version().partition("-")[0]
    kind = f"-{openvino_int8.kind()}" if int8 else ""
    folder = cache_folder / "towers" / f"{image_fingerprint}-openvino-{version}{kind}"
    graph = folder / "tower.xml"
    if graph.is_file():
        try:
            return openvino.Core().read_model(graph)
        except RuntimeError:
            shutil.rmtree(folder, ignore_errors=True)  # damaged: make it again
    if int8:
        exact = exported_tower(
            config, image_fingerprint, cache_folder, threads=threads, check_files=check_files
        )
        model = openvino_int8.quantised(exact)
    else:
        model = _convert(config, threads)
        check_files()
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        openvino.save_model(model, draft / "tower.xml", compress_to_fp16=False)
        draft.rename(folder)
    except (OSError, RuntimeError):  # a cache that cannot be written costs only time
        shutil.rmtree(draft, ignore_errors=True)
        return model
    # The one that was converted keeps torch's whole tower in memory, by references in a circle;
    # the one that is read is mapped from the file.
    del model
    gc.collect()
    return openvino.Core().read_model(graph)


def _convert(config: ModelConfig, threads: int | None) -> Any:
    import torch

    from clipsearch.models.runtimes.torch_towers import image_module, set_threads

    set_threads(threads)
    openvino = import_openvino()
    side = config.preprocess.size
    module = image_module(config)
    noise = np.random.default_rng(0)  # four pictures of smooth blotches: noise alone looks alike
    coarse = noise.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    repeats = -(-side // 8)
    sample = coarse.repeat(repeats, axis=1).repeat(repeats, axis=2)[:, :side, :side]
    pixels = torch.from_numpy(np.ascontiguousarray(sample))
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what tracing warns of is checked below, in numbers
            expected: Float32Array = module(pixels).numpy()
            model = openvino.convert_model(
                module, example_input=pixels[:2], input=[-1, side, side, 3]
            )
        answer = compile_tower(model, "fp32", threads=threads, batch=len(pixels))(pixels.numpy())
    except ModelError:
        raise
    except Exception as error:  # whatever tracing and conversion may raise for odd towers
        raise ConversionError(str(error).strip().partition("\n")[0]) from error
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(answer, axis=1)
    cosine = float(((expected * answer).sum(axis=1) / norms).min())
    if not cosine >= _LEAST_COSINE:
        raise ConversionError(f"its vectors differ from torch's (cosine {cosine:.4f})")
    return model
