"""The training loop: batches, schedule, steps, validation, and states to go on from.

Everything random in a step is drawn from (seed, step), so a run that was killed and resumed from
its last state repeats what the unbroken run did.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.errors import ClipsearchError, TrainingDataError
from clipsearch.records import Float32Array
from clipsearch.train.gradcache import Inputs, Objective, backward, pairs_that_fit
from clipsearch.train.inputs import Batch, Examples, Split, epoch_batches
from clipsearch.train.methods import Plan, clamp_scale
from clipsearch.train.metrics import IntArray, mean_recall, mean_reciprocal_rank
from clipsearch.train.prompts import GENERAL_SENTENCES
from clipsearch.train.report import Vectors
from clipsearch.train.settings import Settings
from clipsearch.train.states import BEST, LAST, MetricsLog, RunState, Trainable
from clipsearch.train.towers import State, Towers, random_boxes, storage_errors

if TYPE_CHECKING:
    import torch
    from torch import nn

_STATE_EVERY_S = 120.0
_ANCHORS, _ANCHORS_A_STEP = 2048, 128


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where a run stands, for whoever draws it.

    Attributes:
        recall: mean recall on the validation photos, 0..1, after the last whole epoch.
        memory_bytes: peak, of the GPU where there is one, else of the process.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    recall: float | None
    temperature: float
    pairs_per_s: float
    seconds_left: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What the loop ends with.

    Attributes:
        weights: the best by validation, all of the model, LoRA merged.
    """

    weights: State
    state: RunState
    steps: int
    stopped: str
    peak_bytes: int


class Feed:
    """Turns a batch of rows into what the towers take.

    A locked tower's vectors are made once, and so are locked trunks' features.
    """

    def __init__(self, towers: Towers, plan: Plan, examples: Examples, settings: Settings) -> None:
        import torch

        self._towers, self._examples, self._settings = towers, examples, settings
        self.image_vectors: Float32Array | None = None
        self.text_vectors: Float32Array | None = None
        self.image_features: Float32Array | None = None
        self.text_features: Float32Array | None = None
        if plan.locks_trunks:
            self.image_features = towers.photo_features(examples.pixels)
            self.text_features = towers.text_features(examples.tokens)
        if not plan.trains_image:
            self.image_vectors = towers.embed_pixels(examples.pixels)
        if not plan.trains_text:
            self.text_vectors = towers.embed_tokens(examples.tokens)
        self._tokens = torch.from_numpy(examples.tokens)

    def inputs(self, batch: Batch, step: int, rank: int = 0, world: int = 1) -> Inputs:
        """This process' part of a batch; crops are drawn for the whole of it."""
        import torch

        settings, device = self._settings, self._towers.device
        count = len(batch.photos) // world
        own = slice(rank * count, (rank + 1) * count)
        photos, captions = batch.photos[own], batch.captions[own]
        boxes = None
        photos_made = self.image_vectors is not None or self.image_features is not None
        if not photos_made and (settings.crop < 1 or settings.flip):
            generator = torch.Generator().manual_seed(_step_seed(settings.seed, step))
            boxes = random_boxes(len(batch.photos), settings.crop, settings.flip, generator)[own]

        def on_device(array: np.ndarray[Any, Any]) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        def of(array: Float32Array | None, rows: IntArray) -> torch.Tensor | None:
            return None if array is None else on_device(array[rows])

        texts_made = self.text_vectors is not None or self.text_features is not None
        return Inputs(
            photos=on_device(photos),
            captions=on_device(self._examples.caption_ids[captions]),
            labels=on_device(self._examples.labels[photos]),
            pixels=None if photos_made else self._examples.pixels[photos],
            image_features=of(self.image_features, photos),
            boxes=boxes,
            tokens=None if texts_made else self._tokens[captions].to(device),
            text_features=of(self.text_features, captions),
            image_vectors=of(self.image_vectors, photos),
            text_vectors=of(self.text_vectors, captions),
        )

    def vectors(self, photos: IntArray) -> Vectors:
        """These photos and all their captions, by the weights as they are."""
        captions, owners = self._examples.captions_of(photos)
        if self.image_vectors is not None:
            images = self.image_vectors[photos]
        elif self.image_features is not None:
            images = self._towers.project_photos(self.image_features[photos])
        else:
            images = self._towers.embed_pixels(self._examples.pixels[photos])
        if self.text_vectors is not None:
            texts = self.text_vectors[captions]
        elif self.text_features is not None:
            texts = self._towers.project_texts(self.text_features[captions])
        else:
            texts = self._towers.embed_tokens(self._examples.tokens[captions])
        return Vectors(images, texts, owners, self._examples.caption_ids[captions])


