"""Which weights change, and how fast: all, LoRA, one tower, projection, last blocks, decay."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipsearch.errors import ModelError, UsageError
from clipsearch.train.loss import LOGIT_SCALE_CAP
from clipsearch.train.projection import is_projection
from clipsearch.train.settings import Settings
from clipsearch.train.towers import Towers

if TYPE_CHECKING:
    from torch import nn

# Rates at the end of the warm-up, by what may move. Pre-training rates (5e-4) ruin a tuned model;
# additions of low rank start at nothing and need more, and so do the embeddings of tokens, each of
# which hears only from the captions that use it.
_LEARNING_RATES = {"full": 3e-5, "text": 1e-4, "tokens": 5e-3, "image": 3e-5,
                   "projection": 3e-4, "lora": 1e-3, "scratch": 5e-4}  # fmt: skip
_FEW_PAIRS = 1000

_BLOCK = re.compile(r"\b(?:resblocks|blocks|stages|layers|layer)\.?(\d+)\.")
_STEM = re.compile(
    r"(^|\.)(conv1|bn1|conv_stem|patch_embed|pos_embed|cls_token|class_embedding|ln_pre|norm_pre|"
    r"stem|positional_embedding|token_embedding|embeddings|cls_emb)\b"
)
_TOKENS = re.compile(r"(token_embedding|word_embeddings)\.weight$")


def is_token_embedding(name: str) -> bool:
    """Whether a parameter of this name is the table of token embeddings.

    Trained alone, after textual inversion (Gal et al. 2022): a token that the captions do not use
    gets no gradient, so a sentence without those that they use forgets nothing.
    """
    return _TOKENS.search(name) is not None


# What these methods train of the towers that they train.
_PARTS = {"tokens": is_token_embedding, "projection": is_projection}


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be trained.

    Attributes:
        method: full, lora, text, tokens, image, projection or scratch.
        reason: why this one, in words, where nobody asked for it.
        groups: parameter groups for AdamW; each `lr` is a factor on the schedule's rate.
    """

    method: str
    reason: str
    learning_rate: float
    trains_image: bool
    trains_text: bool
    siglip: bool
    groups: list[dict[str, Any]]

    @property
    def locks_trunks(self) -> bool:
        """Whether of both towers only what comes after the trunks trains."""
        return self.method == "projection"

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group["params"]]


def choose_method(
    settings: Settings, photos: int, device: str, *, scratch: bool
) -> tuple[str, str]:
    """The method to use and the reason for it."""
    if scratch:
        if settings.method not in ("auto", "full"):
            raise UsageError(f"training from scratch cannot be {settings.method}-only")
        return "full", "nothing is trained yet"
    if settings.method != "auto":
        return settings.method, "as asked"
    if not device.startswith("cuda"):
        return "text", (
            "without a GPU the image tower stays locked: its vectors are computed once, "
            "and the library needs no new ones"
        )
    if photos < _FEW_PAIRS:
        return "lora", f"{photos:,} photos are few: small additions forget less than full tuning"
    return "full", f"{photos:,} photos are enough to move all weights"


