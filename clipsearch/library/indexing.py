"""One run of `index`: look at the folders, read what is new, embed it, keep it, forget what went.

It goes over the folders twice. The first walk only compares one `stat` a file with the catalogue
and puts what has to be read on a spool on disk, so that the time left can be told and memory does
not grow with the library. The second takes the spool through the pipeline, and every batch is
committed whole: killed anywhere, the next run goes on where this one was.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

from clipsearch.errors import SkippedPhoto, VanishedPhoto
from clipsearch.library.pipeline import Job, Pipeline, Reading
from clipsearch.library.processes import (
    FAST_DEVICES,
    LEAST_FILES,
    LEAST_FILES_FOR_GPU,
    LEAST_PROCESSES,
    MOST_PROCESSES,
    MOST_WITH_GPU,
    ReaderProcesses,
)
from clipsearch.library.reading import Found, GpuPhotoReader, PhotoReader
from clipsearch.library.reports import IndexReport, Progress
from clipsearch.library.roots import as_known, relative_to, root_of, scan_root, why_unavailable
from clipsearch.photos.decode import NotAPhoto, digest_photo
from clipsearch.records import FoundFile
from clipsearch.store.known import KnownPhotos

if TYPE_CHECKING:
    from clipsearch.models.encoder import LocalEncoder
    from clipsearch.store.catalog import Catalog, Changes, Problem
    from clipsearch.store.reader import Model, Root

Show = Callable[[Progress], None]
# What reads files: in its own thread, or in processes.
Reader = PhotoReader | ReaderProcesses

# A commit is one fsync: some milliseconds on a laptop's disk. At most so much work is done again
# after a crash.
COMMIT_SECONDS = 1.0
COMMIT_FILES = 1024


class FileJob(NamedTuple):
    """A file to be read."""

    root_id: int
    root_path: str
    file: FoundFile

    @property
    def path(self) -> str:
        return os.path.join(self.root_path, self.file.relative_path)


class PhotoJob(NamedTuple):
    """A known photo that lacks a vector under the model, and the places it may be read from.

    Once it was read, there is one place: the one that it was read from, or the one to blame.
    """

    photo_id: int
    digest: bytes
    places: tuple[FileJob, ...]


class Spool:
    """Files to be read, in order, on disk rather than in memory."""

    def __init__(self) -> None:
        self._lines: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115
        self.files = 0

    def add(self, root: Root, file: FoundFile) -> None:
        self._lines.write(json.dumps((root.id, root.path, file)) + "\n")
        self.files += 1

    def jobs(self) -> Iterator[FileJob]:
        self._lines.seek(0)
        for line in self._lines:
            root_id, root_path, file = json.loads(line)
            yield FileJob(root_id, root_path, FoundFile(*file))

    def close(self) -> None:
        self._lines.close()


class IndexRun:
    """One run over some roots with one model.

    Args:
        catalog: open for writing; the caller holds the lock.
        model: the row of the encoder's model in the catalogue.
        show: called with each step of progress, in the caller's thread.
        named: folders that the user named; one that the walk passes over is told.

    Attributes:
        report: what was done so far.
        unreadable: known photos that `fill` found in their places and could not embed.
    """

    def __init__(
        self,
        catalog: Catalog,
        encoder: LocalEncoder,
        model: Model,
        *,
        threads: int,
        max_megapixels: float | None,
        show: Show | None,
        named: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._model = model
        self._threads = threads
        self._max_megapixels = max_megapixels
        self._named = [as_known(path, catalog.roots()) for path in named]
        self._show = show or (lambda step: None)
        self._started = time.perf_counter()
        self._told: set[str] = set()
        self.report = IndexReport()
        self.unreadable = 0

    def run(self, roots: Sequence[Root]) -> None:
        """Bring these roots up to date; `report` tells what was done."""
        scan_id = self._catalog.begin_scan()
        gone: list[int] = []
        with (
            closing(Spool()) as spool,
            closing(KnownPhotos(self._catalog.folder, self._model.id)) as known,
            Pipeline[FileJob](self._encoder, threads=self._threads) as pipeline,
            self._readers(known) as readers,  # ended first: the pipeline waits for who reads
        ):
            for root in roots:
                gone += self._look_at(root, spool, partial(self._load_ahead, pipeline, known))
            changes = self._read(spool, pipeline, readers, scan_id)
        changes += self._catalog.remove_files(gone, scan_id)
        report = self.report
        report.added, report.copied, report.moved = changes.added, changes.copied, changes.moved
        report.changed, report.removed = changes.changed, changes.removed
        report.touched, report.not_photos = changes.touched, changes.not_photos
        self._catalog.finish_scan(
            scan_id, {**asdict(changes), "unchanged": report.unchanged, "embedded": report.embedded}
        )

    def _readers(self, known: KnownPhotos | None = None) -> ReaderProcesses:
        here = PhotoReader(
            self._encoder.preprocess, max_megapixels=self._max_megapixels, known=known
        )
        return ReaderProcesses(here, min(self._threads, MOST_PROCESSES))

    def _look_at(
        self, root: Root, spool: Spool, load_ahead: Callable[[FileJob], None]
    ) -> list[int]:
        """Compare one root with the catalogue: files to read to the spool, files gone returned."""
        known_files = self._catalog.count_files(root.id)
        if reason := why_unavailable(root.path, known_files):
            self._catalog.set_root_available(root.id, False)
            self.report.unavailable.append((root.path, reason))
            return []
        roots = self._catalog.roots()
        scan = scan_root(root, roots)
        gone: dict[str, list[int]] = {}
        seen: set[str] = set()
        for folder in scan:
            changes = self._catalog.compare_folder(root.id, folder.relative_path, folder.files)
            seen.add(folder.relative_path)
            if changes.gone:
                gone[folder.relative_path] = changes.gone
            self.report.unchanged += changes.unchanged
            if changes.to_read and not spool.files:
                load_ahead(FileJob(root.id, root.path, changes.to_read[0]))
            for file in changes.to_read:
                spool.add(root, file)
            self._tell("looking for photos", spool.files + self.report.unchanged, None)
        self.report.unreadable_folders += [
            (os.path.join(root.path, place), reason) for place, reason in scan.unreadable
        ]
        if not scan.complete:
            # Its disk went away meanwhile: what was not seen may well be there.
            self._catalog.set_root_available(root.id, False)
            self.report.unavailable.append((root.path, "it went away while it was read"))
            return []
        self._catalog.set_root_available(root.id, True)
        for path in self._named:
            inner, place = root_of(path, roots), relative_to(path, root.path)
            if inner is None or inner.id != root.id or place in seen or place == os.curdir:
                continue
            if os.path.isdir(path) and not scan.is_unreadable(place):
                self.report.warnings.append(_passed_over(path, root.path))
        if sorted(scan.mounts) != root.options.get("mounts", []):
            options = {**root.options, "mounts": sorted(scan.mounts)}
            self._catalog.add_root(root.path, options)
        for known in self._catalog.folders_of(root.id):
            if known not in seen and not scan.is_unreadable(known):
                gone[known] = self._catalog.compare_folder(root.id, known, []).gone
        # A folder may have lost its disk between the look at it and the end of the walk.
        return [one for place in gone if not scan.is_unreadable(place) for one in gone[place]]

    def _read(
        self,
        spool: Spool,
        pipeline: Pipeline[FileJob],
        readers: ReaderProcesses,
        scan_id: int,
    ) -> Changes:
        """Take the spooled files through the pipeline and commit them."""
        from clipsearch.store.catalog import Changes

        changes = Changes()
        started = time.perf_counter()
        done = 0
        uncommitted: list[Reading[FileJob]] = []
        committed_at = started
        reader = self._best(readers, spool.files)
        read = partial(_read_files, reader)
        for batch in pipeline.run(spool.jobs(), read, at_once=reader.at_once):
            uncommitted += batch
            done += len(batch)
            now = time.perf_counter()
            if now - committed_at > COMMIT_SECONDS or len(uncommitted) > COMMIT_FILES:
                changes += self._commit(uncommitted, scan_id)
                uncommitted, committed_at = [], now
            self._tell("indexing", done, spool.files, since=started)
        changes += self._commit(uncommitted, scan_id)
        self.report.encoding_seconds += time.perf_counter() - started
        return changes

    def _best(self, readers: ReaderProcesses, files: int) -> Reader:
        """Processes where threads could not read as fast as the encoder goes."""
        if files < LEAST_FILES or self._threads < LEAST_PROCESSES:
            return readers.here
        if self._encoder.device not in FAST_DEVICES:
            return readers.here
        if files >= LEAST_FILES_FOR_GPU:
            readers.add(GpuPhotoReader(readers.here), min(self._threads // 4, MOST_WITH_GPU))
        return readers

    def _load_ahead(self, pipeline: Pipeline[FileJob], known: KnownPhotos, first: FileJob) -> None:
        """Load the encoder if the first file is a photo to encode, not one that was moved."""
        pipeline.load_ahead(
            lambda: not known.has_vector(digest_photo(first.path, may_know=known.holds_format))
        )

    def _commit(self, readings: Sequence[Reading[FileJob]], scan_id: int) -> Changes:
        """One transaction for what was read."""
        from clipsearch.store.catalog import Entry

        entries = []
        problems = []
        for reading in readings:
            job, problem = reading.job, reading.problem
            if isinstance(problem, VanishedPhoto):
                continue  # the next scan will tell whether it is gone, or its disk
            if problem is None:
                entries.append(
                    Entry(job.root_id, job.file, reading.digest, reading.facts, reading.vector)
                )
            else:
                is_photo = not isinstance(problem, NotAPhoto)
                problems.append(self._skip(job, problem, is_photo, reading.digest))
        self.report.embedded += sum(reading.vector is not None for reading in readings)
        return self._catalog.commit_batch(self._model.id, scan_id, entries, problems)

    def _skip(
        self, job: FileJob, problem: SkippedPhoto, is_photo: bool, digest: bytes = b""
    ) -> Problem:
        """Report a file that gave no vector; what the catalogue is to keep of it."""
        from clipsearch.store.catalog import Problem

        if is_photo and job.path not in self._told:
            self._told.add(job.path)
            self.report.skipped.append((job.path, problem.reason))
            if problem.retry:
                self.report.mendable.add(problem.reason)
        # A time that no file has makes the next run look at it again.
        file = job.file._replace(mtime_ns=-1) if problem.retry else job.file
        return Problem(
            *(job.root_id, file, problem.reason, is_photo), passing=problem.retry, digest=digest
        )

    def fill(self) -> int:
        """Embed the photos that have no vector under the model; how many still have none.

        A photo that lies on a disk that is not there now stays without. So does one that cannot be
        read any more, or that the model makes nothing of; that one is reported, and tried again by
        the next run. Other models keep their vectors of both.
        """
        started = time.perf_counter()
        total = self._catalog.count_missing(self._model.id)
        if not total:
            return 0
        done = 0
        with (
            Pipeline[PhotoJob](self._encoder, threads=self._threads) as pipeline,
            self._readers() as readers,
        ):
            reader = self._best(readers, total)
            read = partial(_read_photos, reader)
            for batch in pipeline.run(self._photos_missing(), read, at_once=reader.at_once):
                vectors = [
                    (reading.job.photo_id, reading.vector)
                    for reading in batch
                    if reading.vector is not None
                ]
                # What was known to be a photo is one, whatever lies in its place.
                problems = [
                    self._skip(reading.job.places[0], reading.problem, is_photo=True)
                    for reading in batch
                    if reading.problem and not isinstance(reading.problem, VanishedPhoto)
                ]
                self._catalog.commit_embeddings(self._model.id, vectors, problems)
                self.unreadable += len(problems)
                self.report.re_embedded += len(vectors)
                self.report.embedded += len(vectors)
                done += len(batch)
                self._tell("embedding again", done, total, since=started)
        self.report.encoding_seconds += time.perf_counter() - started
        return self._catalog.count_missing(self._model.id)

    def _photos_missing(self) -> Iterator[PhotoJob]:
        after = 0
        while page := self._catalog.photos_missing(self._model.id, 500, after):
            for photo in page:
                places = tuple(FileJob(*file) for file in photo.files)
                yield PhotoJob(photo.photo_id, photo.digest, places)
            after = page[-1].photo_id

    def _tell(
        self, phase: str, done: int, total: int | None, *, since: float | None = None
    ) -> None:
        seconds = time.perf_counter() - (self._started if since is None else since)
        self._show(Progress(phase, done, total, seconds, len(self.report.skipped)))


def _read_files(reader: Reader, jobs: Sequence[FileJob]) -> list[Reading[FileJob]]:
    found = reader.read([job.path for job in jobs])
    return [_reading(job, one) for job, one in zip(jobs, found, strict=True)]


def _reading(job: Job, found: Found) -> Reading[Job]:
    if isinstance(found, SkippedPhoto):
        return Reading(job, problem=found)
    return Reading(job, found.digest, found.facts, found.pixels)


def _read_photos(reader: Reader, jobs: Sequence[PhotoJob]) -> list[Reading[PhotoJob]]:
    """Read known photos, each from the first place that still holds this very content."""
    gone = VanishedPhoto("", "none of its files is there now")
    readings = [Reading(job, problem=gone) for job in jobs]
    for turn in range(max(len(job.places) for job in jobs)):
        # The other places of those that were not to be had at the ones before.
        waiting = [
            place
            for place, job in enumerate(jobs)
            if readings[place].problem and turn < len(job.places)
        ]
        if not waiting:
            break
        found = reader.read([jobs[place].places[turn].path for place in waiting])
        for place, one in zip(waiting, found, strict=True):
            job = jobs[place]
            file = job.places[turn]
            here = _reading(job._replace(places=(file,)), one)
            if here.problem is None and here.digest != job.digest:
                changed = SkippedPhoto(file.path, "it has changed since it was indexed")
                here = Reading(here.job, problem=changed)
            if not isinstance(here.problem, VanishedPhoto):
                readings[place] = here
    return readings


def _passed_over(path: str, root: str) -> tuple[str, str | None]:
    return (
        f"{path} was passed over: it lies in {root}, and is hidden, a link, or excluded there",
        "`clipsearch index --help` says how links and exclusions are changed",
    )
