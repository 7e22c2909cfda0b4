"""The encoder: pixels and words in, unit vectors out, by whatever runtime is best here.

    image tower   EfficientNet-Lite on a CPU    OpenVINO graph built from the weights
                  any other on a CPU            OpenVINO graph converted from torch, cached
                  on a GPU, or without OpenVINO torch
    text tower    CLIP's own                    numpy, on the real tokens only
                  any other, or device given    torch

A tower is loaded when it is first used. A text query through numpy loads neither the image tower
nor torch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import ModelError, NoVector, UsageError
from clipsearch.models.config import ModelConfig, read_config
from clipsearch.models.fingerprints import file_stamps, fingerprints
from clipsearch.models.preprocess import Preprocess
from clipsearch.models.runtimes import numpy_text, openvino_core, openvino_lite, trial
from clipsearch.models.sources import default_cache_folder, find_model
from clipsearch.models.tokenizer import VOCABULARY_SIZE, Tokenizer
from clipsearch.models.weights import WeightsFile
from clipsearch.models.words import unknown_words
from clipsearch.records import Fingerprints, Float32Array, UInt8Array

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")

_CPU_BATCH = 4  # for each core; more gains 2 % at most (measured), and costs memory
_GPU_BATCH = 256
_CUDA_BATCHES = 2  # at once: one is copied while the other is computed

_SMALLER = "use `--device cpu` or a smaller model (`clipsearch models`)"

ImageTower = openvino_core.ImageTower


def load_encoder(
    name: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    cache_folder: Path | None = None,
) -> LocalEncoder:
    """The encoder of a model that is on this machine. No weights are read yet.

    Args:
        name: preset, ARCH/TAG, hf-hub:OWNER/NAME, an imported model's name, or a directory.
        device: auto (cuda, mps, cpu: the first that is here), or one of them.
        precision: fp32, bf16, fp16 (not on a CPU), int8 (on a CPU), or auto: bf16 or fp16 on a GPU;
            on a CPU the quickest that has shown on the first photos of a library that its vectors
            are those of fp32 (`runtimes.trial`).
        threads: of the image tower on a CPU; None leaves it to the runtime (all cores). numpy's
            own come from the environment (OMP_NUM_THREADS), which is read before its import.
        cache_folder: where converted towers, fingerprints and the tokenizer's table are kept.

    Raises:
        UsageError: there is no such device or precision.
        ModelUnavailable: the model is known, but not on this machine; nothing is fetched here.
        ModelError: the model is unknown or damaged.
    """
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}", hint=f"one of: {', '.join(DEVICES)}")
    if precision not in PRECISIONS:
        raise UsageError(
            f"unknown precision {precision!r}", hint=f"one of: {', '.join(PRECISIONS)}"
        )
    folder = find_model(name)
    files = file_stamps(folder)  # before the first of them is read
    return LocalEncoder(
        str(name),
        read_config(folder),
        files,
        device=device,
        precision=precision,
        threads=threads,
        cache_folder=cache_folder or default_cache_folder(),
    )


class LocalEncoder:
    """Both towers of one model on this machine; made by `load_encoder`.

    Towers and fingerprints are read when they are first needed. Where the model's files are
    replaced meanwhile, that raises ModelError: vectors of the one model must not be kept under
    the fingerprint of another.

    Several threads may call `images`, `batches_at_once` of them with gain; `texts` is for one.

    Attributes:
        preprocess: how pictures become the pixels that `images` takes.
        context_length: tokens of a text at most.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        files: dict[str, list[int]],
        *,
        device: str,
        precision: str,
        threads: int | None,
        cache_folder: Path,
    ) -> None:
        self._name = name
        self._config = config
        self._files = files
        self._asked_device = device
        self._asked_precision = precision
        self._threads = threads
        self._cache_folder = cache_folder
        self._image_words = ""
        self._chosen_precision = ""
        self._loading = threading.Lock()
        self._limit: int | None = None  # images at once; halved when memory runs out
        self.preprocess: Preprocess = config.preprocess
        self.context_length: int = config.context_length

    @property
    def name(self) -> str:
        return self._name

    @property
    def folder(self) -> Path:
        """The model's directory."""
        return self._config.folder

    @property
    def dim(self) -> int:
        return self._config.dim

    @property
    def files(self) -> dict[str, list[int]]:
        """The stamps of the files that decide its vectors, by their whole paths."""
        folder = self.folder.absolute()
        return {str(folder / name): stamp for name, stamp in self._files.items()}

    @property
    def is_outdated(self) -> bool:
        """Whether the model's files are others now than when this encoder was made."""
        return file_stamps(self.folder) != self._files

    @cached_property
    def fingerprints(self) -> Fingerprints:
        found = fingerprints(self.folder, cache_folder=self._cache_folder)
        self._check_files()
        return found

    @cached_property
    def logit_scale(self) -> float:
        """The learned scale as it is stored: a logarithm; exp of it is 1 / temperature."""
        return float(self._weights.float32("logit_scale").reshape(-1)[0])

    @cached_property
    def device(self) -> str:
        """`cpu`, `cuda` or `mps`: where the image tower runs.

        Raises:
            ModelError: the device that was asked for is not here.
        """
        return resolve_device(self._asked_device)

    @property
    def precision(self) -> str:
        """`fp32`, `bf16`, `fp16` or `int8`: what the image tower computes in, as far as is known.

        With `auto` on a CPU that is fp32 until the tower is loaded, and while a trial runs.
        """
        return self._chosen_precision or self._exact_precision

    @cached_property
    def _exact_precision(self) -> str:
        """Without a trial: what was asked for, or the best that is safe for any model."""
        return resolve_precision(self._asked_precision, self.device)

    @property
    def batches_at_once(self) -> int:
        """How many threads should call `images` at a time."""
        if self.device == "cpu":
            return openvino_core.streams(self._threads)
        return _CUDA_BATCHES if self.device == "cuda" else 1

    @property
    def batch_size(self) -> int:
        """How many images to hand over at once; smaller after memory has run out."""
        if self._limit is None:
            self._limit = _CPU_BATCH if self.device == "cpu" else _GPU_BATCH
        return self._limit

    @property
    def runtime(self) -> str:
        """What runs the towers, in words; loads the image tower to be sure of it."""
        self.load()
        text = "numpy" if self._text_in_numpy else "torch"
        return f"images: {self._image_words} {self.precision}; texts: {text}"

    def load(self) -> None:
        """Load the image tower, which `images` does too where it has not been done.

        Raises:
            ModelError: the tower cannot run here.
        """
        with self._loading:
            tower = self._image_tower
            if isinstance(tower, openvino_core.CompiledTower):
                tower.compile()

    def images(self, pixels: Sequence[UInt8Array] | UInt8Array) -> Float32Array:
        """B times (side, side, 3) uint8 as `preprocess.pixels` makes them -> (B, dim) unit rows.

        Batches larger than memory are halved until they fit.

        Raises:
            ValueError: another shape or type.
            ModelError: a single image does not fit into memory.
            NoVector: of one of them the model makes nothing.
        """
        side = self.preprocess.size
        for one in pixels:
            if one.dtype != np.uint8 or one.shape != (side, side, 3):
                raise ValueError(f"expected uint8 ({side}, {side}, 3), got {one.dtype} {one.shape}")
        if not len(pixels):
            return np.zeros((0, self.dim), np.float32)
        if self.device != "cuda" and not isinstance(pixels, np.ndarray):
            pixels = np.stack(pixels)  # a GPU's tower gathers them where it copies from
        with self._loading:
            tower = self._image_tower
        rows, limit = run_in_parts(tower, pixels, self.batch_size)
        self._limit = min(limit, self.batch_size)  # another thread may have met a lower one
        return unit_rows(rows)

    def texts(self, texts: Sequence[str]) -> Float32Array:
        """B strings -> (B, dim) unit rows. What a text has beyond the context is not read.

        Raises:
            NoVector: of one of them the model makes nothing.
        """
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(self._text_tower(list(texts)))

    def truncated(self, texts: Sequence[str]) -> list[str | None]:
        """For each text None where it is read whole, else the part of it that is read.

        Models with a vocabulary of `transformers` do not tell, so theirs are all None.
        """
        if self._config.needs_transformers:
            return [None] * len(texts)
        return [self._tokenizer.kept(text) for text in texts]

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that the model never met in training, as far as it tells.

        A model tells by a list beside its weights (`words.py`); of others nothing is known.
        """
        return unknown_words(self.folder, text)

    def _check_files(self) -> None:
        """To be called after reading them: whether that was still the model it was made for.

        Raises:
            ModelError: they were replaced.
        """
        if self.is_outdated:
            raise ModelError(
                f"the files of the model {self.name} were replaced while it was in use",
                hint="run the same command again",
            )

    @cached_property
    def _weights(self) -> WeightsFile:
        return WeightsFile(self._config.weights)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        settings = self._config.text.get("tokenizer_kwargs") or {}
        if set(settings) - {"clean"}:
            raise ModelError(f"{self.folder}: unknown tokenizer settings {sorted(settings)}")
        if int(self._config.text.get("vocab_size", VOCABULARY_SIZE)) < VOCABULARY_SIZE:
            raise ModelError(f"{self.folder}: the vocabulary is not CLIP's")
        return Tokenizer(
            self.context_length,
            clean=settings.get("clean", "lower"),
            cache_folder=self._cache_folder,
        )

    @cached_property
    def _text_in_numpy(self) -> bool:
        return (
            self._asked_device in ("auto", "cpu")
            and not self._config.needs_transformers
            and numpy_text.supports(self._config, self._weights)
        )

    @cached_property
    def _text_tower(self) -> Callable[[list[str]], Float32Array]:
        tower = self._read_text_tower()
        self._check_files()
        return tower

    def _read_text_tower(self) -> Callable[[list[str]], Float32Array]:
        if self._text_in_numpy:
            tower = numpy_text.NumpyTextTower(self._config, self._weights)
            return lambda texts: tower([self._tokenizer.tokens(text) for text in texts])
        from clipsearch.models.runtimes.torch_towers import (
            TorchTextTower,
            set_threads,
            transformers_tokenizer,
        )

        set_threads(self._threads)
        hub_tokenizer = (
            transformers_tokenizer(self._config) if self._config.needs_transformers else None
        )
        precision = "fp32" if self._exact_precision == "int8" else self._exact_precision
        torch_tower = TorchTextTower(self._config, device=self.device, precision=precision)

        def run(texts: list[str]) -> Float32Array:
            if hub_tokenizer is None:
                tokens = self._tokenizer.padded(texts)
            else:
                tokens = hub_tokenizer(texts).numpy()
            return run_in_parts(torch_tower, tokens, self.batch_size)[0]

        return run

    @cached_property
    def _image_tower(self) -> ImageTower:
        try:
            tower = self._read_image_tower()
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise ModelError(
                f"there is not enough memory to load the model {self.name}", hint=_SMALLER
            ) from error
        self._check_files()
        return tower

    def _read_image_tower(self) -> ImageTower:
        refused = ""
        precision = self._exact_precision
        if self.device == "cpu":
            try:
                return self._openvino_tower()
            except ImportError:
                refused = " (OpenVINO is not installed)"
            except _conversion_failed() as error:
                refused = f" (OpenVINO cannot run it: {error})"
        if precision == "int8":
            raise ModelError(
                f"{self.name} cannot run in int8 here{refused}", hint="leave out `--precision`"
            )
        from clipsearch.models.runtimes.torch_towers import TorchImageTower, set_threads

        self._image_words = f"torch{refused}, {self.device}"
        if self.device == "cuda":
            from clipsearch.models.runtimes.cuda_tower import CudaImageTower

            cuda_tower = CudaImageTower(self._config, precision=precision, lanes=_CUDA_BATCHES)
            self._limit = min(cuda_tower.batch_size, self.batch_size)
            return cuda_tower
        set_threads(self._threads)
        torch_tower = TorchImageTower(self._config, device=self.device, precision=precision)
        one_at_a_time = threading.Lock()

        def run(pixels: UInt8Array) -> Float32Array:
            with one_at_a_time:  # torch uses all threads for one batch
                return torch_tower(pixels)

        return run

    def _openvino_tower(self) -> ImageTower:
        """With `auto`, the quickest arithmetic that passed its trial, or the next one on trial."""
        openvino_core.import_openvino()
        self._image_words = "OpenVINO, cpu"
        chosen = self._exact_precision
        if self._asked_precision == "auto":
            # int8 first: it is the quicker one where there are both, and it takes less memory.
            for kind in ("int8", "bf16"):
                if kind not in openvino_core.native_precisions():
                    continue
                key = self._trial_key(kind)
                verdict = trial.read_verdict(self._cache_folder, key)
                if verdict is None:
                    exact, fast = self._compiled(chosen), self._compiled(kind)
                    return trial.Trial(exact, fast, partial(self._decided, kind, key))
                if verdict.passed:
                    chosen = kind
                    break
        self._chosen_precision = chosen
        return self._compiled(chosen)

    def _trial_key(self, precision: str) -> str:
        """What the verdict on a precision is kept under: all that it depends on."""
        if precision == "int8" and not openvino_lite.supports(self._config):
            from clipsearch.models.runtimes import openvino_int8

            precision = openvino_int8.kind()
        return f"{self.fingerprints.image}, {precision}, {openvino_core.processor()}"

    def _decided(self, kind: str, key: str, verdict: trial.Verdict) -> None:
        self._chosen_precision = kind if verdict.passed else self._exact_precision
        trial.keep_verdict(self._cache_folder, key, verdict)

    def _compiled(self, precision: str) -> ImageTower:
        arithmetic = precision
        if not openvino_lite.supports(self._config):
            from clipsearch.models.runtimes.openvino_export import exported_tower

            graph = exported_tower(
                self._config,
                self.fingerprints.image,
                self._cache_folder,
                threads=self._threads,
                check_files=self._check_files,
                int8=precision == "int8",
            )
        elif precision == "int8":
            from clipsearch.models.runtimes import openvino_lite_int8

            graph = openvino_lite_int8.build_graph(self._config, self._weights)
            # For the little that is not in bytes there.
            arithmetic = "bf16" if "bf16" in openvino_core.native_precisions() else "fp32"
        else:
            graph = openvino_lite.build_graph(self._config, self._weights)
        return openvino_core.compile_tower(
            graph, arithmetic, threads=self._threads, batch=_CPU_BATCH
        )


def resolve_device(asked: str) -> str:
    """`auto` to the best device here, without importing torch where there is no sign of a GPU.

    Raises:
        ModelError: the device that was asked for is not here.
    """
    if asked == "cpu" or (asked == "auto" and not _sign_of_gpu()):
        return "cpu"
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next((device for device, available in here.items() if available), "cpu")
    if not here[asked]:
        raise ModelError(
            f"torch finds no {asked} device on this machine",
            hint="leave out `--device`, or install a build of torch for this GPU",
        )
    return asked


def resolve_precision(asked: str, device: str) -> str:
    """`auto` to fp32 on a CPU, and on a GPU to the type it is made for.

    Raises:
        UsageError: fp16 on a CPU, where it was measured to be 12 to 18 times slower than fp32.
    """
    if asked == "fp16" and device == "cpu":
        raise UsageError(
            "fp16 is for GPUs: a CPU would take more than ten times as long as for fp32",
            hint="leave out --precision: `auto` takes what is quickest here",
        )
    if asked != "auto":
        return asked
    if device == "cpu":
        return "fp32"
    import torch

    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp16"


def unit_rows(rows: Float32Array) -> Float32Array:
    """(B, D) -> contiguous float32 rows of length 1.

    Raises:
        NoVector: a row is zero, infinite or no number, as when half precision overflowed.
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise NoVector(
            "the model's vectors are zero or no numbers", hint="try again with `--precision fp32`"
        )
    unit: Float32Array = np.ascontiguousarray(rows / norms, np.float32)
    return unit


