"""Readers for processes that go wrong; in a module of its own, for the processes to import."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from clipsearch.library.reading import Found, PhotoReader


class CrashingReader(PhotoReader):
    """Ends its process over a file named so: at every try, or only where none was before."""

    def read(self, paths: Sequence[str]) -> list[Found]:
        for path in paths:
            tried = Path(path + ".tried")
            if "always" in path or ("once" in path and not tried.exists()):
                tried.touch()
                os._exit(9)
        return super().read(paths)


class FailingReader(PhotoReader):
    """Meets an error that is no photo's fault, in every process but the one that made it."""

    def __init__(self, preprocess) -> None:
        super().__init__(preprocess)
        self._made_in = os.getpid()

    def read(self, paths: Sequence[str]) -> list[Found]:
        if os.getpid() != self._made_in:
            raise RuntimeError("the catalogue is gone")
        return super().read(paths)


class SlowReader(PhotoReader):
    """Tells which process read a file: its number lies beside it."""

    def read(self, paths: Sequence[str]) -> list[Found]:
        for path in paths:
            Path(path + ".read").write_text(str(os.getpid()))
            time.sleep(0.02)
        return super().read(paths)
