"""What the global options say: they hold for every command and may stand anywhere on the line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import NoLibrary
from clipsearch.paths import expanded

if TYPE_CHECKING:
    from clipsearch.library import Library


@dataclass(slots=True)
class Settings:
    """The global options of this run.

    Attributes:
        after_interruption: no option: how to go on if the user breaks off what runs now.
    """

    library: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    verbose: bool = False
    quiet: bool = False
    debug: bool = False
    after_interruption: str | None = None

    def reset(self) -> None:
        """Back to the defaults, for the next command line in the same process."""
        for field in fields(self):
            setattr(self, field.name, field.default)

    def open_library(self, *, create: bool = False) -> Library:
        """The library of this run.

        Raises:
            NoLibrary: there is none yet and `create` is false.
            StorageError: nobody may look there, and `create` is false.
        """
        from clipsearch.library import Library, default_folder

        folder = expanded(self.library or default_folder())
        library = Library.open(
            folder, device=self.device, precision=self.precision, threads=self.threads
        )
        if not create and not library.exists():
            raise NoLibrary(
                f"there is no library yet (looked in {folder})",
                hint="make one with `clipsearch index ~/Pictures`",
            )
        return library


settings = Settings()

_WITH_VALUE = {"--library", "--device", "--precision", "--threads"}
_FLAGS = {"-v", "--verbose", "-q", "--quiet", "--debug"}


def hoist(arguments: Sequence[str], takes_value: frozenset[str]) -> list[str]:
    """The same command line with the global options in front of the command.

    Args:
        arguments: the command line without the program's name.
        takes_value: every option of every command that is followed by a value; that value is
            never taken for an option of its own.
    """
    front: list[str] = []
    rest: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        if argument == "--":
            rest += [argument, *pending]
        elif argument in _FLAGS:
            front.append(argument)
        elif argument.split("=", 1)[0] in _WITH_VALUE:
            front.append(argument)
            if "=" not in argument:
                front += islice(pending, 1)
        elif argument in takes_value:
            rest += [argument, *islice(pending, 1)]
        else:
            rest.append(argument)
    return front + rest
