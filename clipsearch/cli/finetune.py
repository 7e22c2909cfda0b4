"""`clipsearch finetune`: teach a model one's own photos, and see whether it helped."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsearch.cli import given
from clipsearch.cli.index import show_report
from clipsearch.cli.output import duration, note, progress_display, table, warning, write_json
from clipsearch.cli.settings import settings
from clipsearch.errors import UsageError
from clipsearch.paths import absolute

if TYPE_CHECKING:
    from clipsearch.train import TrainingProgress

EXAMPLES = """
Examples:

\b
  clipsearch finetune pairs.csv
  clipsearch finetune pairs.csv --apply              and put it to work if it is better
  clipsearch finetune                                the captions that the library's photos carry
  clipsearch finetune pairs.csv --method lora --output runs/garden --guard coco.json
  clipsearch finetune 'shards/{000..063}.tar' --from-scratch ViT-B-32 --batch-size 4096
  torchrun --nproc-per-node 8 -m clipsearch finetune 'shards/{000..063}.tar' --method full
"""


class Format(StrEnum):
    """How the report is printed."""

    table = "table"
    json = "json"


def finetune(
    pairs: Annotated[
        str | None,
        typer.Argument(
            metavar="PAIRS",
            parser=given.name,
            help="CSV or TSV (filepath,caption), JSON lines, COCO captions JSON, a folder with "
            ".txt files, WebDataset tars. None: what the library's photos say of themselves.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            parser=given.name,
            help="The base model. Default: the library's, else pocket.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=given.path,
            help="The run's folder. Default: runs/ and PAIRS' name.",
        ),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            metavar="PAIRS",
            parser=given.name,
            help="General pairs of which little may be forgotten.",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=given.path, help="What paths in PAIRS are relative to."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="If it is better, embed the library with it.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            metavar="auto|text|tokens|image|projection|lora|full",
            help="What may change: the text tower, its embeddings of single words alone (new names "
            "for the least forgotten), the image tower, the last map of both (takes seconds), "
            "small additions, everything.",
        ),
    ] = "auto",
    unlock_last: Annotated[
        int | None, typer.Option(metavar="N", help="Only the last N blocks of a trained tower.")
    ] = None,
    layer_decay: Annotated[
        float, typer.Option(metavar="F", help="Rate factor for each block further down.")
    ] = 1.0,
    lora_rank: Annotated[int, typer.Option(metavar="R", help="Rank of LoRA's additions.")] = 8,
    lora_alpha: Annotated[float, typer.Option(metavar="A", help="Their scale is A / R.")] = 8.0,
    from_scratch: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH|FILE",
            parser=given.name,
            help="Train an open_clip architecture without a base.",
        ),
    ] = None,
    loss: Annotated[
        str, typer.Option(metavar="auto|infonce|siglip", help="Default: the base model's own.")
    ] = "auto",
    direction: Annotated[
        str,
        typer.Option(
            metavar="both|image_to_text|text_to_image", help="One way of InfoNCE, for study."
        ),
    ] = "both",
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Fix the temperature. Default: learned.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Photos that compete in the loss.")
    ] = 256,
    micro_batch: Annotated[
        int | None, typer.Option(metavar="N", help="Photos at once in memory. Default: measured.")
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the photos.")] = 20,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="F", help="Default: the method's own.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(metavar="F", help="AdamW's.")] = 0.1,
    warmup: Annotated[float, typer.Option(metavar="F", help="Share of steps.")] = 0.1,
    anchor: Annotated[
        float, typer.Option(metavar="F", help="How firmly general sentences stay in place; 0: not.")
    ] = 100.0,
    ema: Annotated[
        float, typer.Option(metavar="F", help="Decay of an average of the weights; 0: none.")
    ] = 0.0,
    patience: Annotated[
        int, typer.Option(metavar="N", help="Epochs without better recall before it stops.")
    ] = 5,
    crop: Annotated[
        float, typer.Option(metavar="F", help="Least share of a photo in a crop; 1: no crops.")
    ] = 0.9,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror photos at random.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory for more time.")
    ] = False,
    validation: Annotated[
        float, typer.Option(metavar="N", help="Photos that choose: a share, or a number.")
    ] = 0.1,
    test: Annotated[
        float, typer.Option(metavar="N", help="Photos that only judge: a share, or a number.")
    ] = 0.2,
    wise_ft: Annotated[
        bool,
        typer.Option(
            "--wise-ft/--no-wise-ft", help="Keep the best mixture of base and tuned weights."
        ),
    ] = True,
    guard_points: Annotated[
        float, typer.Option(metavar="P", help="Points that the guard pairs may lose.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Of splits, order and crops.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop if any pair has to be left out.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --apply: wait while another is writing.")
    ] = False,
    format: Annotated[
        Format | None, typer.Option(metavar="table|json", help="How the report is printed.")
    ] = None,
) -> None:
    """Train on photo-caption pairs, report base against tuned, and keep the better model."""
    from clipsearch.library import training

    if settings.precision in ("fp16", "int8"):
        raise UsageError(f"training knows no --precision {settings.precision}", hint="bf16 or fp32")
    options: dict[str, Any] = {
        "method": method, "unlock_last": unlock_last, "layer_decay": layer_decay,
        "lora_rank": lora_rank, "lora_alpha": lora_alpha, "loss": loss, "direction": direction,
        "temperature": temperature, "batch_size": batch_size, "micro_batch": micro_batch,
        "epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay,
        "warmup": warmup, "anchor": anchor, "ema": ema, "patience": patience, "crop": crop,
        "flip": flip,
        "precision": settings.precision, "compile": compile, "checkpointing": checkpointing,
        "validation": validation, "test": test, "wise_ft": wise_ft, "guard_points": guard_points,
        "strict": strict, "seed": seed,
    }  # fmt: skip
    output = output or _default_output(pairs)
    if from_scratch is not None and model is not None:
        raise UsageError(
            "--from-scratch trains without a base model, so --model says nothing",
            hint="leave one of the two out",
        )
    if resume and not training.can_be_resumed(output):
        raise UsageError(
            f"there is no run to go on with in {output}",
            hint="leave out --resume to begin one, or say with --output where it is",
        )
    with settings.open_library(create=True) as library:
        with _training_display() as show, _resumable(output):
            report = training.finetune(
                library,
                pairs,
                output=output,
                model=model,
                options=options,
                device=settings.device,
                threads=settings.threads,
                guard=guard,
                photos_folder=photos,
                from_scratch=from_scratch,
                resume=resume,
                progress=show,
                say=note,
                warn=warning,
            )
        if report is None:  # a further process under torchrun
            return
        if format is Format.json:
            write_json(report.as_dict())
        else:
            headings = ("figure", "base", "tuned", "change")
            table(report.rows(), headings=headings, always_headed=True)
        for line in report.notes():
            note(line)
        if not report.promoted:
            note(f"the base model stays in use; {report.output} keeps the figures of this run")
        elif apply:
            settings.after_interruption = (
                f"the tuned model is kept; `clipsearch index --model {report.output}` goes on there"
            )
            with progress_display() as show_index:
                indexed = training.apply(library, report, wait=wait, progress=show_index)
            show_report(indexed)
            if indexed.model == str(report.output.absolute()):
                note(f"the library is searched with {report.output} now")
        else:
            note(f"put it to work with `clipsearch index --model {report.output}`")


def _default_output(pairs: str | None) -> Path:
    if pairs is None:
        return Path("runs/library")
    # "." has a name of its own too, and the numbers of shards are no part of theirs.
    place = Path(absolute(re.sub(r"\{[^{}]*\}", "", pairs)))
    names = [name.split(".")[0].strip("-_") for name in (place.name, place.parent.name)]
    return Path("runs") / next(filter(None, names), "pairs")


@contextmanager
def _resumable(output: Path) -> Iterator[None]:
    """If this is broken off, say how to go on: as soon as there is a state to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        from clipsearch.library.training import can_be_resumed

        if can_be_resumed(output):
            settings.after_interruption = "the same command goes on there with `--resume`"
        raise


@contextmanager
def _training_display() -> Iterator[Callable[[TrainingProgress], None] | None]:
    """One line that is drawn again on a terminal; elsewhere a line an epoch."""
    if settings.quiet:
        yield None
        return
    live = sys.stderr.isatty()
    epoch = 0

    def show(step: TrainingProgress) -> None:
        nonlocal epoch
        if live:
            sys.stderr.write(f"\r\x1b[K{_line(step)}")
            sys.stderr.flush()
        elif step.epoch > epoch:
            note(_line(step))
        epoch = step.epoch

    try:
        yield show
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")


def _line(step: TrainingProgress) -> str:
    recall = "" if step.recall is None else f"  recall {100 * step.recall:.1f} %"
    return (
        f"step {step.step:,}/{step.steps:,}  epoch {step.epoch}  loss {step.loss:.3f}{recall}  "
        f"temperature {step.temperature:.4f}  {step.pairs_per_s:,.0f} pairs/s  "
        f"{duration(step.seconds_left)} left  {step.memory_bytes / 1e9:.1f} GB"
    )