def prepare(towers: Towers, settings: Settings, photos: int, *, scratch: bool) -> Plan:
    """Lock and unlock the model's parameters, add LoRA, and group them for the optimizer.

    Raises:
        ModelError: a loss that the base model was not made for, or nothing left to train.
    """
    method, reason = choose_method(settings, photos, towers.device.type, scratch=scratch)
    siglip = towers.has_bias if settings.loss == "auto" else settings.loss == "siglip"
    if siglip and not towers.has_bias:
        raise ModelError(
            "this model was trained with InfoNCE: it carries no logit_bias for SigLIP's loss",
            hint="leave out `--loss siglip`, or choose a SigLIP model",
        )
    model = towers.model
    trains_image, trains_text = method not in ("text", "tokens"), method != "image"
    part = _PARTS.get(method)
    depths = layer_depths(model)
    for name, parameter in model.named_parameters():
        tower, depth = depths[name]
        trained = {"image": trains_image, "text": trains_text, "scale": True}[tower]
        if part is not None and tower != "scale":
            trained = trained and part(name)
        if settings.unlock_last is not None and tower != "scale":
            # The output side (depth 0) and the N blocks before it.
            trained = trained and depth <= settings.unlock_last
        parameter.requires_grad_(trained)
    if method == "lora":
        add_lora(model, settings.lora_rank, settings.lora_alpha)
        depths = layer_depths(model)
    if settings.temperature is not None:
        model.logit_scale.data.fill_(math.log(1 / settings.temperature))
        model.logit_scale.requires_grad_(False)
    elif scratch and not siglip:
        model.logit_scale.requires_grad_(True)
    if towers.has_bias and not siglip:
        model.logit_bias.requires_grad_(False)
    if settings.checkpointing:
        model.set_grad_checkpointing(True)

    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tower, depth = depths[name]
            rate = 1.0 if tower == "scale" else settings.layer_decay**depth
            groups.setdefault((_decays(name, parameter), rate), []).append(parameter)
    if not any(p.numel() > 1 for parameters in groups.values() for p in parameters):
        raise ModelError("nothing is left to train with these settings")
    return Plan(
        method="scratch" if scratch else method,
        reason=reason,
        learning_rate=_LEARNING_RATES["scratch" if scratch else method]
        if settings.learning_rate is None
        else settings.learning_rate,
        trains_image=trains_image,
        trains_text=trains_text,
        siglip=siglip,
        groups=[
            {"params": parameters, "factor": rate, "weight_decay": settings.weight_decay * decays}
            for (decays, rate), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
    )


def clamp_scale(model: Any) -> None:
    """Keep exp(logit_scale) in 1..100, after every step (Radford et al. 2021)."""
    model.logit_scale.data.clamp_(0, LOGIT_SCALE_CAP)


def layer_depths(model: nn.Module) -> dict[str, tuple[str, int]]:
    """For each parameter its tower ('image', 'text', 'scale') and its distance from the output.

    0 is what comes after the last block (final norm, projection), 1 the last block, and so on up
    to the stem. Works by the names that open_clip and timm give their parts.
    """
    places: dict[str, tuple[str, float]] = {}
    for name, _ in model.named_parameters():
        plain = name.replace("parametrizations.", "")
        if plain in ("logit_scale", "logit_bias"):
            places[name] = ("scale", 0)
            continue
        block = _BLOCK.search(plain)
        position: float = int(block[1]) if block else -1 if _STEM.search(plain) else math.inf
        places[name] = ("image" if plain.startswith("visual.") else "text", position)
    last = {
        tower: max((p for t, p in places.values() if t == tower and p < math.inf), default=-1)
        for tower in ("image", "text", "scale")
    }
    return {
        name: (tower, 0 if position == math.inf else int(last[tower] - position) + 1)
        for name, (tower, position) in places.items()
    }


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices: not for gains, biases, scales and embeddings of places."""
    return parameter.ndim >= 2 and not re.search(r"embedding|pos_embed|cls_token|logit_", name)


# ---------------------------------------------------------------------------- LoRA


def add_lora(model: nn.Module, rank: int, alpha: float) -> None:
    """Freeze all matrices that train now and give each an addition of low rank instead.

    They are q, k, v, out and the MLP of every attention block, and 1 x 1 convolutions and linear
    maps elsewhere. `torch.nn.utils.parametrize` puts the sum where the weight was, which also
    reaches open_clip's fused `nn.MultiheadAttention`: it reads `in_proj_weight` and
    `out_proj.weight` and never calls a module that wraps them.

    Source: Hu et al. 2021 (LoRA); both towers of CLIP, Zanella and Ben Ayed 2024.
    """
    from torch import nn
    from torch.nn.utils import parametrize

    wanted: list[tuple[nn.Module, str, int]] = []
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            if module.in_proj_weight is not None:
                wanted.append((module, "in_proj_weight", 3))
        elif isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        ):
            wanted.append((module, "weight", 3 if _is_fused_qkv(module) else 1))
    matrices = [item for item in wanted if getattr(item[0], item[1]).requires_grad]
    scale = [p for name, p in model.named_parameters() if name == "logit_scale"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in scale:
        parameter.requires_grad_(True)
    for module, name, parts in matrices:
        weight = getattr(module, name)
        addition = _low_rank()(weight, rank, alpha / rank, parts)
        parametrize.register_parametrization(module, name, addition)


def _is_fused_qkv(module: nn.Module) -> bool:
    return getattr(module, "out_features", 0) == 3 * getattr(module, "in_features", -1)


@functools.cache
def _low_rank() -> Any:
    import torch
    from torch import nn

    class LowRank(nn.Module):
        """W -> W + scale · B A, for each of the `parts` that are stacked in W (q, k and v)."""

        def __init__(self, weight: torch.Tensor, rank: int, scale: float, parts: int) -> None:
            super().__init__()
            outputs, inputs = weight.shape[0] // parts, weight[0].numel()
            rank = min(rank, inputs, outputs)
            # B starts at nothing, so that training starts at the base model.
            self.a = nn.Parameter(weight.new_empty(parts, rank, inputs))
            self.b = nn.Parameter(weight.new_zeros(parts, outputs, rank))
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
            self.scale = scale

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.scale * (self.b @ self.a).reshape(weight.shape)

    return LowRank
