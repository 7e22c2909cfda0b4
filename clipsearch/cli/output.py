"""What the program prints: data to stdout, talk to stderr, colour and progress on terminals."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clipsearch.cli.settings import settings
from clipsearch.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clipsearch.library import Progress


# What a terminal takes for an order and not for text: C0 and C1 controls, and what turns the
# direction of writing. A file may be named so. Lines and tabs are ours, but for those in a cell.
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *(set(range(0x20)) - {0x09, 0x0A}),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
}
_CELL_ESCAPES = _ESCAPES | {0x09: "\\t", 0x0A: "\\n"}

# ---------------------------------------------------------------------------- talk, to stderr


def note(message: str) -> None:
    """Something worth knowing; `--quiet` hides it."""
    if not settings.quiet:
        _to_stderr(message)


def detail(message: str) -> None:
    """Something that only `--verbose` wants to know."""
    if settings.verbose:
        _to_stderr(message)


def warning(message: str, hint: str | None = None) -> None:
    """Something is not as it should be, and the work goes on."""
    _to_stderr(f"warning: {message}", hint)


def error_line(message: str, hint: str | None = None) -> None:
    """Why the work could not be done, and what to do next."""
    _to_stderr(f"error: {message}", hint)


def _to_stderr(message: str, hint: str | None = None) -> None:
    text = f"{message}\n" + (f"hint: {hint}\n" if hint else "")
    if sys.stderr.isatty():
        text = text.translate(_ESCAPES)
    # A path in a message may hold bytes that are no text; they must not end the program.
    sys.stderr.write(text.encode("utf-8", "backslashreplace").decode())
    sys.stderr.flush()


# ---------------------------------------------------------------------------- data, to stdout


def write(text: str) -> None:
    """Data to stdout; undecodable bytes of paths come out as they are on disk.

    Raises:
        BrokenPipeError: whoever read it has seen enough.
        StorageError: stdout takes nothing.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error) from error


def write_text(text: str) -> None:
    """`write`, but on a terminal what would be an order to it is escaped."""
    write(text.translate(_ESCAPES) if sys.stdout.isatty() else text)


def unwritten(error: OSError) -> StorageError:
    """What to say when stdout takes nothing."""
    return StorageError(
        f"the output could not be written ({(error.strerror or str(error)).lower()})",
        hint="see where it goes: its disk may be full, or it may be closed",
    )


def write_json(value: Any) -> None:
    """One JSON document; undecodable bytes of paths are lone surrogates, '\\udcXX'."""
    write(json.dumps(value, indent=2) + "\n")


def table(
    rows: Iterable[Sequence[str]], *, headings: Sequence[str], always_headed: bool = False
) -> None:
    """A table on a terminal, tab-separated lines in a pipe.

    Args:
        always_headed: the headings are the first line in a pipe too, where figures say nothing
            without them; lists of photos go to programs that want photos alone.
    """
    if not sys.stdout.isatty():
        if always_headed:
            write("\t".join(headings) + "\n")
        write("".join("\t".join(row) + "\n" for row in rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in rows:
        # Text, not markup: a file may be named 'IMG [edit].jpg'.
        cells = (cell.translate(_CELL_ESCAPES) for cell in row)
        drawn.add_row(*(Text(cell.encode("utf-8", "replace").decode()) for cell in cells))
    Console().print(drawn)


# ---------------------------------------------------------------------------- progress


@contextmanager
def progress_display() -> Iterator[Callable[[Progress], None] | None]:
    """A callback that draws progress on a terminal's stderr; None where there is no terminal."""
    if settings.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(step: Progress) -> None:
            if step.phase not in tasks:
                for earlier in tasks.values():
                    bars.remove_task(earlier)
                tasks.clear()
                tasks[step.phase] = bars.add_task(step.phase, total=step.total, rate="")
            rate = f"{rounded(step.rate)} photos/s" if step.rate else ""
            bars.update(tasks[step.phase], completed=step.done, total=step.total, rate=rate)

        yield show


def duration(seconds: float) -> str:
    """'0.8 s', '42 s', '3 min 20 s', '2 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rounded(rate: float) -> str:
    """'1,204', '12', '0.4', '0.05': a rate as a whole number, unless that would be none."""
    return f"{rate:,.0f}" if rate >= 1 else f"{rate:.1g}"


def stamp(seconds: float | None) -> str:
    """A moment as local time, or 'never'."""
    if seconds is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