class Anchor:
    """Holds general sentences where the base model put them, while the pairs move others.

    A few of them go through the text tower in each step; their loss is `settings.anchor` times
    the mean of 1 - cosine with the base model's vector (after Li and Hoiem 2016, 'Learning without
    forgetting'). Narrow pairs would otherwise carry all words along: nothing else says what a
    sentence that they never use should mean.
    """

    def __init__(self, towers: Towers, settings: Settings) -> None:
        self._towers, self._settings = towers, settings
        generator = np.random.default_rng([settings.seed, 6])
        chosen = generator.choice(len(GENERAL_SENTENCES), _ANCHORS, replace=False)
        self._tokens, _ = towers.tokenise([GENERAL_SENTENCES[row] for row in chosen])
        self._wanted = towers.embed_tokens(self._tokens)

    def backward(self, step: int, precision: str, parallel: Any) -> None:
        """Add the gradient of a few sentences' loss; the same ones in every process."""
        import torch

        seed = [self._settings.seed, 7, step]
        rows = np.random.default_rng(seed).choice(_ANCHORS, _ANCHORS_A_STEP, replace=False)
        tokens, wanted = (
            torch.from_numpy(part[rows]).to(self._towers.device)
            for part in (self._tokens, self._wanted)
        )
        # Averaged over processes together with the pairs' gradient, which comes after it.
        with nullcontext() if parallel is None else parallel.no_sync():
            with self._towers.autocast(precision):
                found = self._towers.model.encode_text(tokens, normalize=True)
            loss = (1 - (found.float() * wanted).sum(dim=1)).mean() * self._settings.anchor
            loss.backward()


