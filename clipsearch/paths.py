"""Paths as people write them: from a home folder, or from the folder that the program runs in."""

from __future__ import annotations

import os
from pathlib import Path

from clipsearch.errors import UsageError


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` from the home folder that a leading `~` or `~name` stands for.

    Where nobody has that name it is a folder's own, as it is for a shell; pathlib raises there.
    """
    return Path(os.path.expanduser(path))


def absolute(path: str | os.PathLike[str]) -> str:
    """`expanded`, from here if it is relative, and without `.` and `..`.

    Raises:
        UsageError: it is relative, and the folder that this runs in was deleted.
    """
    whole = os.path.expanduser(path)
    return os.path.abspath(whole if os.path.isabs(whole) else os.path.join(here(), whole))


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it; both absolute."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_bare(folder: str) -> bool:
    """Whether a folder holds nothing but hidden files: what an unmounted disk leaves behind.

    Raises:
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as entries:
        return all(entry.name.startswith(".") for entry in entries)


def here() -> str:
    """The folder that this runs in.

    Raises:
        UsageError: it was deleted.
    """
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "the folder that this runs in is not there any more",
            hint="go to another one, or give paths from the root on",
        ) from None
