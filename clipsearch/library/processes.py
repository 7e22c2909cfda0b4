"""Photos read in processes: as many as there are cores, and some that a GPU helps.

Decoding itself leaves the interpreter lock to other threads; what is done around it (headers, EXIF,
bookkeeping: a seventh of the time) does not, so that threads read some 1,200 photos a second of
500 px at most, however many cores there are. A GPU takes ten times as many. Processes spread the
work over interpreters, and a file that crashes a decoder costs itself only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from queue import PriorityQueue
from typing import IO, Any, NamedTuple

import numpy as np

from clipsearch.errors import SkippedPhoto
from clipsearch.library.reading import Found, PhotoReader

# Fewer files are read before as many interpreters have started.
LEAST_FILES = 1000
LEAST_PROCESSES = 4
# A process with a GPU takes 5 seconds to start, and half a gigabyte of the GPU's memory.
LEAST_FILES_FOR_GPU = 20_000
MOST_WITH_GPU = 4
# Whose towers take more photos than threads can read.
FAST_DEVICES = ("cuda",)

_FILES_AT_ONCE = 32  # in one message: what a message costs, it costs this process's interpreter
_PIPE_BYTES = 1 << 18  # Linux's own 64 KB take more turns; all pipes of a user have 64 MB


class ReaderProcesses:
    """What `here` reads, read by `count` processes; as many threads should call `read` at a time.

    A process is started when it is first needed, and ends with this one however it ends. Where none
    can be started, files are read in the calling thread.

    Attributes:
        here: reads in the calling thread, what the processes do in theirs.
    """

    at_once = _FILES_AT_ONCE

    def __init__(self, here: PhotoReader, count: int) -> None:
        self.here = here
        self._works = True
        self._closed = False
        self._lock = threading.Lock()
        self._starting: set[_Process] = set()
        self._started: set[_Process] = set()
        self._free: PriorityQueue[_Place] = PriorityQueue()
        for number in range(count):
            self._free.put(_Place(True, number, None))

    def __enter__(self) -> ReaderProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        """To be called when no thread reads any more."""
        with self._lock:
            self._closed = True
            for process in self._starting:
                process.kill()  # whoever started it sees to the rest
            for process in self._started:
                process.close()

    def add(self, reader: PhotoReader, count: int) -> None:
        """Have `count` more processes, which come first once they are there: they start meanwhile.

        One that cannot be started, or is lost, is done without.
        """
        for number in range(count):
            starter = threading.Thread(target=self._add_one, args=(reader, number), daemon=True)
            starter.start()

    def _add_one(self, reader: PhotoReader, number: int) -> None:
        with contextlib.suppress(*_LOST):
            self._free.put(_Place(False, number, self._start(reader)))

    def _start(self, reader: PhotoReader) -> _Process:
        with self._lock:  # none may be started after all were ended
            if self._closed:
                raise EOFError
            process = _Process()
            self._starting.add(process)
        try:
            process.begin(reader)
        except _LOST:
            process.close()
            raise
        finally:
            with self._lock:
                self._starting.remove(process)
        with self._lock:
            self._started.add(process)
            if self._closed:
                process.close()
        return process

    def read(self, paths: Sequence[str]) -> list[Found]:
        """As `PhotoReader.read`; a file that ends its process also when it is alone is skipped."""
        place = self._free.get()
        found: list[Found] | None = None
        lost = False
        try:
            if place.process is None:
                place = place._replace(process=self._start_usual())
            if place.process is not None:
                found = place.process.read(paths)
        except _LOST:
            assert place.process is not None
            place.process.close()
            place, lost = place._replace(process=None), True
        finally:
            if place.process is not None or not place.is_extra:
                self._free.put(place)
        if not lost:
            # Also what went wrong there: it goes wrong here too, and is told in the usual way.
            return self.here.read(paths) if found is None else found
        if len(paths) > 1:
            return [one for path in paths for one in self.read([path])]
        return self.read(paths) if place.is_extra else [_crashed(paths[0])]

    def _start_usual(self) -> _Process | None:
        """None where no process can be started, now or later."""
        if self._works:
            try:
                return self._start(self.here)
            except _LOST:
                self._works = False
        return None


class _Place(NamedTuple):
    """Who reads next: the least of them. `number` tells those of a kind apart."""

    is_usual: bool
    number: int
    process: _Process | None

    @property
    def is_extra(self) -> bool:
        return not self.is_usual


def _crashed(path: str) -> SkippedPhoto:
    return SkippedPhoto(path, "the process that decoded it crashed or was ended", retry=True)


# A numerical library's threads would spin at the start of each process on every core.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


# One end -----------------------------------------------------------------------------------------

# The other end is gone, or what it says cannot be understood.
_LOST = (OSError, EOFError, ValueError, pickle.UnpicklingError)


class _Process:
    """One process that reads; for one thread at a time."""

    def __init__(self) -> None:
        if not sys.executable:  # as in a program that only embeds Python
            raise FileNotFoundError
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pipesize=_PIPE_BYTES,
            env=os.environ | _ONE_THREAD,
        )

    def begin(self, reader: PhotoReader) -> None:
        """Tell it how to read, and wait until it can."""
        _send(self._stdin, sys.path)
        _send(self._stdin, reader)
        _receive(self._stdout)

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

    def kill(self) -> None:
        """End it, whatever it does: it keeps nothing."""
        self._process.kill()

    def close(self) -> None:
        """End it, and give back what it took here."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                stream.close()


# The process that asks decides when to stop: whoever presses Ctrl-C means that one. The search path
# comes before this package, which may have been found by it alone.
_START = """
import pickle, signal, struct, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
length, buffers = struct.unpack("<QQ", sys.stdin.buffer.raw.read(16))
sys.path[:] = pickle.loads(sys.stdin.buffer.raw.read(length))
from clipsearch.library.processes import serve
serve()
"""


def serve() -> None:
    """The life of a process that reads: answers what comes on stdin until that ends."""
    asked = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a decoder prints must not come between the answers
    with contextlib.suppress(EOFError, BrokenPipeError):
        reader: PhotoReader = _receive(asked)
        try:
            reader.prepare()
        except Exception:  # whatever it was, who asked does without
            return
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
