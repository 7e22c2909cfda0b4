"""The library: the only place where photos, models, store and search meet.

    with Library.open("~/photos.clipsearch") as library:      # created if new
        library.index(["~/Photos"])
        for hit in library.query("sunset over ocean", k=10):
            print(hit.score, hit.path)

Indexing lives in `library.indexing`, answering in `library.querying`; this module is what the
command line and other programs call. Heavy parts are imported by the methods that need them: a
query loads neither torch nor SQLAlchemy.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from clipsearch.errors import ModelError, StorageError, UsageError
from clipsearch.library.reports import (
    Hit,
    IndexReport,
    ModelStatus,
    Progress,
    RootStatus,
    SearchResult,
    Status,
    embed_again,
)
from clipsearch.paths import absolute, expanded, here

if TYPE_CHECKING:
    from clipsearch.library.indexing import IndexRun
    from clipsearch.models.encoder import LocalEncoder
    from clipsearch.store.catalog import Catalog
    from clipsearch.store.check import Finding
    from clipsearch.store.reader import Model

__all__ = [
    "Hit",
    "IndexReport",
    "Library",
    "ModelStatus",
    "Progress",
    "RootStatus",
    "SearchResult",
    "Status",
    "default_folder",
]

StrPath = str | os.PathLike[str]

# One may stand for a list of one: a text is a sequence of letters, and `exclude="*.png"` would
# leave out "*", which is everything.
Paths = StrPath | Sequence[StrPath]
Texts = str | Sequence[str]
_One = TypeVar("_One", str, StrPath)

# `index --watch` looks again after this long, or after twenty times as long as a look takes.
WATCH_SECONDS = 5.0


def default_folder() -> Path:
    """CLIPSEARCH_LIBRARY, else the platform's folder for user data."""
    if named := os.environ.get("CLIPSEARCH_LIBRARY"):
        return expanded(named)
    from platformdirs import user_data_path

    return user_data_path("clipsearch", appauthor=False) / "library"


