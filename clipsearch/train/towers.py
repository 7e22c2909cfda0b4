"""The model in training: loaded through open_clip, its inputs made on its device, saved again."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import ModelError, StorageError
from clipsearch.models.config import CONFIG_NAME, WEIGHTS_NAME, read_config
from clipsearch.models.encoder import resolve_device
from clipsearch.models.preprocess import Preprocess
from clipsearch.models.torchvision_shim import import_open_clip
from clipsearch.models.words import add_words
from clipsearch.records import Float32Array, UInt8Array
from clipsearch.train.loss import LOGIT_SCALE_FROM_SCRATCH
from clipsearch.train.metrics import IntArray
from clipsearch.train.projection import Trunks, cut_before_projections
from clipsearch.train.taught import add_taught_photos

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

State = dict[str, "Tensor"]

# Not of a tuned model: they describe the base.
_NOT_COPIED = {"fingerprints.json", "origin.json", "training.json", CONFIG_NAME}


@dataclass(slots=True)
class Towers:
    """An open_clip model in float32 with what it needs to be fed and saved.

    Attributes:
        model: `model(images, tokens)` gives unit features, exp(logit_scale) and perhaps logit_bias;
            either input may be None.
        folder: the model directory it came from; None for one trained from scratch.
        stored: how each tensor lies in the base's file, so that a tuned model is no larger.
        trunks: what comes before the projections, once the model was cut there.
    """

    model: Any
    config: Mapping[str, Any]
    preprocess: Preprocess
    tokenizer: Any
    device: torch.device
    folder: Path | None
    stored: Mapping[str, torch.dtype]
    trunks: Trunks | None = None

    @property
    def has_bias(self) -> bool:
        return getattr(self.model, "logit_bias", None) is not None

    def tokenise(self, captions: Sequence[str]) -> tuple[IntArray, Sequence[int]]:
        """(C, L) int64 tokens, and the indices of the captions that do not fit into L."""
        tokens = self.tokenizer(list(captions)).numpy().astype(np.int64)
        length = tokens.shape[1]
        # No text has more tokens than bytes, so short captions need no second look.
        long = [i for i, caption in enumerate(captions) if len(caption.encode()) + 2 > length]
        return tokens, [i for i in long if self._length(captions[i]) > length]

    def _length(self, caption: str) -> int:
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(caption)) + 2
        return len(self.tokenizer.tokenizer(caption)["input_ids"])

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        import torch

        if precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def image_inputs(self, pixels: UInt8Array, boxes: Tensor | None = None) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) normalised float32 on the device.

        Args:
            boxes: (B, 4) float32 crops as centre x, centre y, half width, half height in units of
                half a side; a negative half width mirrors.
        """
        import torch

        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        if boxes is not None:
            x, y, half_width, half_height = boxes.to(self.device).unbind(1)
            zero = torch.zeros_like(x)
            rows = [half_width, zero, x, zero, half_height, y]
            grid = torch.nn.functional.affine_grid(
                torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False
            )
            images = torch.nn.functional.grid_sample(
                images, grid, padding_mode="reflection", align_corners=False
            ).contiguous(memory_format=torch.channels_last)
        mean = torch.tensor(self.preprocess.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.preprocess.std, device=self.device).view(3, 1, 1)
        return images.sub_(mean).div_(std)

    def embed_pixels(self, pixels: UInt8Array, *, batch: int = 32) -> Float32Array:
        """(N, S, S, 3) uint8 -> (N, D) unit float32, without gradients or dropout."""
        return self._on_pixels(partial(self.model.encode_image, normalize=True), pixels, batch)

    def embed_tokens(self, tokens: IntArray, *, batch: int = 256) -> Float32Array:
        """(N, L) tokens -> (N, D) unit float32, without gradients or dropout."""
        return self._on_tokens(partial(self.model.encode_text, normalize=True), tokens, batch)

    def photo_features(self, pixels: UInt8Array, *, batch: int = 32) -> Float32Array:
        """(N, S, S, 3) uint8 -> (N, F) float32: what the image tower's projection takes.

        Raises:
            ModelError: a tower ends without a projection.
        """
        return self._on_pixels(self.cut().photos, pixels, batch)

    def text_features(self, tokens: IntArray, *, batch: int = 256) -> Float32Array:
        """(N, L) tokens -> (N, G) float32: what the text tower's projection takes.

        Raises:
            ModelError: a tower ends without a projection.
        """
        return self._on_tokens(self.cut().texts, tokens, batch)

    def project_photos(self, features: Float32Array) -> Float32Array:
        """(N, F) of `photo_features` -> (N, D) unit float32, by the projection as it is."""
        return self._project(self.model.encode_image, features)

    def project_texts(self, features: Float32Array) -> Float32Array:
        """(N, G) of `text_features` -> (N, D) unit float32, by the projection as it is."""
        return self._project(self.model.encode_text, features)

    def cut(self) -> Trunks:
        """The trunks, before the projections; from then on the model takes their features too.

        Raises:
            ModelError: a tower ends without a projection.
        """
        if self.trunks is None:
            self.trunks = cut_before_projections(self.model)
        return self.trunks

    def _project(self, encode: Callable[..., Tensor], features: Float32Array) -> Float32Array:
        import torch

        with self._evaluating():
            inputs = torch.from_numpy(features).to(self.device)
            return encode(inputs, normalize=True).float().cpu().numpy()

    def _on_pixels(
        self, encode: Callable[[Tensor], Tensor], pixels: UInt8Array, batch: int
    ) -> Float32Array:
        with self._evaluating():
            starts = range(0, len(pixels), batch)
            parts = (np.ascontiguousarray(pixels[i : i + batch]) for i in starts)
            blocks = [encode(self.image_inputs(part)).float().cpu().numpy() for part in parts]
        return np.concatenate(blocks)

    def _on_tokens(
        self, encode: Callable[[Tensor], Tensor], tokens: IntArray, batch: int
    ) -> Float32Array:
        import torch

        # Texts of like length together: a batch takes as long as its longest.
        order = np.argsort((tokens != 0).sum(axis=1), kind="stable")
        with self._evaluating():
            parts = (tokens[order[i : i + batch]] for i in range(0, len(tokens), batch))
            blocks = [
                encode(torch.from_numpy(part).to(self.device)).float().cpu().numpy()
                for part in parts
            ]
        found = np.concatenate(blocks)
        rows = np.empty_like(found)
        rows[order] = found
        return rows

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        import torch

        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if was_training:
                self.training_mode()

    def training_mode(self) -> None:
        """Dropout on; batch normalisation keeps the statistics that the base model came with.

        A few photos say too little about the mean of all photos, and the cached and the second
        pass of GradCache would see unlike batches.
        """
        self.model.train()
        for layer in batch_norms(self.model):
            layer.eval()

    def state(self) -> State:
        """Copies of all weights by open_clip's names, parametrisations (LoRA) merged in."""
        from torch.nn.utils import parametrize

        state = {}
        for name, value in self.model.state_dict().items():
            if ".parametrizations." not in name:
                state[name] = value.detach().clone()
            elif name.endswith(".original"):
                owner, _, weight = name.removesuffix(".original").rpartition(".parametrizations.")
                module = self.model.get_submodule(owner)
                assert parametrize.is_parametrized(module, weight)
                state[f"{owner}.{weight}" if owner else weight] = (
                    getattr(module, weight).detach().clone()
                )
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put these weights in place; any parametrisation is dissolved first."""
        from torch.nn.utils import parametrize

        for module in list(self.model.modules()):
            for weight in list(getattr(module, "parametrizations", ())):
                parametrize.remove_parametrizations(module, weight)
        self.model.load_state_dict(state)


def load_towers(folder: Path, *, device: str = "auto") -> Towers:
    """A model directory as an open_clip model, in float32.

    Raises:
        ModelError: not a model directory, damaged, or trained by another loss too; or there is no
            such device here.
    """
    import torch

    config = read_config(folder)
    if "multimodal_cfg" in config.model:
        raise ModelError(
            f"{folder} was not trained by a contrastive loss alone: it writes captions too (CoCa)",
            hint="choose a CLIP or SigLIP model: `clipsearch models`",
        )
    place = pick_device(device)
    open_clip = import_open_clip()
    try:
        model = open_clip.create_model(f"local-dir:{folder}", precision="fp32")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:  # open_clip raises whatever its parts raise
        raise ModelError(f"{folder} cannot be loaded by open_clip: {error}") from error
    from safetensors import safe_open

    with safe_open(config.weights, "pt") as file:
        dtypes = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
        stored = {
            name: dtypes.get(file.get_slice(name).get_dtype(), torch.float32)
            for name in file.keys()  # noqa: SIM118 (it is no dict)
        }
    content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    return _towers(model, content, config.preprocess, tokenizer, place, folder, stored)


def new_towers(architecture: str, *, device: str = "auto") -> Towers:
    """An untrained model: an architecture of open_clip by name, or a JSON file that describes one.

    Raises:
        ModelError: unknown, or with batch statistics, which GradCache cannot replay.
    """
    open_clip = import_open_clip()
    path = Path(architecture)
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read as a model's configuration: {error}") from None
        config = content.get("model_cfg", content)
        preprocess = content.get("preprocess_cfg", {})
    else:
        config, preprocess = open_clip.get_model_config(architecture), {}
    if config is None or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ModelError(
            f"{architecture} is no architecture of open_clip and no configuration of one",
            hint="`python -c 'import open_clip; print(open_clip.list_models())'` lists them",
        )
    parts = {k: v for k, v in config.items() if k != "custom_text"}
    parts.setdefault("init_logit_scale", LOGIT_SCALE_FROM_SCRATCH)
    custom = config.get("custom_text", False) or "hf_model_name" in config["text_cfg"]
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**parts)
    if batch_norms(model):
        raise ModelError(
            f"{architecture} normalises over the batch, which training in micro-batches would"
            " change; it cannot be trained from scratch here",
            hint="choose an architecture without BatchNorm, such as a ViT",
        )
    tokenizer = open_clip.SimpleTokenizer(
        context_length=config["text_cfg"].get("context_length", 77)
    )
    side = config["vision_cfg"].get("image_size", 224)
    steps = Preprocess.from_config(preprocess, size=side)
    content = {
        "model_cfg": config,
        "preprocess_cfg": {
            **({"source_px": steps.least_source_px} if steps.least_source_px else {}),
            "size": steps.size,
            "mode": "RGB",
            "mean": list(steps.mean),
            "std": list(steps.std),
            "interpolation": steps.interpolation,
            "resize_mode": steps.mode,
            "fill_color": steps.fill_color,
        },
    }
    return _towers(model, content, steps, tokenizer, pick_device(device), None, {})


def _towers(
    model: Any,
    config: Mapping[str, Any],
    preprocess: Preprocess,
    tokenizer: Any,
    device: torch.device,
    folder: Path | None,
    stored: Mapping[str, torch.dtype],
) -> Towers:
    import torch

    read_only_real_tokens(model)
    # Convolutions on a CPU are about twice as fast on channels that lie together (EfficientNet
    # Lite0 at 224, two threads: 5 -> 11 photos/s in training); our uint8 pixels lie so already.
    model = model.to(device, memory_format=torch.channels_last)
    return Towers(model, config, preprocess, tokenizer, device, folder, stored)


def read_only_real_tokens(model: Any) -> None:
    """Make `encode_text` stop at the longest caption of the batch instead of the context's end.

    Exact for CLIP's own text towers: attention is causal and the feature is taken at the end
    token, so nothing after it is ever seen. Captions have some 12 of 77 tokens. Other towers
    (bidirectional, pooled otherwise, of another library) are left as they are.
    """
    import torch

    tower = getattr(model, "text", model)
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
    causal = getattr(tower, "attn_mask", None) is not None
    if pool != "argmax" or not causal or getattr(tower, "cls_emb", None) is not None:
        return

    def encode_text(text: Tensor, normalize: bool = False) -> Tensor:
        ends = text.argmax(dim=-1)  # the end token has the largest number
        length = int(ends.max()) + 1
        x = tower.token_embedding(text[:, :length]) + tower.positional_embedding[:length]
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x)[torch.arange(len(x), device=x.device), ends]
        if tower.text_projection is not None:
            linear = isinstance(tower.text_projection, torch.nn.Linear)
            x = tower.text_projection(x) if linear else x @ tower.text_projection
        return torch.nn.functional.normalize(x, dim=-1) if normalize else x

    model.encode_text = encode_text


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers whose output depends on the rest of the batch while they train."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def pick_device(name: str) -> torch.device:
    """The device of this process; under torchrun each has a GPU of its own.

    Raises:
        ModelError: a device that this machine or this torch does not have.
    """
    import torch

    device = resolve_device(name)
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(device)


def save_model(
    towers: Towers,
    state: Mapping[str, Tensor],
    output: Path,
    *,
    taught: Iterable[str] = (),
    taught_photos: Iterable[bytes] = (),
) -> None:
    """Write a model directory in open_clip's `local-dir:` form.

    The configuration is written last and makes it a model directory, so one that is cut off is
    never taken for whole. Tensors keep the type they have in the base's file.

    Args:
        taught: captions whose words join the base's list of words that it met, if it has one.
        taught_photos: digests that join the base's list of photos that it learned from.
    Raises:
        StorageError: the disk is full or refuses.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().to(towers.stored.get(name, value.dtype)).contiguous()
        for name, value in state.items()
    }
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        if towers.folder is not None:
            for file in towers.folder.iterdir():  # a tokenizer's own files, and the lists
                if file.suffix in (".json", ".txt", ".model") and file.name not in _NOT_COPIED:
                    shutil.copyfile(file, output / file.name)
            add_words(output, taught)
        add_taught_photos(output, taught_photos)
        replace_file(output / WEIGHTS_NAME, lambda path: save_file(tensors, path))
        (output / WEIGHTS_NAME).chmod(0o644)  # safetensors leaves it to its owner alone
        text = json.dumps(towers.config, indent=2) + "\n"
        replace_file(output / CONFIG_NAME, lambda path: path.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Put a whole new file at `path`, or leave the old one untouched."""
    draft = path.with_name(path.name + ".draft")
    try:
        write(draft)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # bytes must be down before a name points at them
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turn a full or failing disk into one plain message."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{place} cannot be written: {getattr(error, 'strerror', None) or error}",
            hint="free some space, or choose another place with `--output`",
        ) from error


def random_boxes(count: int, least_area: float, flip: bool, generator: torch.Generator) -> Tensor:
    """(count, 4) crops of torchvision's RandomResizedCrop for `Towers.image_inputs`.

    Area uniform in least_area..1, aspect ratio log-uniform in 3/4..4/3 as far as the crop stays
    inside the photo, place uniform.
    """
    import torch

    area = torch.empty(count).uniform_(least_area, 1, generator=generator)
    bound = math.log(4 / 3)
    ratio = torch.empty(count).uniform_(-bound, bound, generator=generator).exp()
    ratio = torch.minimum(torch.maximum(ratio, area), 1 / area)  # neither side beyond the photo
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    x = (1 - width) * torch.empty(count).uniform_(-1, 1, generator=generator)
    y = (1 - height) * torch.empty(count).uniform_(-1, 1, generator=generator)
    if flip:
        width = width * (1 - 2 * torch.randint(0, 2, (count,), generator=generator))
    return torch.stack([x, y, width, height], dim=1)
