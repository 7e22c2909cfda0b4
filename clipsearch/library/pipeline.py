"""From files to vectors: read in threads, encode in threads, always a bounded few ahead.

Decoding and encoding release the interpreter lock, so on a few cores threads overlap as processes
would, without copying pictures between them; for many cores the threads that read hand their files
to processes (`processes.py`). The caller's thread takes finished batches in the order of the files
and commits them; nothing waits in memory but the few batches between the stages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Generic, TypeVar

from clipsearch.errors import ModelError, NoVector, SkippedPhoto
from clipsearch.records import Float32Array, PhotoFacts, UInt8Array

if TYPE_CHECKING:
    from clipsearch.models.encoder import LocalEncoder

# Of pictures that wait for the tower to be loaded: as many as two cores read meanwhile. With no
# more than later on they were idle for half of that time.
_BYTES_AT_FIRST = 24 << 20

Job = TypeVar("Job")


@dataclass(slots=True)
class Reading(Generic[Job]):
    """What became of one file.

    Exactly one of these holds: `problem` is set; or `digest` and `facts` are set, and then
    `pixels` (on the way) or `vector` (at the end) unless the photo was known already.
    """

    job: Job
    digest: bytes = b""
    facts: PhotoFacts | None = None
    pixels: UInt8Array | None = None
    vector: Float32Array | None = None
    problem: SkippedPhoto | None = None


class Pipeline(Generic[Job]):
    """Reads files ahead of the encoder and encodes ahead of whoever takes the results.

    Args:
        encoder: its `images` is called in as many threads as it says to gain from.
        threads: how many files, or groups of them, are read at a time.
    """

    def __init__(self, encoder: LocalEncoder, *, threads: int) -> None:
        self._encoder = encoder
        self._threads = threads
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    @cached_property
    def _encoders(self) -> int:
        """How many batches are encoded at a time.

        Not asked before there is one: on a machine with a GPU the answer takes an import of torch.
        """
        return self._encoder.batches_at_once

    @cached_property
    def _encoding(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._encoders, thread_name_prefix="encode")

    def __enter__(self) -> Pipeline[Job]:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._readers, self._loader, self.__dict__.get("_encoding")):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def load_ahead(self, is_needed: Callable[[], bool]) -> None:
        """Load the encoder while the caller goes on, if it is needed.

        What fails in it fails again, and is told, when that file is read or the first batch is
        encoded.
        """
        self._loader.submit(lambda: self._encoder.load() if is_needed() else None)

    def run(
        self,
        jobs: Iterable[Job],
        read: Callable[[list[Job]], list[Reading[Job]]],
        *,
        at_once: int = 1,
    ) -> Iterator[list[Reading[Job]]]:
        """Batches of finished readings, in the order of the jobs.

        Args:
            read: called in several threads, with `at_once` jobs at a time.
        """
        waiting: deque[tuple[list[Reading[Job]], Future[None]]] = deque()
        for batch in self._batches(self._readings(jobs, read, at_once)):
            waiting.append((batch, self._encoding.submit(self._encode, batch)))
            # Besides those being encoded, one waits for its turn; more would only take memory.
            if len(waiting) > self._encoders:
                yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())

    def _readings(
        self, jobs: Iterable[Job], read: Callable[[list[Job]], list[Reading[Job]]], at_once: int
    ) -> Iterator[Reading[Job]]:
        pending = iter(jobs)
        groups = iter(lambda: list(islice(pending, at_once)), [])
        first = next(groups, None)
        if first is None:
            return
        pictures = (2 + self._encoders) * self._encoder.batch_size
        at_first = max(pictures, _BYTES_AT_FIRST // (3 * self._encoder.preprocess.size**2))
        most = max(-(-pictures // at_once), self._threads)
        most_at_first = max(-(-at_first // at_once), self._threads)
        ahead = deque(
            self._readers.submit(read, group)
            for group in chain([first], islice(groups, most_at_first - 1))
        )
        while ahead:
            yield from ahead.popleft().result()
            if len(ahead) < most:
                ahead.extend(self._readers.submit(read, group) for group in islice(groups, 1))

    def _batches(self, readings: Iterable[Reading[Job]]) -> Iterator[list[Reading[Job]]]:
        """Lists that hold `batch_size` pictures to encode, and whatever lay between them."""
        batch: list[Reading[Job]] = []
        pictures: set[bytes] = set()
        for reading in readings:
            if reading.pixels is not None:
                if reading.digest in pictures:
                    reading.pixels = None  # the same picture twice in one batch
                pictures.add(reading.digest)
            batch.append(reading)
            # The second bound lets a run of known or broken files be committed now and then.
            if len(pictures) >= self._encoder.batch_size or len(batch) >= 512:
                yield batch
                batch, pictures = [], set()
        if batch:
            yield batch

    def _encode(self, batch: list[Reading[Job]]) -> None:
        waiting = [reading for reading in batch if reading.pixels is not None]
        if not waiting:
            return
        try:
            self._encode_together(waiting)
        except Exception as error:
            if _concerns_all(error):
                raise
            # One picture that the tower cannot take must cost itself only.
            for reading in waiting:
                self._encode_alone(reading)

    def _encode_together(self, readings: Sequence[Reading[Job]]) -> None:
        vectors = self._encoder.images([_pixels(reading) for reading in readings])
        for reading, vector in zip(readings, vectors, strict=True):
            reading.vector, reading.pixels = vector, None

    def _encode_alone(self, reading: Reading[Job]) -> None:
        try:
            self._encode_together([reading])
        except Exception as error:
            if _concerns_all(error):
                raise
            reason = f"the model failed on it ({type(error).__name__})"
            if isinstance(error, NoVector):
                reason = "the model gave no usable vector for it"
            # Another model, or this one in another precision, may well take it.
            reading.problem = SkippedPhoto(str(reading.job), reason, retry=True)
            reading.pixels = None


def _pixels(reading: Reading[Job]) -> UInt8Array:
    assert reading.pixels is not None
    return reading.pixels


def _concerns_all(error: Exception) -> bool:
    """Whether an error of the encoder is no matter of the pictures that it was given."""
    return isinstance(error, (ModelError, MemoryError, OSError)) and not isinstance(error, NoVector)


def _finished(pair: tuple[list[Reading[Job]], Future[None]]) -> list[Reading[Job]]:
    batch, encoded = pair
    encoded.result()
    return batch
