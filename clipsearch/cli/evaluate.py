"""`clipsearch evaluate`: how good a model finds and names photos, in numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clipsearch.cli import given
from clipsearch.cli.finetune import Format
from clipsearch.cli.output import note, table, warning, write_json
from clipsearch.cli.settings import settings
from clipsearch.errors import UsageError

EXAMPLES = """
Examples:

\b
  clipsearch evaluate pairs.csv
  clipsearch evaluate pairs.csv --model pocket --model runs/garden
  clipsearch evaluate --classes pets/ --per-class    pets/cat/*.jpg, pets/dog/*.jpg, ...
  clipsearch evaluate --probe pets/ --format json
  clipsearch evaluate --index                        the search index against exact search
"""


def evaluate(
    pairs: Annotated[
        str | None,
        typer.Argument(
            metavar="PAIRS", parser=given.name, help="Photo-caption pairs to find each other."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="M",
            parser=given.name,
            help="Default: the library's model. Repeatable: several are computed in fp32, if no "
            "--precision says otherwise.",
        ),
    ] = None,
    captions: Annotated[
        str,
        typer.Option(
            metavar="all|first", help="Each photo's captions that take part in the retrieval."
        ),
    ] = "all",
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=given.path,
            help="What paths in PAIRS or a table of LABELLED are relative to.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="LABELLED",
            parser=given.name,
            help="Name photos by words: class folders, or a CSV.",
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="With --classes: a line for each class.")
    ] = False,
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="LABELLED",
            parser=given.name,
            help="Linear and few-shot probes on image vectors.",
        ),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Recall of the library's index against exact search.")
    ] = False,
    format: Annotated[
        Format | None, typer.Option(metavar="table|json", help="How the figures are printed.")
    ] = None,
) -> None:
    """Measure models: retrieval, classification by words, probes; and the search index."""
    from clipsearch.library import training

    if not (pairs or classes or probe or index):
        raise UsageError(
            "nothing to evaluate",
            hint="name PAIRS, or give --classes, --probe or --index: `clipsearch evaluate --help`",
        )
    with settings.open_library(create=True) as library:
        with _counting() as show:
            figures = training.evaluate(
                library,
                models=model or (),
                pairs=pairs,
                classes=classes,
                probe=probe,
                captions=captions,
                photos_folder=photos,
                device=settings.device,
                precision=settings.precision,
                threads=settings.threads,
                progress=show,
            )
        recall = training.index_recall(library) if index else None
    for item in figures:
        if item.left_out:
            what, why = item.left_out[0]
            warning(f"{item.model}: {len(item.left_out):,} left out, the first: {what}: {why}")
    taught = [(item.model, item.taught_photos, item.photos) for item in figures]
    for name, number, of in dict.fromkeys(taught):
        if number:
            warning(
                f"{name} was taught with {number:,} of these {of:,} photos: its figures here say"
                " little",
                "finetune's own report was measured on photos that taught and chose nothing",
            )
    if format is Format.json:
        found: dict[str, Any] = {"figures": [item.as_dict() for item in figures]}
        if index:
            found["index_recall_at_10"] = recall
        write_json(found)
        return
    rows = [
        (item.model, what, figure)
        for item in figures
        for what, figure in item.rows(per_class=per_class)
    ]
    if index:
        if recall is None:
            note("there is no index: every vector is compared, so nothing is missed")
        rows += [
            ("index", f"recall@10, {kind} queries", f"{100 * value:.1f} %")
            for kind, value in (recall or {}).items()
        ]
    if rows:
        names = dict.fromkeys(name for name, _, _ in rows)
        table(_side_by_side(rows), headings=("figure", *names), always_headed=True)
    for basis in dict.fromkeys(item.basis() for item in figures):
        note(basis)


def _side_by_side(rows: list[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """A line for each figure, a column for each model."""
    names = list(dict.fromkeys(name for name, _, _ in rows))
    figures = {(name, what): figure for name, what, figure in rows}
    return [
        (what, *(figures.get((name, what), "") for name in names))
        for what in dict.fromkeys(what for _, what, _ in rows)
    ]


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None] | None]:
    if settings.quiet or not sys.stderr.isatty():
        yield None
        return

    def show(done: int, total: int) -> None:
        sys.stderr.write(f"\r\x1b[K{done:,}/{total:,} photos")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
