"""Everything a training run can be told, in one place; `training.json` keeps it with the result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from clipsearch.errors import UsageError
from clipsearch.train.loss import Direction

Method = Literal["auto", "full", "lora", "text", "tokens", "image", "projection"]
Loss = Literal["auto", "infonce", "siglip"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train.

    Attributes:
        method: what may change. `text` and `image` train one tower and lock the other,
            `tokens` the embeddings of the captions' tokens alone, `projection` the last maps of
            both towers, `lora` low-rank additions to both, `full` everything; `auto` chooses and
            says why.
        unlock_last: of the trained towers only the last N blocks, and what comes after them.
        layer_decay: factor on the learning rate for each block further from the output; 1 is off.
        lora_rank, lora_alpha: rank of the additions, and their scale alpha / rank.
        loss: `auto` is SigLIP's for a model with a logit_bias and InfoNCE for any other.
        direction: one way of InfoNCE alone, for study.
        temperature: fixes the softmax temperature; None: learned, from the base model's.
        batch_size: photos that compete in the loss, over all processes.
        micro_batch: photos that go through a tower at once, on each process; None: as many as
            memory takes.
        epochs: passes over the training photos, each with one of its captions in turn.
        learning_rate: at the end of the warm-up; None: the method's own (methods.py).
        warmup: share of the steps with a rising learning rate; then half a cosine down to zero.
        anchor: weight of holding general sentences where the base model has them (loop.Anchor).
        clip_norm: cap on the norm of all gradients together.
        ema: decay of an average of the weights, which is then what is validated and kept; 0 off.
        patience: epochs without better validation recall or reciprocal rank before the run stops.
        crop: least share of a photo's area that a random crop keeps; 1 is off.
        flip: mirror photos at random; refused when captions speak of sides or of writing.
        precision: bf16 is autocast with float32 weights and logits; `auto`: bf16 on CUDA.
        compile, checkpointing: torch.compile; recompute activations, for memory.
        validation, test: shares of the photos, or numbers of them when 1 or more, that choose and
            that only report.
        wise_ft: keep the best mixture of base and tuned weights instead of the tuned ones.
        guard_points: how many points of recall on the guard pairs a mixture may lose.
        strict: an error instead of a summary when pairs are left out.
    """

    method: Method = "auto"
    unlock_last: int | None = None
    layer_decay: float = 1.0
    lora_rank: int = 8
    lora_alpha: float = 8.0
    loss: Loss = "auto"
    direction: Direction = "both"
    temperature: float | None = None
    batch_size: int = 256
    micro_batch: int | None = None
    epochs: int = 20
    learning_rate: float | None = None
    weight_decay: float = 0.1
    warmup: float = 0.1
    anchor: float = 100.0
    clip_norm: float = 1.0
    ema: float = 0.0
    patience: int = 5
    crop: float = 0.9
    flip: bool = False
    precision: Precision = "auto"
    compile: bool = False
    checkpointing: bool = False
    validation: float = 0.1
    test: float = 0.2
    wise_ft: bool = True
    guard_points: float = 1.0
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("method", Method),
            ("loss", Loss),
            ("direction", Direction),
            ("precision", Precision),
        ):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(
                    f"no such {name}: {getattr(self, name)!r}",
                    hint=f"one of {', '.join(get_args(kind))}",
                )
        bounds: dict[str, tuple[float, float]] = {
            "unlock_last": (1, math.inf),
            "layer_decay": (1e-3, 1),
            "lora_rank": (1, 4096),
            "lora_alpha": (1e-6, math.inf),
            "temperature": (0.01, 1),  # what clamp_scale leaves
            "batch_size": (2, math.inf),
            "micro_batch": (1, math.inf),
            "epochs": (1, math.inf),
            "learning_rate": (0, math.inf),
            "weight_decay": (0, math.inf),
            "warmup": (0, 1),
            "anchor": (0, math.inf),
            "clip_norm": (1e-12, math.inf),
            "ema": (0, 0.99999),
            "patience": (1, math.inf),
            "crop": (0.05, 1),
            "validation": (0, math.inf),
            "test": (0, math.inf),
            "guard_points": (0, 100),
            "seed": (0, 2**63 - 1),  # what torch and numpy take
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                reach = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                hint = (
                    "with a batch of one no photo has a wrong caption to be told from"
                    if name == "batch_size"
                    else None
                )
                option = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{option} must be {reach}, not {value:g}",
                    hint=hint or f"`clipsearch finetune --help` says what {option} means",
                )
        if self.validation == 0 or self.test == 0:
            raise UsageError(
                "validation and test photos are needed: without them nobody knows if it helped",
                hint="give --validation and --test a share of the photos, such as 0.1",
            )
        if self.unlock_last is not None and self.method in ("projection", "tokens"):
            raise UsageError(
                f"--method {self.method} trains no blocks, so --unlock-last says nothing",
                hint="leave one of the two out",
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
