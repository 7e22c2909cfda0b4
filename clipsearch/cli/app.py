"""The program's commands and global options, as Typer reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clipsearch.cli import care, evaluate, finetune, given, index, models, query
from clipsearch.cli.output import error_line
from clipsearch.cli.settings import hoist, settings

app = typer.Typer(
    name="clipsearch",
    help="Find photos by meaning, on your own machine.",
    epilog=(
        'Begin with `clipsearch index ~/Photos`, then `clipsearch query "sunset over ocean"`. '
        "Global options may also stand after the command."
    ),
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("index", epilog=index.EXAMPLES)(index.index)
app.command("query", epilog=query.EXAMPLES)(query.query)
app.command("finetune", epilog=finetune.EXAMPLES)(finetune.finetune)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.add_typer(models.app, name="models")
app.command("status")(care.status)
app.command("problems")(care.problems)
app.command("check")(care.check)
app.command("remove")(care.remove)
app.command("compact")(care.compact)


def _print_version(wanted: bool) -> None:
    if wanted:
        from clipsearch import __version__

        typer.echo(f"clipsearch {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    library: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=given.path,
            help="Where the library is kept. Else CLIPSEARCH_LIBRARY, else the platform's "
            "folder for user data.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where towers run.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|bf16|fp16|int8", help="Arithmetic of the towers.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processor threads; default: all cores.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print it.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """The global options of every command."""
    settings.library = library
    settings.device = device
    settings.precision = precision
    settings.threads = threads
    if threads is not None:
        # Read once, when numpy and its kind are imported, which is later than this.
        for library_name in ("OMP", "OPENBLAS", "MKL"):
            os.environ[f"{library_name}_NUM_THREADS"] = str(threads)
    settings.verbose = verbose
    settings.quiet = quiet
    settings.debug = debug


# Typer brings its own copy of click in newer versions and uses the package in older ones; this is
# click's UsageError in both.
_CommandLineError: type[Exception] = typer.BadParameter.__bases__[0]


def invoke(words: Sequence[str]) -> int:
    """Run one command line through Typer; its exit status."""
    command = typer.main.get_command(app)
    streams = sys.stdout, sys.stderr
    try:
        status = command.main(
            hoist(words, _options_with_value(command)),
            prog_name="clipsearch",
            standalone_mode=False,
        )
    except _CommandLineError as error:
        return _wrong_usage(error)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit as end:
        # Typer makes status 1 of a closed pipe itself, and wraps the streams.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        sys.stdout, sys.stderr = streams
        raise end.__context__ from None
    if status == 130:  # newer versions of Typer turn an interruption into this themselves
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _options_with_value(group: Any) -> frozenset[str]:
    """Every option of every command that is followed by a value."""
    names: set[str] = set()
    for command in group.commands.values():
        names |= _options_with_value(command) if hasattr(command, "commands") else set()
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                names.update(parameter.opts)
    return frozenset(names)


def _wrong_usage(error: Exception) -> int:
    """Say what was wrong with the command line, and where to read how it goes."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{message}\n")
    else:
        where = context.command_path if context is not None else "clipsearch"
        error_line(message, f"`{where} --help` shows how it goes")
    return 2
