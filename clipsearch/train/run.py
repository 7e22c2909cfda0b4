"""A whole fine-tuning run, in reading order: model, data, base, training, mixture, report."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipsearch.errors import SkippedPhoto, TrainingDataError, UsageError, count
from clipsearch.locking import LockHeld, take_lock
from clipsearch.models.config import CONFIG_NAME
from clipsearch.models.fingerprints import fingerprints
from clipsearch.models.sources import find_model
from clipsearch.paths import expanded
from clipsearch.train.curves import draw_curves
from clipsearch.train.inputs import (
    Examples,
    Split,
    load_examples,
    read_picture,
    refuse_flips_of_sides,
    split_photos,
)
from clipsearch.train.loop import Feed, TrainingProgress, TrainingRun
from clipsearch.train.methods import prepare
from clipsearch.train.metrics import IntArray, mean_recall, mean_reciprocal_rank
from clipsearch.train.pairs import TEXT_UNREADABLE, Pairs, carried_pairs, read_pairs
from clipsearch.train.prompts import GENERAL_PROMPTS
from clipsearch.train.report import (
    Comparison,
    Drift,
    TrainingReport,
    Vectors,
    judge,
    measure_drift,
    points_lost,
    standard_error,
)
from clipsearch.train.settings import Settings
from clipsearch.train.states import LAST, read_metrics
from clipsearch.train.taught import taught_photos
from clipsearch.train.towers import (
    State,
    Towers,
    load_towers,
    new_towers,
    replace_file,
    save_model,
    storage_errors,
)

if TYPE_CHECKING:
    from clipsearch.records import Float32Array, UInt8Array

_ALPHAS = tuple(step / 10 for step in range(11))
_DRIFT_PHOTOS = 500


def finetune(
    pairs: Path | str | None,
    *,
    output: Path | str,
    model: str | Path = "pocket",
    settings: Settings | None = None,
    guard: Path | str | None = None,
    photos_folder: Path | str | None = None,
    library_photos: Iterable[Path] = (),
    from_scratch: str | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    say: Callable[[str], None] | None = None,
    warn: Callable[[str, str | None], None] | None = None,
) -> TrainingReport | None:
    """Train a model on photo-caption pairs, and report whether it became better, and at what cost.

    Args:
        pairs: in any form of `pairs.py`; None: the captions that the `library_photos` carry.
        output: the run's folder; afterwards also the tuned model's directory.
        model: the base model: a name or a directory.
        guard: general pairs of which little may be forgotten. One half of them helps to choose
            the mixture of weights, the other half is reported.
        photos_folder: what relative paths in `pairs` are relative to; default: its own folder.
        library_photos: the library's photos, on which drift is measured without labels; asked for
            once, when they are needed.
        from_scratch: an architecture or a JSON file of one, to train without a base model.
        resume: go on with the run in `output`.
        progress: called after each step. say: called with lines of talk.
        warn: called with what is not as it should be, and what to do about it.
    Returns:
        The report; None in all processes but the first, under torchrun.
    Raises:
        TrainingDataError: the pairs cannot be trained on.
        ModelError: the base model cannot be trained, or there is no such device.
        UsageError: `output` is taken, perhaps by a run that goes on now, or is resumed with
            other words.
        StorageError: the disk is full.
    """
    settings = settings or Settings()
    output = expanded(output)
    _check_output(output, resume)
    if pairs is None:
        library_photos = list(library_photos)
        described = carried_pairs(library_photos)
    else:
        described = read_pairs(pairs, photos_folder=photos_folder)
    general = None if guard is None else read_pairs(guard)

    import torch  # after what needs no seconds to fail

    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)

    with _process_group(device) as leader, ExitStack() as held:
        talk = _Talk(say, warn) if leader else _Talk(None, None)
        # Model.
        folder = None if from_scratch else find_model(model)
        if from_scratch:
            towers = new_towers(from_scratch, device=device)
        else:
            assert folder is not None
            towers = load_towers(folder, device=device)
        base_state = towers.state()

        # Data.
        examples, split = _load_pairs(described, towers, settings, talk)
        if folder is not None:
            _warn_of_taught(folder, examples, split, talk)
        guarded = None if general is None else _load_guard(general, towers, guard)
        if guarded is not None:
            _warn_of_learned(guarded, examples, split, talk)
        album = _album(library_photos, towers) if leader else None

        # What the base model can do.
        plan = prepare(towers, settings, len(split.train), scratch=from_scratch is not None)
        talk.say(f"method {plan.method}: {plan.reason}")
        feed = Feed(towers, plan, examples, settings)
        trial = None
        if leader:
            guard_set = _GuardSet.of(guarded, towers, plan, settings) if guarded else None
            trial = _Trial.begin(towers, feed, split, guard_set, album)

        # Training.
        if leader:
            held.enter_context(_run_lock(output))
            _check_output(output, resume)  # another run may have finished meanwhile
        identity = {
            "base": from_scratch or asdict(fingerprints(folder)),  # type: ignore[arg-type]
            "data": examples.digest,
            **settings.as_dict(),
        }
        run = TrainingRun(
            towers,
            plan,
            examples,
            split,
            feed,
            settings,
            output,
            identity=identity,
            progress=progress,
        )
        trained = run.train(resume=resume)
        if trial is None:
            return None

        # Mixture of base and tuned weights.
        alpha = 1.0
        tried: dict[str, dict[str, float]] = {}
        if settings.wise_ft and not from_scratch:
            talk.say("looking for the best mixture of base and tuned weights")
            alpha, tried = _best_alpha(trial, base_state, trained.weights, settings.guard_points)
        final = mixture(base_state, trained.weights, alpha)
        _keep_model(towers, final, output, examples, split, has_learned=alpha > 0)

        # Report.
        outcome = trial.outcome(alpha, settings.guard_points)
        report = TrainingReport(
            output=output,
            base=from_scratch or str(model),
            method=plan.method,
            reason=plan.reason,
            photos={name: len(rows) for name, rows in split._asdict().items()},
            summary=examples.summary(),
            test=outcome.test,
            guard=outcome.guard,
            drift=outcome.drift,
            alpha=alpha,
            keeps_image_vectors=folder is not None
            and fingerprints(folder).image == fingerprints(output).image,
            promoted=outcome.promoted,
            verdict=outcome.verdict,
            steps=trained.state.step,
            stopped=trained.stopped,
            seconds=trained.state.seconds,
            peak_bytes=trained.peak_bytes,
        )
        record = {
            **report.as_dict(),
            "identity": identity,
            "learning_rate": plan.learning_rate,
            "micro_batch": trained.state.micro_batch,
            "best_epoch": trained.state.best_epoch,
            "alphas": tried,
            "device": str(towers.device),
            "versions": _versions(),
        }
        text = json.dumps(record, indent=2) + "\n"
        with storage_errors(output):
            replace_file(output / "training.json", lambda path: path.write_text(text))
        draw_curves(read_metrics(output), output / "curves.png")
        return report


def mixture(base: Mapping[str, Any], tuned: Mapping[str, Any], alpha: float) -> State:
    """(1 - alpha) x base + alpha x tuned, weight by weight (Wortsman et al. 2022, WiSE-FT)."""
    return {
        name: value.lerp(tuned[name], alpha) if value.is_floating_point() else tuned[name]
        for name, value in base.items()
    }


class _Talk:
    """What is said to the user; nothing where nobody listens."""

    def __init__(
        self,
        say: Callable[[str], None] | None,
        warn: Callable[[str, str | None], None] | None,
    ) -> None:
        self.say = say or (lambda text: None)
        self.warn = warn or (lambda text, hint: None)


class _GuardSet(NamedTuple):
    """General pairs in two halves: one chooses the mixture, the other is reported."""

    feed: Feed
    choosing: IntArray
    reporting: IntArray
    base_choosing: Vectors
    base_reporting: Vectors

    @classmethod
    def of(cls, examples: Examples, towers: Towers, plan: Any, settings: Settings) -> _GuardSet:
        feed = Feed(towers, plan, examples, settings)
        order = np.random.default_rng([settings.seed, 5]).permutation(len(examples))
        half = len(order) // 2
        choosing, reporting = np.sort(order[:half]), np.sort(order[half:])
        return cls(feed, choosing, reporting, feed.vectors(choosing), feed.vectors(reporting))

    def points_lost(self) -> tuple[float, float]:
        """On the choosing half, by the weights as they are; and the standard error of that.

        Of recall@10 over photos: what this half lost by chance less, the other may lose more.
        """
        base, tuned = self.base_choosing, self.feed.vectors(self.choosing)
        error = 100 * standard_error(base.hits() - tuned.hits())
        return points_lost(base.retrieval(), tuned.retrieval()), error

    def comparison(self) -> Comparison:
        """On the other half."""
        return Comparison.of(self.base_reporting, self.feed.vectors(self.reporting))


Drifting = tuple["Float32Array", "Float32Array"]  # vectors of the library's photos, of prompts


class _Outcome(NamedTuple):
    """What the tuned model is worth beside its base."""

    test: Comparison
    guard: Comparison | None
    drift: Drift | None
    promoted: bool
    verdict: str


class _Trial(NamedTuple):
    """What the base model can do, to be set beside what the same towers can do afterwards."""

    towers: Towers
    feed: Feed
    split: Split
    base_test: Vectors
    guard: _GuardSet | None
    album: UInt8Array | None
    base_drift: Drifting | None

    @classmethod
    def begin(
        cls,
        towers: Towers,
        feed: Feed,
        split: Split,
        guard: _GuardSet | None,
        album: UInt8Array | None,
    ) -> _Trial:
        drift = None if album is None else _drift_vectors(towers, album)
        return cls(towers, feed, split, feed.vectors(split.test), guard, album, drift)

    def outcome(self, alpha: float, guard_points: float) -> _Outcome:
        """By the weights as they are now, which hold `alpha` of the tuned ones."""
        test = Comparison.of(self.base_test, self.feed.vectors(self.split.test))
        guard = self.guard.comparison() if self.guard else None
        drift = None
        if self.base_drift is not None and self.album is not None:
            photos, prompts = zip(
                self.base_drift, _drift_vectors(self.towers, self.album), strict=True
            )
            drift = measure_drift(photos, prompts)
        return _Outcome(test, guard, drift, *judge(test, guard, alpha, guard_points))


def _best_alpha(
    trial: _Trial, base: State, tuned: State, allowed: float
) -> tuple[float, dict[str, dict[str, float]]]:
    """The mixture that validates best among those that lose at most `allowed` guard points.

    One standard error of the loss counts as lost: it is measured on half of the guard photos.
    """
    tried: dict[str, dict[str, float]] = {}
    scores: dict[float, float] = {}
    for alpha in _ALPHAS:
        trial.towers.load(mixture(base, tuned, alpha))
        metrics = trial.feed.vectors(trial.split.validation).retrieval()
        scores[alpha] = mean_reciprocal_rank(metrics)
        tried[f"{alpha:g}"] = {
            "mean_reciprocal_rank": scores[alpha],
            "mean_recall": mean_recall(metrics),
        }
    # Best first, and of equals the nearer to the base; guard pairs are many, so lazily.
    for alpha in sorted(scores, key=lambda alpha: (-scores[alpha], alpha)):
        if trial.guard is None or alpha == 0:
            return alpha, tried
        trial.towers.load(mixture(base, tuned, alpha))
        lost, error = trial.guard.points_lost()
        tried[f"{alpha:g}"] |= {"guard_points_lost": lost, "guard_error": error}
        if lost + error <= allowed:
            return alpha, tried
    raise AssertionError("alpha 0 is always allowed")


def _keep_model(
    towers: Towers,
    weights: State,
    output: Path,
    examples: Examples,
    split: Split,
    *,
    has_learned: bool,
) -> None:
    """Write the model, and leave the towers as it was written: rounded as it lies in its file."""
    rows, _ = examples.captions_of(split.train)
    taught = [examples.captions[row] for row in rows] if has_learned else []
    # Photos that chose the mixture have had their say too: only the test photos have not.
    shown = [*split.train, *split.validation] if has_learned else []
    digests = [examples.photo_digests[row] for row in shown]
    save_model(towers, weights, output, taught=taught, taught_photos=digests)
    towers.load({n: v.to(towers.stored.get(n, v.dtype)).to(v.dtype) for n, v in weights.items()})


def _load_pairs(
    described: Pairs, towers: Towers, settings: Settings, talk: _Talk
) -> tuple[Examples, Split]:
    examples = _load(described, towers, settings.strict)
    talk.say(examples.summary())
    unread = [item.what for item in described.left_out if item.reason == TEXT_UNREADABLE]
    if unread:
        talk.warn(
            f"the captions of {len(unread):,} photos cannot be read, the first: "
            f"{Path(unread[0]).with_suffix('.txt')}",
            "make these files readable to you and begin again",
        )
    if settings.flip:
        refuse_flips_of_sides(examples)
    split = split_photos(
        examples, validation=settings.validation, test=settings.test, seed=settings.seed
    )
    return examples, split


def _warn_of_taught(folder: Path, examples: Examples, split: Split, talk: _Talk) -> None:
    """Say so where the base model was tuned with photos that are to judge it."""
    known = taught_photos(folder)
    told = sum(examples.photo_digests[row] in known for row in split.test)
    if told:
        talk.warn(
            f"the base model was taught with {told:,} of the {len(split.test):,} photos that"
            " judge: its figures flatter it, and a gain may not show",
            "name with `--model` the model that it was tuned from, to learn all pairs at once",
        )


def _warn_of_learned(guarded: Examples, examples: Examples, split: Split, talk: _Talk) -> None:
    """Say so where photos are to show what is forgotten, and are learned from as well."""
    learned = {examples.photo_digests[row] for row in split.train}
    shared = len(learned.intersection(guarded.photo_digests))
    if shared:
        talk.warn(
            f"{shared:,} of the {count(len(guarded), 'guard photo')} are learned from as well, and"
            " cannot show what is forgotten",
            "leave them out of the guard's pairs",
        )


def _load_guard(general: Pairs, towers: Towers, guard: Path | str | None) -> Examples:
    guarded = _load(general, towers, strict=False)
    if len(guarded) < 2:
        raise TrainingDataError(
            f"{guard} has one photo only: half of the guard photos choose and half judge",
            hint="bring two guard photos at least; a thousand tell more",
        )
    return guarded


def _load(pairs: Pairs, towers: Towers, strict: bool) -> Examples:
    return load_examples(pairs, towers.preprocess, towers.tokenise, strict=strict)


def _check_output(output: Path, resume: bool) -> None:
    finished = output / "training.json"
    if finished.exists():
        hint = "choose another place with `--output`"
        if _was_promoted(finished):
            hint = f"put its model to work with `clipsearch index --model {output}`, or {hint}"
            raise UsageError(f"{output} holds a finished run", hint=hint)
        raise UsageError(f"{output} holds a finished run, which did not help", hint=hint)
    if (output / "state" / LAST).exists() and not resume:
        raise UsageError(
            f"{output} holds a run that was not finished",
            hint="go on with it (`--resume`), or choose another place with `--output`",
        )
    if (output / CONFIG_NAME).exists() and not (output / "state").exists():
        raise UsageError(
            f"{output} is a model directory", hint="choose another place with `--output`"
        )
    with storage_errors(output):  # now, and not after all photos were read
        there = next(folder for folder in (output, *output.parents) if folder.exists())
        tempfile.TemporaryFile(dir=there).close()


def _was_promoted(record: Path) -> bool:
    """Whether the model of a finished run should take the base's place, by its own record."""
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["promoted"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _run_lock(output: Path) -> Iterator[None]:
    """Hold the right to write into the run's folder, which is made if need be."""
    try:
        with storage_errors(output):
            output.mkdir(parents=True, exist_ok=True)
            descriptor = take_lock(output / "lock")
    except LockHeld as holder:
        raise UsageError(
            f"another run is writing to {output} ({holder})",
            hint="wait until it has finished, or choose another place with `--output`",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _process_group(device: str) -> Iterator[bool]:
    """Under torchrun, join the other processes; true in the one that reports."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        yield torch.distributed.get_rank() == 0  # the caller's own group
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from clipsearch.models.encoder import resolve_device

    cuda = resolve_device(device) == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield torch.distributed.get_rank() == 0
    finally:
        torch.distributed.destroy_process_group()


def _album(photos: Iterable[Path], towers: Towers) -> UInt8Array | None:
    """Pixels of up to 500 photos of the library, spread evenly over it; None without any."""
    paths = list(photos)
    step = max(1, len(paths) / _DRIFT_PHOTOS)
    pixels = []
    for path in [paths[int(n * step)] for n in range(min(len(paths), _DRIFT_PHOTOS))]:
        try:
            _, image, _ = read_picture(path, towers.preprocess.source_px)
        except SkippedPhoto:  # `index` has told of it
            continue
        pixels.append(towers.preprocess.pixels(image))
    return np.stack(pixels) if pixels else None


def _drift_vectors(towers: Towers, album: UInt8Array) -> Drifting:
    tokens, _ = towers.tokenise(GENERAL_PROMPTS)
    return towers.embed_pixels(album), towers.embed_tokens(tokens)


def _versions() -> dict[str, str]:
    names = ("clipsearch", "torch", "open_clip_torch", "timm", "numpy", "pillow", "safetensors")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
