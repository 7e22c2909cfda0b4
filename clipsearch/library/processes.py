"""Photos read in processes: as many as there are cores, and some that a GPU helps.

Decoding itself leaves the interpreter lock to other threads; what is done around it (headers, EXIF,
bookkeeping: a seventh of the time) does not, so that threads read some 1,200 photos a second of
500 px at most, however many cores there are. A GPU takes ten times as many. Processes spread the
work over interpreters, and a file that crashes its decoder there costs itself only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import IO, Any

import numpy as np

from clipsearch.errors import SkippedPhoto
from clipsearch.library.reading import Found, PhotoReader

# Fewer files are read before as many interpreters have started.
LEAST_FILES = 1000
LEAST_PROCESSES = 4
# More read faster than one process can hand on.
MOST_PROCESSES = 32
# A process with a GPU takes 5 seconds to start, and up to a gigabyte of the GPU's memory.
LEAST_FILES_FOR_GPU = 20_000
MOST_WITH_GPU = 4
# Whose towers take more photos than threads can read.
FAST_DEVICES = ("cuda",)

_FILES_AT_ONCE = 32  # in one message: what a message costs, it costs this process's interpreter
_PIPE_BYTES = 1 << 18  # Linux's own 64 KB take four times the turns


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
        self._alive: set[_Process] = set()
        self._usual: SimpleQueue[_Process | None] = SimpleQueue()  # None: not started
        self._extra: SimpleQueue[_Process | None] = SimpleQueue()
        for _ in range(count):
            self._usual.put(None)

    def __enter__(self) -> ReaderProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes, whatever they do. A `read` that goes on is broken off."""
        with self._lock:
            self._closed = True
            for process in self._alive:
                process.kill()  # whoever waits for it closes it
        for queue in (self._usual, self._extra):
            with contextlib.suppress(Empty):
                while True:
                    self._close(queue.get_nowait())

    def add(self, reader: PhotoReader, count: int) -> None:
        """Have `count` more processes, which come first once they are there: they start meanwhile.

        One that cannot be started, or is lost, is done without.
        """
        for _ in range(count):
            threading.Thread(target=self._add_one, args=(reader,), daemon=True).start()

    def _add_one(self, reader: PhotoReader) -> None:
        with contextlib.suppress(CancelledError, *_LOST):
            self._give_back(self._extra, self._start(reader))

    def read(self, paths: Sequence[str]) -> list[Found]:
        """As `PhotoReader.read`; a file that ends two processes when it is read alone is skipped.

        Raises:
            CancelledError: the processes were ended meanwhile.
        """
        try:
            process = self._extra.get_nowait()
        except Empty:
            pass
        else:
            assert process is not None
            with contextlib.suppress(*_LOST):
                return self._ask(self._extra, process, paths)
        return self._read_usual(paths)

    def _read_usual(self, paths: Sequence[str]) -> list[Found]:
        for _ in range(1 if len(paths) > 1 else 2):
            process = self._usual.get()
            if process is None:
                process = self._start_usual()
            if process is None:
                self._usual.put(None)
                return self.here.read(paths)
            with contextlib.suppress(*_LOST):
                return self._ask(self._usual, process, paths)
            self._usual.put(None)
        if len(paths) > 1:
            return [one for path in paths for one in self._read_usual([path])]
        # Not to be tried again: the next run may read it in its own process.
        return [SkippedPhoto(paths[0], "whatever decodes it crashes")]

    def _ask(
        self, queue: SimpleQueue[_Process | None], process: _Process, paths: Sequence[str]
    ) -> list[Found]:
        """What the process finds, which then waits in the queue again."""
        with self._closing_if_lost(process):
            found = process.read(paths)
        self._give_back(queue, process)
        # What went wrong there goes wrong here too, and is told in the usual way.
        return self.here.read(paths) if found is None else found

    def _give_back(self, queue: SimpleQueue[_Process | None], process: _Process) -> None:
        with self._lock:
            if not self._closed:
                queue.put(process)
                return
        self._close(process)

    def _close(self, process: _Process | None) -> None:
        if process is not None:
            process.close()
            with self._lock:
                self._alive.discard(process)

    def _start(self, reader: PhotoReader) -> _Process:
        with self._lock:  # none may be started after all were ended
            if self._closed:
                raise CancelledError
            process = _Process()
            self._alive.add(process)
        with self._closing_if_lost(process):
            process.begin(reader)
        return process

    @contextlib.contextmanager
    def _closing_if_lost(self, process: _Process) -> Iterator[None]:
        """Whatever is raised may leave half an answer on the way: nobody must get the other half.

        Raises:
            CancelledError: it was ended with all others.
        """
        try:
            yield
        except BaseException:
            self._close(process)
            if self._closed:
                raise CancelledError from None
            raise

    def _start_usual(self) -> _Process | None:
        """None where no process can be started, now or later."""
        if self._works:
            try:
                return self._start(self.here)
            except _LOST:
                self._works = False
        return None


# One end -----------------------------------------------------------------------------------------

# The other end is gone, or what it says cannot be understood.
_LOST = (OSError, EOFError, ValueError, pickle.UnpicklingError)

# A numerical library's threads would spin at the start of each process on every core.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}

# The search path comes first: this package may have been found by it alone.
_START = """
import pickle, struct, sys
length, buffers = struct.unpack("<QQ", sys.stdin.buffer.raw.read(16))
sys.path[:] = pickle.loads(sys.stdin.buffer.raw.read(length))
from clipsearch.library.processes import serve
serve()
"""


class _Process:
    """One process that reads; for one thread at a time, but for `kill`."""

    def __init__(self) -> None:
        if not sys.executable:  # as in a program that only embeds Python
            raise FileNotFoundError
        with _interrupts_held():
            self._process = subprocess.Popen(
                # -P: what lies in the current folder is no module of Python's own.
                [sys.executable, "-P", "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=os.environ | _ONE_THREAD,
            )
        _widen(self._stdout)

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


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Who is started inside never hears of Ctrl-C: the process that asks decides when to stop."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where `serve` must do
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _widen(pipe: IO[bytes]) -> None:
    """Let more of an answer lie in the pipe, where the system lets us."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def serve() -> None:
    """The life of a process that reads: answers what comes on stdin until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
