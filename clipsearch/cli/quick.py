"""The way of a plain query around Typer, which alone takes a third of the time to an answer.

Typer says what the command line means (`query.py`); this knows the same options by a table, which
a test holds to Typer's own reading. Whatever is not plainly right here (help, a mistake, a short
form that Typer would take) is left to Typer, so that there is one place for messages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from clipsearch.cli.settings import settings

_TEXT = {"--after": "after", "--before": "before", "--camera": "camera", "--format": "format"}
_SEVERAL = {"--image": "image", "--also": "also", "--not": "away", "--in": "folder"}
_FLAGS = {"--exact": "exact", "--include-self": "include_self", "-0": "nul"}
_GLOBAL_FLAGS = {
    **{"-q": "quiet", "--quiet": "quiet", "-v": "verbose", "--verbose": "verbose"},
    "--debug": "debug",
}


def plain_query(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The arguments of `query.show` and the settings, or None if Typer should look at it."""
    asked: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    text: list[str] = []
    pending = iter(words)
    for word in pending:
        if word in _FLAGS:
            asked[_FLAGS[word]] = True
        elif word in _GLOBAL_FLAGS:
            chosen[_GLOBAL_FLAGS[word]] = True
        elif word in _TEXT or word in _SEVERAL or word in ("-k", "--library"):
            value = next(pending, "")
            if not value or value.startswith("-"):
                return None
            if word in _SEVERAL:
                asked.setdefault(_SEVERAL[word], []).append(value)
            elif word == "-k":
                if not (value.isascii() and value.isdecimal() and len(value) < 10):
                    return None
                asked["k"] = int(value)
            elif word == "--library":
                chosen["library"] = value
            else:
                asked[_TEXT[word]] = value
        elif word.startswith("-"):
            return None
        else:
            text.append(word)
    if not text or text.pop(0) != "query":
        return None
    asked["text"] = text
    return asked, chosen


def answer_plain_query(words: Sequence[str]) -> bool:
    """Answer the command line if it is a plain query; whether it was."""
    plain = plain_query(words)
    if plain is None:
        return False
    from pathlib import Path

    from clipsearch.cli.hits import Format, show

    _use_one_thread()
    asked, chosen = plain
    if "format" in asked:
        if asked["format"] not in list(Format):
            return False
        asked["format"] = Format(asked["format"])
    for name, value in chosen.items():
        setattr(settings, name, Path(value) if name == "library" else value)
    show(**asked)
    return True


def _use_one_thread() -> None:
    """Keep numpy from starting threads for one query's small products.

    They are read when numpy is imported. Its threads spin while they wait for one another: one
    query took 0.14 s of processor time without them and 0.33 s with two, and on a busy machine
    twice as long.
    """
    if "numpy" not in sys.modules:
        for library in ("OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
