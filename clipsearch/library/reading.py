"""Files to pixels, in the thread that asks or in processes of their own.

Decoding itself leaves the interpreter lock to other threads; what is done around it (headers, EXIF,
bookkeeping: a seventh of the time) does not, so that threads read some 1,200 photos a second of
500 px at most, however many cores there are. A GPU takes ten times as many. `ReaderProcesses`
spreads the work over interpreters, and a file that crashes a decoder costs itself only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from queue import SimpleQueue
from typing import IO, Any, NamedTuple

import numpy as np

from clipsearch.errors import SkippedPhoto
from clipsearch.models.preprocess import Preprocess
from clipsearch.photos.decode import decode_photo
from clipsearch.records import PhotoFacts, UInt8Array
from clipsearch.store.known import KnownPhotos

# Fewer files are read before as many interpreters have started.
LEAST_FILES = 1000
LEAST_PROCESSES = 4
# Their towers take no more photos than threads can read.
SLOW_DEVICES = ("cpu",)
_FILES_AT_ONCE = 16  # in one message: what a message costs, it costs this process's interpreter
_PIPE_BYTES = 1 << 20  # Linux's own 64 KB would take a hundred turns for an answer


class ReadPhoto(NamedTuple):
    """A photo that was read.

    Attributes:
        pixels: (S, S, 3) uint8 as the model wants them; None if its vector is known already.
    """

    digest: bytes
    facts: PhotoFacts | None
    pixels: UInt8Array | None


Found = ReadPhoto | SkippedPhoto


class PhotoReader:
    """Reads files in the calling thread; several threads may do so at a time.

    Args:
        known: says of which photos only the digest is needed; None for of none.

    Attributes:
        at_once: how many files a call of `read` should ask for.
    """

    at_once = 1

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        max_megapixels: float | None = None,
        known: KnownPhotos | None = None,
    ) -> None:
        self._preprocess = preprocess
        self._max_megapixels = max_megapixels
        self._known = known

    def read(self, paths: Sequence[str]) -> list[Found]:
        """What each file holds, or why it cannot be told.

        Raises:
            LibraryDamaged, StorageError: the catalogue cannot say what is known.
        """
        return [self._read_one(path) for path in paths]

    def _read_one(self, path: str) -> Found:
        known = self._known
        try:
            photo = decode_photo(
                path,
                side_px=self._preprocess.source_px,
                max_megapixels=self._max_megapixels,
                is_known=known.has_vector if known else None,
                may_know=known.holds_format if known else None,
            )
        except SkippedPhoto as problem:
            return problem
        pixels = None if photo.image is None else self._preprocess.pixels(photo.image)
        return ReadPhoto(photo.digest, photo.facts, pixels)


class ReaderProcesses:
    """The same in `count` processes; as many threads should call `read` at a time.

    A process is started when it is first needed, and ends with this one however it ends. Where none
    can be started, files are read here.

    Attributes:
        here: reads in the calling thread, what the processes do in theirs.
    """

    at_once = _FILES_AT_ONCE

    def __init__(self, here: PhotoReader, count: int) -> None:
        self.here = here
        self._works = True
        self._free: SimpleQueue[_Process | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            self._free.put(None)

    def __enter__(self) -> ReaderProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        """To be called when no thread reads any more."""
        for _ in range(self._count):
            if (process := self._free.get()) is not None:
                process.close()

    def read(self, paths: Sequence[str]) -> list[Found]:
        """As `PhotoReader.read`; a file that ends its process also when it is alone is skipped."""
        process = self._free.get()
        try:
            process = process or self._started()
            found = process.read(paths) if process else None
        except _LOST:
            assert process is not None
            process.close()
            process = None
            if len(paths) == 1:
                return [_crashed(paths[0])]
        else:
            # Also what went wrong there: it goes wrong here too, and is told in the usual way.
            return self.here.read(paths) if found is None else found
        finally:
            self._free.put(process)
        return [one for path in paths for one in self.read([path])]

    def _started(self) -> _Process | None:
        if self._works:
            try:
                return _Process(self.here)
            except _LOST:
                self._works = False
        return None


def _crashed(path: str) -> SkippedPhoto:
    return SkippedPhoto(path, "the process that decoded it crashed or was ended", retry=True)


# One end -----------------------------------------------------------------------------------------

# The other end is gone, or what it says cannot be understood.
_LOST = (OSError, EOFError, ValueError, pickle.UnpicklingError)


class _Process:
    """One process that reads; for one thread at a time."""

    def __init__(self, reader: PhotoReader) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pipesize=_PIPE_BYTES,
        )
        try:
            _send(self._stdin, sys.path)
            _send(self._stdin, reader)
            _receive(self._stdout)  # it is ready
        except _LOST:
            self.close()
            raise

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def read(self, paths: Sequence[str]) -> list[Found] | None:
        """None where it failed in a way that concerns no single file."""
        _send(self._stdin, list(paths))
        found: list[Found] | None = _receive(self._stdout)
        return found

    def close(self) -> None:
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# The search path comes first: this package may have been found by it alone.
_START = """
import pickle, struct, sys
length, buffers = struct.unpack("<QQ", sys.stdin.buffer.raw.read(16))
sys.path[:] = pickle.loads(sys.stdin.buffer.raw.read(length))
from clipsearch.library.reading import serve
serve()
"""


def serve() -> None:
    """The life of a process that reads: answers what comes on stdin until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides when to stop
    asked = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a decoder prints must not come between the answers
    with contextlib.suppress(EOFError, BrokenPipeError):
        reader: PhotoReader = _receive(asked)
        _send(answers, None)
        while True:
            paths: list[str] = _receive(asked)
            found: list[Found] | None = None
            with contextlib.suppress(Exception):
                found = reader.read(paths)
            _send(answers, found)


# Messages ----------------------------------------------------------------------------------------


def _send(stream: Any, what: object) -> None:
    """A message: the lengths of its parts, the pickled object, and its arrays as they lie."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(what, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    sizes = struct.pack(f"<QQ{len(arrays)}Q", len(head), len(arrays), *map(len, arrays))
    _write_all(stream, memoryview(sizes[:16] + head + sizes[16:]))
    for array in arrays:
        _write_all(stream, array)


def _receive(stream: Any) -> Any:
    """The next message; its arrays share one piece of memory.

    Raises:
        EOFError: the other end is gone.
    """
    length, count = struct.unpack("<QQ", _read_all(stream, 16))
    head = _read_all(stream, length + 8 * count)
    ends = np.cumsum(np.frombuffer(head[length:], "<u8"), dtype=np.int64)
    whole = _read_all(stream, int(ends[-1]) if count else 0)
    arrays = [whole[start:end] for start, end in zip((0, *ends[:-1]), ends, strict=False)]
    return pickle.loads(head[:length], buffers=arrays)


def _read_all(stream: Any, size: int) -> memoryview:
    found = memoryview(np.empty(size, np.uint8).data)
    done = 0
    while done < size:
        count = stream.readinto(found[done:])
        if not count:
            raise EOFError
        done += count
    return found


def _write_all(stream: Any, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]
