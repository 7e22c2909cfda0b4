"""Both kinds of towers as a GPU trains them whole, and the optimiser that takes the steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.pocket.heads import FEATURES, TextHead, unit
from benchmarks.pocket.student import TextTower, cosine_schedule
from benchmarks.pocket.views import as_they_are
from clipsearch.models.torchvision_shim import import_torchvision

_SIDES = {0: 224, 1: 240, 2: 260}
_WITHOUT_GRADIENT = 512  # rows at once


class ImageTower(nn.Module):
    """A trunk and a linear map into the joint space: (B, 3, 260, 260) in -1..1 -> (B, D - 1)."""

    def __init__(self, lite: int, dim: int, dropout: float) -> None:
        import_torchvision()  # timm imports it, which may need the workaround
        import timm

        super().__init__()
        self.trunk = timm.create_model(f"tf_efficientnet_lite{lite}", num_classes=0)
        self.side_px = _SIDES[lite]
        self.layout = torch.channels_last
        self.dropout = nn.Dropout(dropout)
        self.map = nn.Linear(FEATURES, dim)

    def pooled(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-1] != self.side_px:
            pixels = functional.interpolate(pixels, self.side_px, mode="bicubic", antialias=True)
        pixels = pixels.contiguous(memory_format=self.layout)
        with _fast(pixels):
            features: Tensor = self.trunk(pixels)
        return features.float()

    def forward(self, pixels: Tensor) -> Tensor:
        return unit(self.map(self.dropout(self.pooled(pixels))))

    def trainable(self) -> list[nn.Parameter]:
        """Convolutions. Batch norms stay as ImageNet left them."""
        modules = (m for m in self.trunk.modules() if isinstance(m, nn.Conv2d))
        return [p for m in modules for p in m.parameters()]

    def begin(self) -> None:
        """Ready to be trained: dropout, but batch norms as they are."""
        self.requires_grad_(False)
        for parameter in [*self.trainable(), *self.map.parameters()]:
            parameter.requires_grad_(True)
        self.eval()
        self.dropout.train()


class SentenceTower(nn.Module):
    """The sentence encoder and a head: (B, M) tokens -> (B, D - 1) unit rows."""

    def __init__(self, encoder: nn.Module, head: TextHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def encode(self, tokens: Tensor) -> Tensor:
        tokens = tokens[:, : int((tokens > 0).sum(1).max())].long()
        mask = (tokens > 0).long()
        with _fast(tokens):
            hidden = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask[..., None].float()
        return unit((hidden.float() * weights).sum(1) / weights.sum(1))

    def forward(self, tokens: Tensor) -> Tensor:
        return unit(self.head(self.encode(tokens)))


class Average:
    """Moving averages of some weights (Polyak and Juditsky 1992)."""

    def __init__(self, weights: Iterable[nn.Parameter], keep: float = 0.99) -> None:
        self._weights, self._keep, self._step = list(weights), keep, 0
        self._means = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        self._step += 1
        keep = min(self._keep, self._step / (self._step + 9))
        torch._foreach_lerp_(self._means, [w.detach() for w in self._weights], 1 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """The averages in place of the weights, or back."""
        for weight, mean in zip(self._weights, self._means, strict=True):
            now = weight.clone()
            weight.copy_(mean)
            mean.copy_(now)


class Optimizer:
    """AdamW with a warm-up and a cosine, and the average of what it trains.

    Args:
        steps, seconds: it is done after so many, whichever comes first.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        steps: int,
        *,
        seconds: float = math.inf,
        keep: float = 0.99,
    ) -> None:
        self._adam = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
        self._peaks = [group["lr"] for group in self._adam.param_groups]
        self._steps, self._seconds = steps, seconds
        self._began = time.perf_counter()
        self._weights = [p for group in groups for p in group["params"]]
        self._reported = 0.0
        self.taken = 0
        self.average = Average(self._weights, keep)

    @property
    def done(self) -> float:
        """The share of the way that lies behind: 1 at the end."""
        passed = (time.perf_counter() - self._began) / self._seconds
        return min(1.0, max(self.taken / self._steps, passed))

    def step(self) -> None:
        """After the backward pass."""
        rate = cosine_schedule(int(1000 * self.done), 1000, warmup=80)
        for group, peak in zip(self._adam.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate
        nn.utils.clip_grad_norm_(self._weights, 5.0)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.average.update()
        self.taken += 1

    def due(self, share: float) -> bool:
        """Whether another such share of the way lies behind, or the end was reached."""
        if self.done < 1 and self.done < self._reported + share:
            return False
        self._reported = self.done
        return True


def embed_tokens(tower: TextTower, tokens: Tensor) -> Tensor:
    """(B, L) tokens, padded with 0 -> (B, D) unit rows."""
    lengths = (tokens > 0).sum(1)
    tokens = tokens[:, : int(lengths.max())].long()
    with _fast(tokens):
        rows = tower(tower.token_embedding(tokens), lengths - 1)
    return unit(rows.float())


@torch.no_grad()
def see(tower: Callable[[Tensor], Tensor], photos: Tensor) -> Tensor:
    """(N, D - 1): photos as they are, through a tower."""
    parts = photos.split(_WITHOUT_GRADIENT)
    return torch.cat([tower(as_they_are(part)) for part in parts])


@torch.no_grad()
def say(tower: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """(..., L) tokens -> (..., D) rows of a text tower."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    order = (flat > 0).sum(1).argsort(stable=True)
    rows = torch.cat([tower(flat[part]) for part in order.split(4096)])
    back = torch.empty_like(rows)
    back[order] = rows
    return back.view(*tokens.shape[:-1], -1)


def _fast(like: Tensor) -> torch.autocast:
    """bfloat16, where that is the faster one."""
    return torch.autocast(like.device.type, torch.bfloat16, enabled=like.is_cuda)


@torch.no_grad()
def settle_norms(trunk: nn.Module, batches: Iterable[Tensor]) -> None:
    """Let every batch norm remember what comes through now; the tower computes what it did.

    Convolutions were trained in front of norms that stayed as they were, so these no longer tell
    mean and variance, which 8-bit ranges are taken from (`openvino_lite_int8`).
    """
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = {norm: [0.0, 0.0, 0] for norm in norms}

    def count(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        signal = inputs[0].double()
        tally = sums[norm]
        tally[0] += signal.sum((0, 2, 3))
        tally[1] += signal.square().sum((0, 2, 3))
        tally[2] += signal.shape[0] * signal.shape[2] * signal.shape[3]

    hooks = [norm.register_forward_pre_hook(count) for norm in norms]
    for batch in batches:
        trunk(batch)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        total, squares, number = sums[norm]
        mean = total / number
        variance = squares / number - mean.square()
        old = (norm.running_var.double() + norm.eps).sqrt()
        new = (variance + norm.eps).sqrt()
        gain, bias = norm.weight.double(), norm.bias.double()
        norm.bias.copy_(bias + gain * (mean - norm.running_mean.double()) / old)
        norm.weight.copy_(gain * new / old)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
