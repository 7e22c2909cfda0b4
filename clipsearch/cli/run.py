"""Run one command line: the one place that turns an error into a message and an exit status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from clipsearch.cli.output import error_line, unwritten
from clipsearch.cli.settings import settings
from clipsearch.errors import ClipsearchError


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status is the returned number (0 to 4, or 130).

    Args:
        arguments: the words after the program's name; None for those it was started with.
    """
    settings.reset()
    _open_closed_streams()
    _buffer_stdout()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        return _after_closed_pipe()
    except KeyboardInterrupt:
        if arguments is None:  # the program itself: all that is left is to say so, and end
            _ignore_interruptions()
        error_line("interrupted", settings.after_interruption)
        return 130
    except ClipsearchError as error:
        if settings.debug:
            raise
        error_line(str(error), error.hint)
        return error.exit_code
    except Exception as error:
        if settings.debug:
            raise
        if known := _made_plain(error):
            error_line(str(known), known.hint)
            return known.exit_code
        error_line(
            f"clipsearch met something it did not expect: {type(error).__name__}: {error}",
            "run it again with --debug to see where, and please report that",
        )
        return 1
    return status


def _dispatch(words: list[str]) -> int:
    from clipsearch.cli.quick import answer_plain_query

    if answer_plain_query(words):
        return 0
    from clipsearch.cli.app import invoke

    return invoke(words)


def _after_closed_pipe() -> int:
    """Whoever read our output has seen enough (`| head`): a quiet success."""
    # Python flushes stdout once more at exit; that must not fail on the closed pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _ignore_interruptions() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _made_plain(error: Exception) -> ClipsearchError | None:
    """What an unexpected error means after all: that stdout did not take what Typer wrote."""
    try:
        sys.stdout.flush()  # what was not taken is still in its buffer
    except OSError:
        return unwritten(error) if isinstance(error, OSError) else None
    return None


def _open_closed_streams() -> None:
    """Give a stream that the shell closed (`>&-`) a file, or the next one opened takes its number.

    Nothing can be read from it, and for stdout nothing written: output must not vanish unsaid.
    """
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _buffer_stdout() -> None:
    """Give stdout the buffer that PYTHONUNBUFFERED took: `_made_plain` looks there for the rest."""
    stdout = sys.stdout
    if isinstance(getattr(stdout, "buffer", None), io.RawIOBase):
        sys.stdout = os.fdopen(
            stdout.fileno(), "w", encoding=stdout.encoding, errors=stdout.errors, closefd=False
        )
