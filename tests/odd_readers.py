"""Readers for processes that go wrong; in a module of its own, for the processes to import."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from clipsearch.library.reading import Found, GpuPhotoReader, PhotoReader


class CrashingReader(PhotoReader):
    """Ends its process over a file named so: at every try, or only where none was before."""

    def read(self, paths: Sequence[str]) -> list[Found]:
        for path in paths:
            tries = Path(path + ".tries")
            done = len(tries.read_text()) if tries.exists() else 0
            if "always" in path or ("twice" in path and done < 2):
                tries.write_text("x" * (done + 1))
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


class MarkingReader(PhotoReader):
    """Tells which process read a file: its number lies beside it. Takes its time over each."""

    seconds = 0.02

    def read(self, paths: Sequence[str]) -> list[Found]:
        for path in paths:
            Path(path + ".read").write_text(str(os.getpid()))
            time.sleep(self.seconds)
        return super().read(paths)


class UnwillingReader(PhotoReader):
    """Cannot be made ready, as one whose GPU is not there."""

    def prepare(self) -> None:
        raise RuntimeError("no GPU")


class LateReader(PhotoReader):
    """Is long in being made ready."""

    def prepare(self) -> None:
        time.sleep(60)


class MarkingGpuReader(GpuPhotoReader):
    """Leaves a mark beside the first file of a group that the GPU was asked about."""

    CHECKED = 4

    def read(self, paths: Sequence[str]) -> list[Found]:
        found = super().read(paths)
        if self._gpu is not None:
            Path(paths[0] + ".gpu").touch()
        return found