def _cores() -> int:
    """The processor cores that this process may use, which may be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Library:
    """The photos of some folders, with their vectors, in one folder of its own.

    One process at a time may change a library; any number may search it meanwhile.
    """

    def __init__(self, folder: Path, *, device: str, precision: str, threads: int | None) -> None:
        self.folder = folder
        self._device = device
        self._precision = precision
        self._threads = threads or _cores()
        self._encoders: dict[str, LocalEncoder] = {}
        self._last_look_seconds = 0.0
        self._skipped: set[tuple[str, str]] = set()

    @classmethod
    def open(
        cls,
        folder: StrPath | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> Library:
        """The library in `folder` (default: `default_folder()`), created by its first `index`.

        Args:
            device: where towers run: auto, cpu, cuda, mps.
            precision: arithmetic of the towers: auto, fp32, bf16, fp16, int8.
            threads: processor threads; default: all cores.
        """
        place = default_folder() if folder is None else expanded(folder)
        if not place.is_absolute():
            place = Path(here(), place)
        return cls(place, device=device, precision=precision, threads=threads)

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the models; the library itself holds nothing open between calls."""
        self._encoders.clear()

    def exists(self) -> bool:
        """Whether there is a library in the folder.

        Raises:
            StorageError: nobody may look there.
        """
        try:
            return (self.folder / "catalog.sqlite").exists()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(
                f"cannot look for a library in {self.folder} ({reason})",
                hint="choose another folder with `--library DIR`, or see who may read there",
            ) from error

    # ------------------------------------------------------------------------------- indexing

    def index(
        self,
        paths: Paths = (),
        *,
        model: str | None = None,
        exclude: Texts | None = None,
        follow_links: bool | None = None,
        max_megapixels: float | None = None,
        wait: bool = False,
        progress: Callable[[Progress], Any] | None = None,
    ) -> IndexReport:
        """Bring the library up to date with these folders, or with all it knows.

        Args:
            paths: folders; new ones are remembered.
            model: what `clipsearch models` lists, or a directory; fetched over the network if it
                is not here. Default: the model in use; for a new library CLIPSEARCH_MODEL, else
                pocket. Another model than the one in use fills a second set of vectors and takes
                over when that is complete; so does a new release of pocket, unasked.
            exclude: gitignore patterns, remembered with the folders; None keeps those known.
            follow_links: enter links to folders; None keeps what is known.
            max_megapixels: larger pictures are skipped; None goes by the free memory.
            wait: wait while another process is writing, instead of raising LibraryLocked.
            progress: called with each step.
        Raises:
            UsageError, PhotoFolderError, ModelError, LibraryInTheWay, StorageError.
        """
        from clipsearch.library.indexing import IndexRun
        from clipsearch.library.roots import choose_roots
        from clipsearch.store.catalog import Catalog
        from clipsearch.store.lock import writer_lock

        started = time.perf_counter()
        paths = _each(paths)
        exclude = None if exclude is None else _each(exclude)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(
                f"cannot keep a library in {self.folder} ({reason})",
                hint="choose another folder with `--library DIR`, or see who may write there",
            ) from error
        with writer_lock(self.folder, wait=wait), Catalog.open(self.folder) as catalog:
            roots = choose_roots(catalog, paths, exclude=exclude, follow_links=follow_links)
            active = next((known for known in catalog.models() if known.active), None)
            encoder = self._encoder(_model_name(model, active), fetch=model is not None)
            target = self._model_row(catalog, encoder, active, named=model is not None)
            run = IndexRun(
                catalog,
                encoder,
                target,
                threads=self._threads,
                max_megapixels=max_megapixels,
                show=progress,
                named=paths,
            )
            run.run(roots)
            missing = run.fill()
            self._switch(catalog, target, active, missing, run)
            self._refresh_index()
            answering = next(known for known in catalog.models() if known.active)
            run.report.model = answering.name
            if answering.id != target.id:
                missing = catalog.count_missing(answering.id)
            run.report.photos = catalog.count_photos() - missing
        report = run.report
        report.seconds = time.perf_counter() - started
        skipped = set(report.skipped)
        report.skipped_before, self._skipped = skipped <= self._skipped, skipped
        self._last_look_seconds = report.seconds
        # Reading the same files again to no avail, as those above a limit, is part of looking.
        if not report.skipped or report.changed_anything or report.touched:
            self._last_look_seconds -= report.encoding_seconds
        return report

    def _model_row(
        self, catalog: Catalog, encoder: LocalEncoder, active: Model | None, *, named: bool
    ) -> Model:
        """The catalogue's row of the encoder's model, made if it is new."""
        # pocket changes with the program, and nothing else can be done about it; a directory that
        # holds another model than before may be a mistake.
        if (
            active
            and not named
            and active.name != "pocket"
            and active.image_fingerprint != encoder.fingerprints.image
        ):
            raise ModelError(
                f"the model {active.name} is no longer the one this library was made with",
                hint=f"embed the photos again with `{embed_again(active.name)}`",
            )
        return catalog.add_model(encoder.name, encoder.fingerprints, encoder.dim)

    def _encoder(self, name: str, *, fetch: bool = False) -> LocalEncoder:
        """The encoder of a model; with `fetch`, over the network if it is not on this machine.

        It is kept for as long as the model's files stay what they were.
        """
        from clipsearch.models import is_here, load_encoder, pull

        if fetch and not is_here(name):
            pull(name)
        encoder = self._encoders.get(name)
        if encoder is None or encoder.is_outdated:
            encoder = self._encoders[name] = load_encoder(
                name,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
            )
        return encoder

    def _switch(
        self,
        catalog: Catalog,
        target: Model,
        active: Model | None,
        missing: int,
        run: IndexRun,
    ) -> None:
        """Let the target model answer, as soon as it can find all that can be found now.

        At once, if it took the name of the model in use: that one is gone, and can answer no text.
        """
        if active is None:
            catalog.activate(target.id)
            return
        if active.id == target.id:
            return
        replaced = active.name == target.name
        report = run.report
        if missing and not replaced:
            report.warnings.append(
                (
                    f"{active.name} still answers: {_photos(missing)} no vector of {target.name} "
                    "yet, as the files cannot be read now",
                    _way_on(f"clipsearch index --model {target.name}", missing, run.unreadable),
                )
            )
            if unseen := catalog.count_missing(active.id):  # those that this run found
                report.warnings.append(
                    (
                        f"{_photos(unseen)} no vector of {active.name} and cannot be found as long "
                        "as it answers",
                        "`clipsearch index` makes that, too",
                    )
                )
            return
        catalog.activate(target.id)
        if missing:
            report.warnings.append(
                (
                    f"{_photos(missing)} no vector of the new {target.name} yet and cannot be "
                    "found, as the files cannot be read now",
                    _way_on("clipsearch index", missing, run.unreadable),
                )
            )
        new, old = target.name, active.name
        if replaced:
            new, old = f"the new {new}", f"the {old} before it"
        report.warnings.append(
            (
                f"{new} answers from now on; the vectors of {old} are kept",
                "`clipsearch compact` drops them and gives the space back",
            )
        )

    def _refresh_index(self) -> None:
        """Bring the FAISS file up to date, if the library is large enough for one."""
        from clipsearch.store import ann
        from clipsearch.store.reader import Reader

        with Reader.open(self.folder) as reader:
            model = reader.active_model()
            if model is not None:
                ann.refresh(self.folder, reader, model)

    def wait_for_changes(self) -> None:
        """Sleep until it is time for `index --watch` to look again."""
        time.sleep(max(WATCH_SECONDS, 20 * self._last_look_seconds))

    # ------------------------------------------------------------------------------ answering

    def query(self, text: str = "", **options: Any) -> list[Hit]:
        """The hits of `search`, best first.

        `folder` may stand for `folders`, and `image` for `images`, when there is but one.
        """
        for one, several in (("folder", "folders"), ("image", "images")):
            if options.get(one) is not None:
                options[several] = [*_each(options.get(several, ())), options[one]]
            options.pop(one, None)
        return self.search(text, **options).hits

    def search(
        self,
        text: str = "",
        *,
        images: Paths = (),
        also: Texts = (),
        away: Texts = (),
        k: int = 10,
        folders: Paths = (),
        after: str | None = None,
        before: str | None = None,
        camera: str | None = None,
        exact: bool = False,
        include_self: bool = False,
    ) -> SearchResult:
        """The photos that look most like it.

        Args:
            text: what to look for; "snow:2" weighs two.
            images: photos to look like, in the library or not.
            also, away: more words to look for, and words to stay away from.
            k: how many hits at most.
            folders: only photos below one of these; relative ones are taken below the roots.
            after, before: only photos taken in this time: '2024', '2024-06', '2024-06-15'.
            camera: only photos from cameras whose name has this in it.
            exact: compare with every vector instead of using the index.
            include_self: keep the query images themselves and their exact copies.
        Raises:
            UsageError: nothing to look for, or a nonsense number, date or folder.
            NoLibrary, LibraryInTheWay, ModelError, SkippedPhoto.
        """
        from clipsearch.library.querying import Query, Request, make_filters
        from clipsearch.search import check_k, parse_words
        from clipsearch.store.reader import Reader

        words = [parse_words(part) for part in [*([text] if text.strip() else []), *_each(also)]]
        words += [parse_words(part, sign=-1) for part in _each(away)]
        images, folders = _each(images), _each(folders)
        if not words and not images:
            raise UsageError(
                "nothing to look for",
                hint='say what: `clipsearch query "sunset over ocean"`, or give --image FILE',
            )
        check_k(k)
        with Reader.open(self.folder) as reader:
            request = Request(
                words,
                [absolute(image) for image in images],
                k,
                make_filters(reader, folders=folders, after=after, before=before, camera=camera),
                exact,
                include_self,
            )
            return Query(self.folder, reader, self._encoder).answer(request)

    def search_each(
        self,
        texts: Sequence[str],
        *,
        k: int = 10,
        folders: Paths = (),
        after: str | None = None,
        before: str | None = None,
        camera: str | None = None,
        exact: bool = False,
    ) -> Iterator[SearchResult]:
        """A result for each text, in their order, from one look at the library.

        Many texts share the matrix products of the text tower and of the search; the other words
        mean what they mean to `search`. A weight ("snow:2") changes nothing: each text is the
        whole of its query.

        Raises: when the first result is asked for.
            UsageError: a blank text, or a nonsense weight, number, date or folder.
            NoLibrary, LibraryInTheWay, ModelError.
        """
        from clipsearch.library.querying import Query, Request, make_filters
        from clipsearch.search import check_k, parse_words
        from clipsearch.store.reader import Reader

        check_k(k)
        if not all(text.strip() for text in texts):
            raise UsageError("a query is empty", hint="leave blank lines out")
        texts = [parse_words(text).text for text in texts]
        with Reader.open(self.folder) as reader:
            filters = make_filters(
                reader, folders=_each(folders), after=after, before=before, camera=camera
            )
            request = Request((), (), k, filters, exact, include_self=True)
            yield from Query(self.folder, reader, self._encoder).answer_each(texts, request)

    # ------------------------------------------------------------------------------ looking after

    def status(self) -> Status:
        """What the library holds, with which model, and how it is searched.

        Raises:
            NoLibrary, LibraryInTheWay.
        """
        from clipsearch.library.roots import left_out_of
        from clipsearch.store import ann
        from clipsearch.store.reader import Reader

        with Reader.open(self.folder) as reader:
            counts = reader.counts()
            active = reader.active_model()
            return Status(
                folder=str(self.folder),
                photos=counts.photos,
                files=counts.files,
                problems=counts.problems,
                size_bytes=_bytes_below(self.folder),
                roots=[
                    RootStatus(
                        root.path,
                        root.available,
                        reader.count_files(root.id),
                        root.last_scanned,
                        [
                            *root.options.get("exclude", ()),
                            *(f"/{place}" for place in left_out_of(root)),
                        ],
                    )
                    for root in reader.roots()
                ],
                models=[
                    ModelStatus(
                        model.name,
                        model.dim,
                        reader.count_rows(model.id),
                        model.active,
                        model.image_fingerprint,
                        self._is_replaced(model),
                    )
                    for model in reader.models()
                ],
                search=ann.in_words(self.folder, reader, active) if active else "no photos yet",
            )

    def _is_replaced(self, model: Model) -> bool:
        """Whether its name stands for another model now, as pocket's does after an update."""
        try:
            now = self._encoder(model.name).fingerprints.image
        except ModelError:  # it is not on this machine, and says so when it is needed
            return False
        return now != model.image_fingerprint

    def problems(self, *, all: bool = False) -> list[tuple[str, str]]:
        """(path, reason) of files that could not be read; with `all`, also of no pictures."""
        from clipsearch.store.reader import Reader

        with Reader.open(self.folder) as reader:
            return [(problem.path, problem.reason) for problem in reader.problems(all=all)]

    def check(self, *, repair: bool = False, wait: bool = False) -> list[Finding]:
        """What is wrong with the library, and with `repair` what was done about it.

        Raises:
            NoLibrary, LibraryInTheWay: with `repair`, LibraryLocked while another writes.
        """
        from clipsearch.store import check
        from clipsearch.store.lock import writer_lock

        if not repair:
            return check.check(self.folder)
        with writer_lock(self.folder, wait=wait):
            return check.repair(self.folder)

    def remove(self, paths: Paths, *, wait: bool = False) -> tuple[int, int]:
        """Forget folders or photos; nothing on the disk is touched.

        A root is forgotten whole. What lies inside a root is also left out from now on: its
        name joins the root's exclusions, else the next `index` would bring it back.

        Returns:
            How many files and how many photos were forgotten.
        Raises:
            PhotoFolderError: a path that the library does not know.
        """
        from clipsearch.library.forgetting import forget
        from clipsearch.store.catalog import Catalog
        from clipsearch.store.lock import writer_lock

        with writer_lock(self.folder, wait=wait), Catalog.open(self.folder) as catalog:
            forgotten = forget(catalog, _each(paths))
            self._refresh_index()
        return forgotten

    def compact(self, *, search: str | None = None, wait: bool = False) -> tuple[int, int]:
        """Drop the vectors of models that were replaced; the library's bytes before and after.

        Args:
            search: how queries shall be answered from now on: "exact" compares every vector and
                needs no index file, "lists" makes one from 256 photos on, "auto" (as a library
                begins) from 10,000 on. None leaves it as it is.

        Raises:
            UsageError: another word.
            LibraryLocked: somebody else is writing, and `wait` is off.
        """
        from clipsearch.store import ann
        from clipsearch.store.catalog import Catalog
        from clipsearch.store.lock import writer_lock

        if search is not None and search not in ann.KINDS:
            raise UsageError(
                f"no such way to search: {search!r}", hint=f"one of: {', '.join(ann.KINDS)}"
            )
        before = _bytes_below(self.folder)
        with writer_lock(self.folder, wait=wait), Catalog.open(self.folder) as catalog:
            if search is not None:
                catalog.put_setting(ann.CHOICE, search)
            catalog.compact()
            self._refresh_index()
        return before, _bytes_below(self.folder)


