"""`clipsearch index`: bring the library up to date with folders of photos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli import given
from clipsearch.cli.output import (
    detail,
    duration,
    note,
    progress_display,
    rounded,
    warning,
)
from clipsearch.cli.settings import settings
from clipsearch.errors import count

if TYPE_CHECKING:
    from clipsearch.library import IndexReport

EXAMPLES = """
Examples:

\b
  clipsearch index ~/Photos
  clipsearch index                        bring all known folders up to date
  clipsearch index ~/Photos --exclude 'thumbs/' --exclude '*.gif'
  clipsearch index --model default        move the library to a stronger model
  clipsearch index --watch                go on until interrupted
"""

# Fewer embedded photos are not worth a rate, and so many reasons fit into one line.
RATE_FROM_PHOTOS = 10
REASONS_SHOWN = 4

# What to say when a run is broken off.
GOES_ON = "what was done so far is kept; the same command goes on there"


def index(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", parser=given.path, help="Folders; none: all folders known already."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            parser=given.name,
            help="A preset, ARCH/TAG, hf-hub:OWNER/NAME or a directory (`clipsearch models`). "
            "Default: the library's model.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Leave out what matches (gitignore rules). Repeatable; '' for nothing any more.",
        ),
    ] = None,
    follow_links: Annotated[
        bool | None,
        typer.Option(
            "--follow-links/--no-follow-links",
            help="Follow symbolic links. Remembered with the folders, like --exclude.",
        ),
    ] = None,
    max_megapixels: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="N", help="Skip larger pictures. Default: by memory."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until interrupted.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait while another clipsearch is writing.")
    ] = False,
) -> None:
    """Bring the library up to date with folders of photos, and remember the folders."""
    settings.after_interruption = GOES_ON
    looked = False
    if exclude == [""]:
        exclude = []
    with settings.open_library(create=True) as library:
        try:
            while True:
                with progress_display() as show:
                    report = library.index(
                        paths or (),
                        model=model,
                        exclude=exclude,
                        follow_links=follow_links,
                        max_megapixels=max_megapixels,
                        wait=wait or watch,
                        progress=show,
                    )
                if not watch or report.changed_anything:
                    show_report(report)
                if not watch:
                    return
                if not looked:
                    roots = len(library.status().roots)
                    note(f"watching {count(roots, 'folder')}; Ctrl-C ends it")
                looked = True
                paths, exclude, follow_links = None, None, None
                library.wait_for_changes()
        except KeyboardInterrupt:
            if not looked:  # else this is how --watch ends, and no error
                raise


def show_report(report: IndexReport) -> None:
    """Tell what a run of `index` found and did, and what it could not do."""
    for root, reason in report.unavailable:
        warning(
            f"{root}: {reason}; its photos are kept",
            "connect it and index again; if it was moved or deleted for good, index its new place "
            f"and run `clipsearch remove {root}`",
        )
    for folder, reason in report.unreadable_folders:
        warning(f"{folder}: {reason}; what it held is kept")
    for message, hint in report.warnings:
        warning(message, hint)
    for path, reason in report.skipped:
        detail(f"skipped {path}: {reason}")
    parts = [
        f"{number:,} {word}"
        for number, word in (
            (report.added, "added"),
            (report.copied, "copy" if report.copied == 1 else "copies"),
            (report.moved, "moved"),
            (report.changed, "changed"),
            (report.touched, "re-dated or re-tagged"),
            (report.removed, "removed"),
            (report.re_embedded, "re-embedded"),
            (report.unchanged, "unchanged"),
        )
        if number
    ]
    # Of a few photos it would tell how long the model takes to load.
    timed = report.embedded >= RATE_FROM_PHOTOS
    speed = f", {rounded(report.photos_per_second)} photos/s" if timed else ""
    note(f"{', '.join(parts) or 'no photos found'} in {duration(report.seconds)}{speed}")
    if report.skipped:
        warning(
            f"skipped {count(len(report.skipped), 'file')}: {_reasons(report)}",
            "`clipsearch problems` lists them",
        )
    note(f"{count(report.photos, 'photo')} can be searched with {report.model}")
    if report.model == "pocket" and report.embedded and sys.stderr.isatty():
        note(stronger_model_hint(report))


def stronger_model_hint(report: IndexReport) -> str:
    """How to get a stronger model than pocket, and what it costs for as many photos."""
    from clipsearch.library.shelf import cost_of

    megabytes, slower = cost_of("default")
    minutes = max(1, round(report.photos * slower / report.photos_per_second / 60))
    return (
        f"a stronger model: `clipsearch models pull default` ({megabytes} MB), then "
        f"`clipsearch index --model default` (about {count(minutes, 'minute')} here)"
    )


def _reasons(report: IndexReport) -> str:
    """How many files were skipped for which reason; the numbers add up."""
    reasons = report.skipped_by_reason
    parts = [f"{number:,} {reason}" for reason, number in reasons[:REASONS_SHOWN]]
    others = sum(number for _, number in reasons[REASONS_SHOWN:])
    return "; ".join(parts) + (f"; and {others:,} for other reasons" if others else "")
