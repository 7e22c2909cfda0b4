"""Towers run by torch: every architecture that open_clip builds, on any device.

Only the tower that is asked for is built and read: the other one of the pair is replaced by a toy
before open_clip makes the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import ModelError
from clipsearch.models.config import ModelConfig
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.records import Float32Array, UInt8Array

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

_TOY_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
_TOY_VISION = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1}

NEEDS_TRANSFORMERS = "install the extra that reads them: `pip install 'clipsearch[multilingual]'`"


def image_module(config: ModelConfig, precision: str = "fp32") -> torch.nn.Module:
    """(B, S, S, 3) uint8 -> (B, dim), with the normalisation of pixels inside. On the CPU.

    Pixels are normalised in fp32 in any precision: the mean and deviation of the training photos
    rounded to bf16 would shift every one of them.

    Raises:
        ModelError: open_clip cannot build the tower, or the weights do not fit it.
    """
    import torch

    class PixelTower(torch.nn.Module):
        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self, visual: torch.nn.Module) -> None:
            super().__init__()
            self.visual = visual
            std = 255 * torch.tensor(config.preprocess.std, dtype=torch.float64)
            mean = torch.tensor(config.preprocess.mean, dtype=torch.float64)
            self.register_buffer("scale", (1 / std).float().view(1, 3, 1, 1))
            self.register_buffer("shift", (-255 * mean / std).float().view(1, 3, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = pixels.permute(0, 3, 1, 2).to(self.scale.dtype)
            features: torch.Tensor = self.visual((x * self.scale + self.shift).to(dtype))
            return features

    dtype = torch_dtype(precision)

    model = _build(config, {"vision_cfg": dict(config.vision), "text_cfg": _TOY_TEXT})
    _load(model, config, wanted=lambda name: name.startswith("visual."))
    return PixelTower(model.visual.to(dtype)).eval()


def text_module(config: ModelConfig) -> torch.nn.Module:
    """The whole model with a toy for its image tower: `encode_text` takes (B, L) int64.

    Raises:
        ModelError: as `image_module`; or the model needs the `transformers` package.
    """
    text = dict(config.text)
    if text.get("hf_model_name"):
        _require_transformers(config)
        text |= {"hf_model_name": str(config.folder), "hf_model_pretrained": False}
    model = _build(config, {"vision_cfg": _TOY_VISION, "text_cfg": text})
    _load(model, config, wanted=lambda name: not name.startswith("visual."))
    module: torch.nn.Module = model.eval()
    return module


def transformers_tokenizer(config: ModelConfig) -> Callable[[list[str]], Any]:
    """open_clip's tokenizer for a model whose vocabulary comes from `transformers`.

    Raises:
        ModelError: the package is missing, or the tokenizer's files are.
    """
    _require_transformers(config)
    open_clip = import_open_clip()
    try:
        with _offline():
            tokenizer: Callable[[list[str]], Any] = open_clip.get_tokenizer(
                f"local-dir:{config.folder}"
            )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{config.folder}: the tokenizer cannot be loaded: {error}",
            hint="its files belong beside the weights: `clipsearch models pull` puts them there",
        ) from error
    return tokenizer


class TorchImageTower:
    """(B, S, S, 3) uint8 -> (B, dim) float32 rows, not yet unit length; one thread at a time."""

    def __init__(self, config: ModelConfig, *, device: str, precision: str) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._module: Any = image_module(config, precision).to(device)

    def __call__(self, pixels: UInt8Array) -> Float32Array:
        # One photo alone may come as it was read, which torch warns of: nobody may write there.
        whole = np.require(pixels, requirements=("C", "W"))
        batch = self._torch.from_numpy(whole).to(self._device)
        with self._torch.inference_mode():
            rows: Float32Array = self._module(batch).float().cpu().numpy()
        return rows


class TorchTextTower:
    """Padded token ids (B, L) int64 -> (B, dim) float32 rows, not yet unit length."""

    def __init__(self, config: ModelConfig, *, device: str, precision: str) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._module: Any = text_module(config).to(device, torch_dtype(precision))

    def __call__(self, tokens: np.ndarray[Any, np.dtype[np.int64]]) -> Float32Array:
        ids = self._torch.from_numpy(tokens).to(self._device)
        with self._torch.inference_mode():
            rows: Float32Array = self._module.encode_text(ids).float().cpu().numpy()
        return rows


def set_threads(threads: int | None) -> None:
    """How many threads torch uses on the CPU, in this whole process; None leaves it alone."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def torch_dtype(precision: str) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _build(config: ModelConfig, towers: dict[str, Any]) -> Any:
    open_clip = import_open_clip()
    if "multimodal_cfg" in config.model:
        raise ModelError(
            f"{config.folder}: CoCa models are not supported",
            hint="choose a CLIP or SigLIP model: see `clipsearch models`",
        )
    # Whichever tower is a toy, the class must be the one whose tensor names the weights use.
    custom = config.model.get("custom_text") or config.text.get("hf_model_name")
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    skipped = {"vision_cfg", "text_cfg", "custom_text"}
    settings = {key: value for key, value in config.model.items() if key not in skipped}
    vision = {**towers["vision_cfg"]}
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False  # never fetch weights that are replaced anyway
    try:
        with _offline():
            return kind(**settings, vision_cfg=vision, text_cfg=dict(towers["text_cfg"]))
    except (TypeError, ValueError, RuntimeError, AssertionError, OSError) as error:
        raise ModelError(
            f"{config.folder}: open_clip cannot build this model: {error}",
            hint="it may need a newer open_clip_torch or timm",
        ) from error


def _load(model: Any, config: ModelConfig, *, wanted: Callable[[str], bool]) -> None:
    from open_clip.model import convert_to_custom_text_state_dict
    from safetensors import safe_open

    with safe_open(config.weights, framework="pt") as file:
        names: Sequence[str] = [name for name in file.keys() if wanted(name)]  # noqa: SIM118
        state = {name: file.get_tensor(name).float() for name in names}
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    if "logit_scale" in state:
        state["logit_scale"] = state["logit_scale"].reshape(model.logit_scale.shape)
    needed = {name for name in model.state_dict() if wanted(name)}
    missing = {name for name in needed - state.keys() if not name.endswith("num_batches_tracked")}
    surplus = state.keys() - needed
    if missing or surplus:
        raise ModelError(
            f"{config.weights} does not fit its configuration: "
            f"{len(missing)} tensors are missing, {len(surplus)} too many "
            f"(first: {min(missing or surplus)})",
        )
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"{config.weights} does not fit its configuration: {error}",
        ) from error


def _require_transformers(config: ModelConfig) -> None:
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise ModelError(
            f"{config.folder.name} reads words through the transformers package, "
            "which is not installed",
            hint=NEEDS_TRANSFORMERS,
        )


@contextmanager
def _offline() -> Iterator[None]:
    """Keep hub clients from looking for what is not in the model's directory."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm and open_clip announce their own renamings
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
