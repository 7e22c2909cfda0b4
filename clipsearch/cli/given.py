"""What is given on the command line as the name of something, and so cannot be empty.

`Path("")` is the folder one stands in, and every camera's name holds "": a variable of the shell
that is not set would quietly mean either.
"""

from __future__ import annotations

from pathlib import Path

import typer


def name(text: str) -> str:
    """A text that names something.

    Raises:
        BadParameter: it is empty.
    """
    if not text:
        raise typer.BadParameter("it is empty; is it from a variable that is not set?")
    return text


def path(text: str) -> Path:
    """A path, which need not exist.

    Raises:
        BadParameter: it is empty.
    """
    return Path(name(text))
