"""One family of exceptions; each knows the exit status it ends the program with.

    ClipsearchError                 1  it could not be done
    ├── UsageError                  2  wrong usage
    ├── NoLibrary                   1  there is nothing to search yet
    ├── PhotoFolderError            1  a folder to index is not there or cannot be listed
    ├── SkippedPhoto                1  one photo cannot be read; the run goes on without it
    │   └── VanishedPhoto           1  it is not there any more
    ├── TrainingDataError           1  pairs that cannot be trained or evaluated on
    ├── LibraryInTheWay             3  the library is in the way
    │   ├── LibraryLocked           3  another process is writing
    │   ├── LibraryDamaged          3  the catalogue cannot be trusted
    │   └── LibraryTooNew           3  made by a newer clipsearch
    ├── StorageError                1  the disk is full or refuses to be written
    └── ModelError                  1  a model that cannot be used
        ├── ModelUnavailable        4  a model that is not to be had here
        └── NoVector                1  it gives no vector for some photo or text

The library raises; only `clipsearch.cli` prints and exits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar


def count(number: int, singular: str, plural: str | None = None) -> str:
    """'1 photo', '1,204 photos': as messages say it."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


class ClipsearchError(Exception):
    """What went wrong and why (`str(error)`), and what to do next (`hint`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ClipsearchError):
    """The request makes no sense as it was put."""

    exit_code = 2


class NoLibrary(ClipsearchError):
    """There is no library at the place that was looked at."""


class PhotoFolderError(ClipsearchError):
    """A folder to index is not there, is no folder, or cannot be listed."""


class SkippedPhoto(ClipsearchError):
    """One photo cannot be read; the others go on.

    Attributes:
        path: the file, as it is on disk.
        reason: one plain phrase, without the path: 'truncated after 1,024 bytes'.
        retry: whether a later try may succeed though the file is the same: a disk that failed,
            a right that was missing, an extra that is not installed.
    """

    def __init__(
        self, path: str, reason: str, *, hint: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = path
        self.reason = reason
        self.retry = retry

    def __reduce__(self) -> tuple[Callable[..., SkippedPhoto], tuple[str, str]]:
        """As it was made; an exception would be made anew from its message alone."""
        return partial(type(self), hint=self.hint, retry=self.retry), (self.path, self.reason)


class VanishedPhoto(SkippedPhoto):
    """The file was there when its folder was listed, and is not there any more."""


class TrainingDataError(ClipsearchError):
    """Photo-caption pairs that cannot be trained or evaluated on."""


class LibraryInTheWay(ClipsearchError):
    """The library exists but cannot be used now, or not by this version."""

    exit_code = 3


class LibraryLocked(LibraryInTheWay):
    """Another process holds the writer's lock."""


class LibraryDamaged(LibraryInTheWay):
    """The catalogue, which is the truth, cannot be trusted."""


class LibraryTooNew(LibraryInTheWay):
    """The library was made by a newer clipsearch."""


class StorageError(ClipsearchError):
    """The disk is full, read-only, or failed."""


class ModelError(ClipsearchError):
    """A model that is here but cannot be used."""


class ModelUnavailable(ModelError):
    """A model that is neither here nor to be had without the network."""

    exit_code = 4


class NoVector(ModelError):
    """What the model gives for some photo or text is no direction: zero, infinite, no number."""
