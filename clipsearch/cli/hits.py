"""Asking the library and printing the hits: what `query` does once its words are understood."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from clipsearch.cli.output import note, table, warning, write, write_json, write_text
from clipsearch.cli.settings import settings
from clipsearch.errors import UsageError

if TYPE_CHECKING:
    from clipsearch.library import Hit


class Format(StrEnum):
    """How hits are printed."""

    table = "table"
    text = "text"
    paths = "paths"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


def show(
    text: Sequence[str],
    *,
    image: Sequence[str | os.PathLike[str]] = (),
    also: Sequence[str] = (),
    away: Sequence[str] = (),
    k: int = 10,
    folder: Sequence[str] = (),
    after: str | None = None,
    before: str | None = None,
    camera: str | None = None,
    exact: bool = False,
    include_self: bool = False,
    format: Format | None = None,
    nul: bool = False,
) -> None:
    """Ask the library and print what it finds; `query --help` says what each part means."""
    check_form(format, nul=nul)
    for words in dict.fromkeys((" ".join(text), *text)):
        # With a dot: 'dog' may well be a file here, and is not meant. Path.is_file raises for texts
        # that are too long for a name.
        if "." in words and os.path.isfile(words):  # noqa: PTH113
            warning(f"{words} is a file, and is looked for as words", "did you mean --image?")
    with settings.open_library() as library:
        result = library.search(
            " ".join(text),
            images=image,
            also=also,
            away=away,
            k=k,
            folders=folder,
            after=after,
            before=before,
            camera=camera,
            exact=exact,
            include_self=include_self,
        )
    for message, hint in result.warnings:
        warning(message, hint)
    print_hits(result.hits, format=format, nul=nul)
    if not result.hits:
        note(result.why_nothing)


def check_form(format: Format | None, *, nul: bool) -> None:
    """Whether hits can be printed as they are asked for.

    Raises:
        UsageError: in two forms at once.
    """
    if nul and format not in (None, Format.paths):
        raise UsageError(
            f"-0 prints bare paths, and --format {format} something else",
            hint="leave one of the two out",
        )


def print_hits(hits: Sequence[Hit], *, format: Format | None, nul: bool) -> None:
    """The hits, best first, in the asked form; without one, a table on a terminal, else text."""
    if nul:
        write("".join(f"{hit.path}\0" for hit in hits))
        return
    if format is None:
        format = Format.table if sys.stdout.isatty() else Format.text
    _PRINTERS[format](hits)


def _print_table(hits: Sequence[Hit]) -> None:
    table([_row(hit) for hit in hits], headings=("score", "photo", "size", "taken"))


def _row(hit: Hit) -> tuple[str, str, str, str]:
    size = f"{hit.facts.width} x {hit.facts.height}"
    return f"{hit.score:.3f}", os.fspath(hit.path), size, (hit.facts.taken_at or "")[:10]


def _print_text(hits: Sequence[Hit]) -> None:
    write_text("".join(f"{hit.score:.4f}\t{hit.path}\n" for hit in hits))


def _print_paths(hits: Sequence[Hit]) -> None:
    write("".join(f"{hit.path}\n" for hit in hits))


def _print_json(hits: Sequence[Hit]) -> None:
    write_json([hit.as_dict() for hit in hits])


def _print_jsonl(hits: Sequence[Hit]) -> None:
    write("".join(json.dumps(hit.as_dict()) + "\n" for hit in hits))


# All that `Hit.as_dict` has but copies, which are a list.
CSV_COLUMNS = (
    *("score", "path", "width", "height", "format", "size_bytes", "taken_at"),
    *("latitude", "longitude", "camera", "lens"),
)


class _Lines(list[str]):
    """What `csv` writes, with line feeds alone at the ends.

    It quotes a carriage return, which a file's name may hold and readers would end the row at, only
    where that is part of the terminator (up to Python 3.12).
    """

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


def csv_text(rows: Iterable[Mapping[str, object]], columns: Sequence[str], *, headed: bool) -> str:
    """Rows as CSV, below a line of headings if need be; what is no column is left out."""
    import csv

    lines = _Lines()
    writer = csv.DictWriter(lines, columns, extrasaction="ignore", lineterminator="\r\n")
    if headed:
        writer.writeheader()
    writer.writerows(rows)
    return "".join(lines)


def _print_csv(hits: Sequence[Hit]) -> None:
    write(csv_text((hit.as_dict() for hit in hits), CSV_COLUMNS, headed=True))


_PRINTERS: Mapping[Format, Callable[[Sequence[Hit]], None]] = {
    Format.table: _print_table,
    Format.text: _print_text,
    Format.paths: _print_paths,
    Format.json: _print_json,
    Format.jsonl: _print_jsonl,
    Format.csv: _print_csv,
}
