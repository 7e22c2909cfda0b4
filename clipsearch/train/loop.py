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


class TrainingRun:
    """One run: trains until the epochs are over or validation stops getting better.

    Args:
        folder: of the run: `metrics.jsonl` and `state/` go there.
        identity: settings, data and base model; a state is only resumed by a run with the same.
    """

    def __init__(
        self,
        towers: Towers,
        plan: Plan,
        examples: Examples,
        split: Split,
        feed: Feed,
        settings: Settings,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        progress: Callable[[TrainingProgress], None] | None = None,
    ) -> None:
        import torch

        self._towers, self._plan, self._feed, self._settings = towers, plan, feed, settings
        self._examples, self._split = examples, split
        self._folder, self._states, self._identity = folder, folder / "state", identity
        self._progress = progress
        towers.training_mode()
        if settings.compile:
            towers.model.compile()
        self._objective = Objective(plan.siglip, settings.direction)
        self._precision = settings.precision
        if self._precision == "auto":
            self._precision = "bf16" if towers.device.type == "cuda" else "fp32"
        parameters = {n: p for n, p in towers.model.named_parameters() if p.requires_grad}
        self._trainable = Trainable(
            parameters,
            {name: p.detach().clone() for name, p in parameters.items()} if settings.ema else {},
            torch.optim.AdamW(plan.groups, lr=plan.learning_rate, betas=(0.9, 0.98), eps=1e-6),
        )
        anchored = settings.anchor > 0 and plan.trains_text and plan.method != "scratch"
        self._anchor = Anchor(towers, settings) if anchored else None
        counts = (len(self._batches(epoch)) for epoch in range(settings.epochs))
        self._first_step = [0, *accumulate(counts)]  # of each epoch, and one past the last
        self._steps = self._first_step[-1]
        self._state = RunState()
        self._rank, self._world, self._parallel = 0, 1, None
        self._saved = 0.0

    @property
    def _leads(self) -> bool:
        return self._rank == 0

    def _batches(self, epoch: int) -> list[Batch]:
        settings = self._settings
        return epoch_batches(
            self._examples, self._split.train, settings.batch_size, epoch, settings.seed
        )

    def _micro_batch(self) -> int:
        """How many pairs can go through a tower at a time."""
        # Captions that are drawn in turn may all be the same in one epoch, which has no batch then.
        epochs = range(self._settings.epochs)
        batch = next(batch for epoch in epochs for batch in self._batches(epoch))
        share = max(1, len(batch.photos) // self._world)
        inputs = self._feed.inputs(batch, 0)
        memory = _memory(self._towers.device)
        return min(share, pairs_that_fit(self._towers, inputs, self._precision, memory))

    def train(self, *, resume: bool = False) -> Trained:
        """All epochs that are left, or as many as validation asks for.

        Args:
            resume: go on from the last state, if there is one.
        Raises:
            ClipsearchError: the loss or a gradient is no number any more; the last state is good.
            TrainingDataError: not one batch can be made.
            UsageError: resuming what was begun with other settings, data or base model.
            StorageError: the disk is full.
        """
        self._begin(resume=resume)
        settings, state = self._settings, self._state
        stopped = f"all {settings.epochs} epochs done"
        began = self._saved = time.monotonic()
        earlier = state.seconds
        for epoch in range(state.epoch, settings.epochs):
            if state.stale >= settings.patience:
                stopped = f"validation recall did not rise for {settings.patience} epochs"
                break
            for step, batch in enumerate(self._batches(epoch), start=self._first_step[epoch]):
                if step < state.step:  # done before the run was interrupted
                    continue
                clock = time.monotonic()
                figures = self._step(step, batch)
                now = time.monotonic()
                state.step, state.seconds = step + 1, earlier + now - began
                if self._leads:
                    self._tell(epoch, figures | {"pairs_per_s": len(batch.photos) / (now - clock)})
                    if (
                        now - self._saved > _STATE_EVERY_S
                        and step + 1 < self._first_step[epoch + 1]
                    ):
                        self._save()
            state.epoch = epoch + 1
            if self._leads:
                self._validate(epoch)
            state.stale = _from_leader(state.stale, self._world)
        if self._leads:
            self._log.close()
            self._trainable.load_parameters(self._states / BEST)
        weights = self._towers.state()
        memory = peak_memory(self._towers.device)
        return Trained(weights, state, self._steps, stopped, memory)

    def _begin(self, *, resume: bool) -> None:
        """Load the last state if there is one to go on from, and make ready for the first step."""
        if not self._steps:
            raise TrainingDataError(
                "in no epoch do two photos have unlike captions: there is nothing to tell apart",
                hint="captions should say what makes each photo different, or train more "
                "`--epochs`",
            )
        if resume and (self._states / LAST).exists():
            self._state = self._trainable.load(self._states / LAST, self._identity)
        towers = self._towers
        self._rank, self._world, self._parallel = _processes(towers.model, towers.device)
        if self._leads:
            with storage_errors(self._states):
                self._states.mkdir(parents=True, exist_ok=True)
            self._log = MetricsLog(self._folder, self._state.step)
        state = self._state
        state.micro_batch = state.micro_batch or self._settings.micro_batch or self._micro_batch()

    def _step(self, step: int, batch: Batch) -> dict[str, float]:
        """One step of the optimizer; its figures.

        Raises:
            ClipsearchError: the loss or a gradient is no number.
        """
        import torch

        settings, trainable = self._settings, self._trainable
        torch.manual_seed(_step_seed(settings.seed, step) + self._rank)
        rate = learning_rate(step, self._steps, settings.warmup, self._plan.learning_rate)
        for group in trainable.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        trainable.optimizer.zero_grad(set_to_none=True)
        if self._anchor is not None:
            self._anchor.backward(step, self._precision, self._parallel)
        loss = backward(
            self._towers,
            self._feed.inputs(batch, step, self._rank, self._world),
            self._objective,
            micro_batch=self._state.micro_batch,
            precision=self._precision,
            parallel=self._parallel,
        )
        parameters = trainable.parameters
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            if self._leads:
                self._save()  # this step changed nothing yet
            raise ClipsearchError(
                f"the loss is no number any more at step {step + 1} of {self._steps}; "
                f"the last good state is {self._states / LAST}",
                hint="begin again with a lower `--learning-rate`",
            )
        trainable.optimizer.step()
        clamp_scale(self._towers.model)
        for name, value in trainable.average.items():
            value.lerp_(parameters[name].detach(), 1 - settings.ema)
        return {"loss": loss, "learning_rate": rate, "gradient_norm": norm}

    def _tell(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Log a step that was done, and show it."""
        state = self._state
        shown = TrainingProgress(
            step=state.step,
            steps=self._steps,
            epoch=epoch + 1,
            loss=figures["loss"],
            recall=state.recall,
            temperature=math.exp(-float(self._towers.model.logit_scale.detach())),
            pairs_per_s=figures["pairs_per_s"],
            seconds_left=state.seconds / state.step * (self._steps - state.step),
            memory_bytes=peak_memory(self._towers.device),
        )
        more = {"temperature": shown.temperature, "memory_bytes": shown.memory_bytes}
        self._log.write("step", state.step, {**figures, **more})
        if self._progress:
            self._progress(shown)

    def _validate(self, epoch: int) -> None:
        """After an epoch: how good the model is, whether that is the best, and a state to keep."""
        state = self._state
        with self._trainable.averaged():
            metrics = self._feed.vectors(self._split.validation).retrieval()
            state.recall = mean_recall(metrics)
            score = mean_reciprocal_rank(metrics)
            rose = state.recall > state.best_recall or score > state.best
            state.stale = 0 if rose else state.stale + 1
            state.best_recall = max(state.recall, state.best_recall)
            if score > state.best:
                state.best, state.best_epoch = score, epoch + 1
                self._trainable.save_parameters(self._states / BEST)
        found = {"epoch": epoch + 1, "mean_recall": state.recall, **metrics.as_dict()}
        self._log.write("epoch", state.step, found)
        self._save()

    def _save(self) -> None:
        self._trainable.save(self._states / LAST, self._state, self._identity)
        self._saved = time.monotonic()


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
