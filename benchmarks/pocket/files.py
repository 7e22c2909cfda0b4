"""Files of a training run, which may be stopped at any moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write; it becomes `path` at the end, so what is found there later is whole."""
    draft = path.with_name(f"draft-{path.name}")
    yield draft
    draft.replace(path)


class Log:
    """Lines with the seconds since it began, printed and kept in FOLDER/log.txt."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.txt"
        self._began = time.perf_counter()

    def __call__(self, line: str) -> None:
        line = f"[{time.perf_counter() - self._began:6.0f} s] {line}"
        print(line, flush=True)
        with self._path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")