def learning_rate(step: int, steps: int, warmup: float, peak: float) -> float:
    """Linear up to `peak` over the first `warmup` share of the steps, then half a cosine to 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def train(
    towers: Towers,
    plan: Plan,
    examples: Examples,
    split: Split,
    feed: Feed,
    settings: Settings,
    folder: Path,
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Trained:
    """Train until the epochs are over or validation stops getting better.

    Args:
        folder: of the run: `metrics.jsonl` and `state/` go there.
        identity: settings, data and base model; a state is only resumed by a run with the same.
        resume: go on from the last state, if there is one.
    Raises:
        ClipsearchError: the loss or a gradient is no number any more; the last state is good.
        TrainingDataError: not one batch can be made.
        UsageError: resuming what was begun with other settings, data or base model.
        StorageError: the disk is full.
    """
    import torch

    model, device = towers.model, towers.device
    towers.training_mode()
    if settings.compile:
        model.compile()
    objective = Objective(plan.siglip, settings.direction)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    run = Trainable(
        parameters,
        {name: p.detach().clone() for name, p in parameters.items()} if settings.ema else {},
        torch.optim.AdamW(plan.groups, lr=plan.learning_rate, betas=(0.9, 0.98), eps=1e-6),
    )

    def batches_of(epoch: int) -> list[Batch]:
        return epoch_batches(examples, split.train, settings.batch_size, epoch, settings.seed)

    anchored = settings.anchor > 0 and plan.trains_text and plan.method != "scratch"
    anchor = Anchor(towers, settings) if anchored else None
    first_step = [0, *accumulate(len(batches_of(epoch)) for epoch in range(settings.epochs))]
    steps = first_step[-1]
    if not steps:
        raise TrainingDataError(
            "in no epoch do two photos have unlike captions: there is nothing to tell apart",
            hint="captions should say what makes each photo different, or train more `--epochs`",
        )
    states, state = folder / "state", RunState()
    if resume and (states / LAST).exists():
        state = run.load(states / LAST, identity)
    rank, world, parallel = _processes(model, device)
    leader = rank == 0
    if leader:
        with storage_errors(states):
            states.mkdir(parents=True, exist_ok=True)
        log = MetricsLog(folder, state.step)
    if not state.micro_batch:
        # Captions that are drawn in turn may all be the same in one epoch, which has no batch then.
        batch = next(batch for epoch in range(settings.epochs) for batch in batches_of(epoch))
        share = max(1, len(batch.photos) // world)
        state.micro_batch = settings.micro_batch or min(
            share, pairs_that_fit(towers, feed.inputs(batch, 0), precision, _memory(device))
        )

    began = saved = time.monotonic()
    earlier = state.seconds
    stopped = f"all {settings.epochs} epochs done"
    for epoch in range(state.epoch, settings.epochs):
        if state.stale >= settings.patience:
            stopped = f"validation recall did not rise for {settings.patience} epochs"
            break
        for step, batch in enumerate(batches_of(epoch), start=first_step[epoch]):
            if step < state.step:  # done before the run was interrupted
                continue
            clock = time.monotonic()
            torch.manual_seed(_step_seed(settings.seed, step) + rank)
            rate = learning_rate(step, steps, settings.warmup, plan.learning_rate)
            for group in run.optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            run.optimizer.zero_grad(set_to_none=True)
            if anchor is not None:
                anchor.backward(step, precision, parallel)
            loss = backward(
                towers,
                feed.inputs(batch, step, rank, world),
                objective,
                micro_batch=state.micro_batch,
                precision=precision,
                parallel=parallel,
            )
            norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm))
            if not (math.isfinite(loss) and math.isfinite(norm)):
                if leader:
                    run.save(states / LAST, state, identity)  # this step changed nothing yet
                raise ClipsearchError(
                    f"the loss is no number any more at step {step + 1} of {steps}; "
                    f"the last good state is {states / LAST}",
                    hint="begin again with a lower `--learning-rate`",
                )
            run.optimizer.step()
            clamp_scale(model)
            for name, value in run.average.items():
                value.lerp_(parameters[name].detach(), 1 - settings.ema)

            now = time.monotonic()
            state.step, state.seconds = step + 1, earlier + now - began
            if leader:
                shown = TrainingProgress(
                    step=state.step,
                    steps=steps,
                    epoch=epoch + 1,
                    loss=loss,
                    recall=state.recall,
                    temperature=math.exp(-float(model.logit_scale.detach())),
                    pairs_per_s=len(batch.photos) / (now - clock),
                    seconds_left=state.seconds / state.step * (steps - state.step),
                    memory_bytes=peak_memory(device),
                )
                log.write(
                    "step",
                    state.step,
                    {
                        "loss": loss,
                        "learning_rate": rate,
                        "gradient_norm": norm,
                        "temperature": shown.temperature,
                        "pairs_per_s": shown.pairs_per_s,
                        "memory_bytes": shown.memory_bytes,
                    },
                )
                if progress:
                    progress(shown)
                if now - saved > _STATE_EVERY_S and state.step < first_step[epoch + 1]:
                    run.save(states / LAST, state, identity)
                    saved = now

        state.epoch = epoch + 1
        if leader:
            with run.averaged():
                metrics = feed.vectors(split.validation).retrieval()
                state.recall = mean_recall(metrics)
                score = mean_reciprocal_rank(metrics)
                rose = state.recall > state.best_recall or score > state.best
                state.stale = 0 if rose else state.stale + 1
                state.best_recall = max(state.recall, state.best_recall)
                if score > state.best:
                    state.best, state.best_epoch = score, epoch + 1
                    run.save_parameters(states / BEST)
            log.write(
                "epoch",
                state.step,
                {"epoch": epoch + 1, "mean_recall": state.recall, **metrics.as_dict()},
            )
            run.save(states / LAST, state, identity)
            saved = time.monotonic()
        state.stale = _from_leader(state.stale, world)

    if leader:
        log.close()
        run.load_parameters(states / BEST)
    return Trained(towers.state(), state, steps, stopped, peak_memory(device))


def _step_seed(seed: int, step: int) -> int:
    """Its own random numbers for each step of each run."""
    return int(np.random.SeedSequence([seed, 4, step]).generate_state(1)[0])


def _processes(model: nn.Module, device: torch.device) -> tuple[int, int, Any]:
    """(rank, how many, the model in DistributedDataParallel); (0, 1, None) for one process."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1, None
    from torch.nn.parallel import DistributedDataParallel

    places = [device.index] if device.type == "cuda" else None
    parallel = DistributedDataParallel(model, device_ids=places, broadcast_buffers=False)
    return torch.distributed.get_rank(), torch.distributed.get_world_size(), parallel


def _from_leader(value: int, world: int) -> int:
    """What the first process says, which alone validates."""
    import torch

    if world == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def _memory(device: torch.device) -> int:
    """Bytes that training may use: what is free on a GPU; half of this machine's otherwise.

    Not what happens to be free on the machine: the number of pairs that go through a tower at a
    time decides the order of sums, and the same run should give the same weights tomorrow.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows
        return 4 << 30


def peak_memory(device: torch.device) -> int:
    """The most bytes used so far: by the GPU, else by this process; 0 where nobody counts."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