def run_in_parts(
    tower: Callable[[Any], Float32Array], batch: Any, limit: int
) -> tuple[Float32Array, int]:
    """Run a batch, an array or a sequence, in parts of at most `limit`; halve them whenever memory
    runs out.

    Returns:
        The rows of the whole batch, and the limit that worked.
    Raises:
        ModelError: one item alone does not fit.
    """
    rows: list[Float32Array] = []
    done = 0
    while done < len(batch):
        try:
            rows.append(tower(batch[done : done + limit]))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            size = min(limit, len(batch) - done)
            if size == 1:
                raise ModelError(
                    "there is not enough memory to run the model on a single item",
                    hint=_SMALLER,
                ) from error
            limit = size // 2
            _free_gpu_memory()
            continue
        done += limit
    return np.concatenate(rows) if len(rows) != 1 else rows[0], limit


def _out_of_memory(error: Exception) -> bool:
    """torch raises OutOfMemoryError for cuda, and a plain RuntimeError for mps and the CPU."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in words for sign in ("out of memory", "can't allocate memory", "bad_alloc")
    )


def _free_gpu_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _conversion_failed() -> type[Exception]:
    from clipsearch.models.runtimes.openvino_export import ConversionError

    return ConversionError


def _sign_of_gpu() -> bool:
    """Whether a GPU could be here. Importing torch to learn that there is none takes seconds."""
    import platform

    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        return (Path("C:/Windows/System32") / "nvcuda.dll").exists()
    return Path("/dev/nvidia0").exists() or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()
