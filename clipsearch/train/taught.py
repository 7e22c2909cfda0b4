"""The photos that a model learned from: a list of their digests beside its weights.

Figures on these photos say how well the model remembers, not how well it finds what is new, so
`evaluate` wants to know them again. A run takes over the list of its base model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TAUGHT_NAME = "taught_photos.txt"  # digests in hexadecimal, one a line, sorted


def taught_photos(folder: Path) -> set[bytes]:
    """Digests of the photos that the model in `folder` learned from; empty without a list."""
    try:
        lines = (folder / TAUGHT_NAME).read_text(encoding="ascii").split()
        return {bytes.fromhex(line) for line in lines}
    except (OSError, ValueError):  # no list, or none of ours
        return set()


def add_taught_photos(folder: Path, digests: Iterable[bytes]) -> None:
    """Put these into the model's list."""
    known = taught_photos(folder).union(digests)
    if known:
        lines = sorted(digest.hex() for digest in known)
        (folder / TAUGHT_NAME).write_text("\n".join(lines) + "\n", encoding="ascii")
