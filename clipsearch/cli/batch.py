"""`query --from FILE`: many queries at once, and the hits of each with the words they answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.cli.hits import CSV_COLUMNS, Format, check_form, csv_text
from clipsearch.cli.output import note, table, warning, write, write_json, write_text
from clipsearch.cli.settings import settings
from clipsearch.errors import UsageError, count
from clipsearch.paths import expanded

if TYPE_CHECKING:
    from clipsearch.library import Hit

_Answer = tuple[str, "list[Hit]"]


def read_queries(path: Path) -> list[str]:
    """The lines of a UTF-8 text file (`-`: of standard input) that are not blank.

    Raises:
        UsageError: it cannot be read, is no text, or has no line.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else expanded(path).read_bytes()
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror or error}",
            hint="give a text file with one query a line",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is no UTF-8 text", hint="save it as UTF-8") from error
    queries = [line for line in lines if line]
    if not queries:
        raise UsageError(f"{name} has no query in it", hint="write one query a line")
    return queries


def show_each(queries: Sequence[str], *, format: Format | None, nul: bool, **options: Any) -> None:
    """Ask the library all queries and print the hits of each; options as of `search_each`."""
    check_form(format, nul=nul)
    said: set[str] = set()
    empty: list[str] = []

    def answers() -> Iterator[_Answer]:
        with settings.open_library() as library:
            found = library.search_each(queries, **options)
            for query, result in zip(queries, found, strict=True):
                for message, hint in result.warnings:
                    if message not in said:
                        said.add(message)
                        warning(message, hint)
                if not result.hits:
                    empty.append(result.why_nothing)
                yield query, result.hits

    if nul:
        _print_paths(answers(), end="\0")
    else:
        _PRINTERS[format or (Format.table if sys.stdout.isatty() else Format.text)](answers())
    if empty:
        note(f"{count(len(empty), 'query', 'queries')} without a hit: {empty[0]}")


def _print_table(answers: Iterable[_Answer]) -> None:
    rows = [
        (query if number == 0 else "", f"{hit.score:.3f}", hit.path)
        for query, hits in answers
        for number, hit in enumerate(hits)
    ]
    table(rows, headings=("query", "score", "photo"))


def _print_text(answers: Iterable[_Answer]) -> None:
    for query, hits in answers:
        write_text("".join(f"{query}\t{hit.score:.4f}\t{hit.path}\n" for hit in hits))


def _print_paths(answers: Iterable[_Answer], *, end: str = "\n") -> None:
    for _, hits in answers:
        write("".join(f"{hit.path}{end}" for hit in hits))


def _print_json(answers: Iterable[_Answer]) -> None:
    write_json([_record(query, hits) for query, hits in answers])


def _print_jsonl(answers: Iterable[_Answer]) -> None:
    for query, hits in answers:
        write(json.dumps(_record(query, hits)) + "\n")


def _record(query: str, hits: Sequence[Hit]) -> dict[str, Any]:
    return {"query": query, "hits": [hit.as_dict() for hit in hits]}


def _print_csv(answers: Iterable[_Answer]) -> None:
    columns = ("query", *CSV_COLUMNS)
    write(csv_text((), columns, headed=True))
    for query, hits in answers:
        rows = ({"query": query, **hit.as_dict()} for hit in hits)
        write(csv_text(rows, columns, headed=False))


_PRINTERS: Mapping[Format, Callable[[Iterable[_Answer]], None]] = {
    Format.table: _print_table,
    Format.text: _print_text,
    Format.paths: _print_paths,
    Format.json: _print_json,
    Format.jsonl: _print_jsonl,
    Format.csv: _print_csv,
}
