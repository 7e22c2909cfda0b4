"""`clipsearch query`: the photos that look most like it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipsearch.cli import given
from clipsearch.cli.hits import Format, show
from clipsearch.errors import UsageError

EXAMPLES = """
Examples:

\b
  clipsearch query sunset over ocean
  clipsearch query "a dog in the snow" -k 20 --in ~/Photos/2024
  clipsearch query beach --also "palm trees:2" --not people
  clipsearch query --image IMG_0042.jpg --also "at night"
  clipsearch query --from wishes.txt -k 3 --format jsonl
  clipsearch query birthday cake --after 2019 --before 2021 -0 | xargs -0 cp -t /tmp/cakes
"""


def query(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="What to look for; several words without quotes are one query.",
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="FILE",
            parser=given.path,
            help="Look for photos like this one. Repeatable.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="TEXT", help='This too; "snow:2" counts double.'),
    ] = None,
    away: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="TEXT", help="Stay away from this. Repeatable."),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="How many hits.")] = 10,
    folder: Annotated[
        list[str] | None,
        typer.Option(
            "--in",
            metavar="FOLDER",
            parser=given.name,
            help="Only photos under this folder. Repeatable.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Taken then or later: 2024, 2024-06 or 2024-06-15."),
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="DATE", help="Taken before the start of then.")
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", parser=given.name, help="Only from cameras whose name has this."
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare with every vector; use no index.")
    ] = False,
    include_self: Annotated[
        bool, typer.Option("--include-self", help="Keep the --image itself among the hits.")
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            parser=given.path,
            help="Many queries at once: one a line of this text file; - reads standard input.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            metavar="F",
            help="table, text, paths, json, jsonl or csv; default: a table on a terminal, "
            "tab-separated text in a pipe.",
        ),
    ] = None,
    nul: Annotated[
        bool, typer.Option("-0", help="Bare paths, each ended by a NUL byte: safe for any name.")
    ] = False,
) -> None:
    """Show the photos that look most like it, best first."""
    if from_file is not None:
        if text or image or also or away:
            raise UsageError(
                "--from FILE takes the place of a query and cannot stand beside one",
                hint="put the words into the file, or leave --from out",
            )
        if include_self:
            raise UsageError(
                "--include-self speaks of --image, and --from FILE holds words alone",
                hint="leave --include-self out",
            )
        from clipsearch.cli.batch import read_queries, show_each

        show_each(
            read_queries(from_file),
            format=format,
            nul=nul,
            k=k,
            folders=folder or (),
            after=after,
            before=before,
            camera=camera,
            exact=exact,
        )
        return
    show(
        text or (),
        image=image or (),
        also=also or (),
        away=away or (),
        k=k,
        folder=folder or (),
        after=after,
        before=before,
        camera=camera,
        exact=exact,
        include_self=include_self,
        format=format,
        nul=nul,
    )