def _each(given: _One | Sequence[_One]) -> Sequence[_One]:
    """What was given, as a sequence if it was a single text or path."""
    return (given,) if isinstance(given, str | os.PathLike) else given


def _photos(number: int) -> str:
    return "1 photo has" if number == 1 else f"{number:,} photos have"


def _way_on(command: str, missing: int, unreadable: int) -> str:
    """What to do where photos lack a vector; of them, `unreadable` are there all the same."""
    steps = []
    if unreadable:
        steps.append("mend what `clipsearch problems` lists")
    if unreadable < missing:
        steps.append("connect their disks")
    return f"{', '.join(steps)} and run `{command}`, or drop them with `clipsearch remove`"


def _bytes_below(folder: Path) -> int:
    """Bytes of all files; journals and drafts come and go while they are counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _model_name(asked: str | None, active: Model | None) -> str:
    """What was asked for, else the model in use, else CLIPSEARCH_MODEL, else pocket.

    Raises:
        UsageError: a name that the catalogue, which keeps it as text, cannot hold.
    """
    if asked is None:
        if active is not None:
            return active.name
        asked = os.environ.get("CLIPSEARCH_MODEL") or "pocket"
    folder = expanded(asked.removeprefix("local-dir:"))
    # A directory is remembered by its whole path: the next command may be run from elsewhere.
    if asked != "pocket" and (folder / "open_clip_config.json").is_file():
        asked = str(folder.absolute())
    try:
        asked.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"a library cannot remember the model {asked}: its name is not UTF-8",
            hint="rename its directory, or import it under another name with "
            "`clipsearch models import DIR --name NAME`",
        ) from None
    return asked
