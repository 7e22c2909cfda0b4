"""One query: its parts to vectors, its filters to rows, the nearest rows to hits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsearch import search
from clipsearch.errors import ModelError, ModelUnavailable, NoLibrary, SkippedPhoto, UsageError
from clipsearch.library import quiet_blas
from clipsearch.library.reports import Hit, SearchResult, embed_again
from clipsearch.paths import absolute, is_inside
from clipsearch.records import Float32Array, RowArray
from clipsearch.store import ann
from clipsearch.store.reader import Filter, Model, Reader, Root
from clipsearch.store.text_cache import TextCache

if TYPE_CHECKING:
    from clipsearch.models.encoder import LocalEncoder

# How far the scores of a part spread is learned from so many photos.
SPREAD_SAMPLE = 1000

# Queries of a file that are encoded and searched for together: few enough for any memory.
TEXTS_AT_ONCE = 256

# Of a query's words a message repeats no more than so many letters.
SHOWN_LETTERS = 40


@dataclass(frozen=True, slots=True)
class Request:
    """A query as the caller put it; `Library.search` says what each part means."""

    words: Sequence[search.Words]
    images: Sequence[str]
    k: int
    filters: Sequence[Filter]
    exact: bool
    include_self: bool


def make_filters(
    reader: Reader,
    *,
    folders: Sequence[str | os.PathLike[str]],
    after: str | None,
    before: str | None,
    camera: str | None,
) -> list[Filter]:
    """The filters of a query.

    A folder may be absolute or relative to here, also through links; one that holds no photo there,
    and does not begin with a dot, may also be relative to the roots, or to where they lie. What
    counts is whether the library knows a photo there, not whether the disk is connected.

    Raises:
        UsageError: a folder that holds no photo of the library, or a date that is none.
    """
    filters = []
    model = reader.active_model()
    for given in folders:
        folder = os.path.expanduser(os.fspath(given))
        found: list[Filter] = []
        for places in _places(folder, reader.roots()):
            found = [
                Filter("folder", place)
                for place in dict.fromkeys(places)
                if model is not None and reader.has_photos_in(model.id, place)
            ]
            if found:
                break
        if not found and model is not None:
            raise UsageError(
                f"--in {given}: the library has no photo there",
                hint="`clipsearch status` lists the folders that are indexed",
            )
        filters += found
    if after is not None:
        filters.append(Filter("after", search.date_bound(after, option="--after")))
    if before is not None:
        filters.append(Filter("before", search.date_bound(before, option="--before")))
    if camera is not None:
        # An argument may hold bytes that are no text; no camera's name does.
        filters.append(Filter("camera", camera.encode("utf-8", "replace").decode()))
    return filters


def _places(folder: str, roots: Sequence[Root]) -> Iterator[Iterable[str]]:
    """Where a folder of that name may lie, the likeliest first."""
    yield [absolute(folder)]
    from clipsearch.library.roots import as_known  # which most queries do without

    yield [as_known(folder, roots)]
    if not folder.startswith("."):
        for starts in ([root.path for root in roots], [os.path.dirname(r.path) for r in roots]):
            yield (absolute(os.path.join(start, folder)) for start in starts)


class Query:
    """Answers requests from one snapshot of a library.

    Args:
        load: gives the encoder of a model by name; called only when a part is not known yet.
    """

    def __init__(self, folder: Path, reader: Reader, load: Callable[[str], LocalEncoder]) -> None:
        self._folder = folder
        self._reader = reader
        self._load = load
        self._texts = TextCache(folder)
        self._warnings: list[tuple[str, str | None]] = []
        model = reader.active_model()
        if model is None:
            raise NoLibrary(
                f"the library in {folder} has no photos yet",
                hint="fill it with `clipsearch index ~/Pictures`",
            )
        self._model: Model = model

    def answer(self, request: Request) -> SearchResult:
        """The best hits for a request.

        Raises:
            SkippedPhoto: a query image that cannot be read.
            ModelError: the model is not the one that the library was made with.
        """
        with quiet_blas.one_thread():
            return self._answer(request)

    def _answer(self, request: Request) -> SearchResult:
        rows_to_leave_out: set[int] = set()
        parts = [
            search.Part(self._text_vector(words.text), words.weight) for words in request.words
        ]
        for path in request.images:
            vector, known_rows = self._image_vector(path)
            parts.append(search.Part(vector, 1.0))
            if not request.include_self:
                rows_to_leave_out.update(known_rows.tolist())
        vector = search.combine(parts, self._spread_sample() if len(parts) > 1 else _NO_VECTORS)
        (hits,) = self._nearest(vector[np.newaxis], request, rows_to_leave_out)
        return self._result(hits, request)

    def answer_each(self, texts: Sequence[str], request: Request) -> Iterator[SearchResult]:
        """The best hits for each of many texts; of the request, all but its words and images.

        They share the text tower's products and the search's.

        Raises:
            ModelError: the model is not the one that the library was made with.
        """
        encoder = self._encoder()
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            block = texts[start : start + TEXTS_AT_ONCE]
            # Past the cache: a long file would push out of it what people ask again and again.
            found = self._nearest(encoder.texts(block), request, frozenset())
            for text, hits in zip(block, found, strict=True):
                self._warnings += self._doubts(encoder, text)
                yield self._result(hits, request)
                self._warnings = []

    def _nearest(
        self, vectors: Float32Array, request: Request, leave_out: AbstractSet[int]
    ) -> list[list[Hit]]:
        """The hits for each of (Q, dim) unit vectors."""
        allowed = self._reader.rows_matching(self._model.id, request.filters)
        index, notice = ann.open_index(self._folder, self._model)
        neighbours = ann.nearest(
            self._reader,
            index,
            self._model,
            vectors,
            min(request.k + len(leave_out), max(1, self._model.rows)),  # room for no more
            allowed=allowed,
            exact=request.exact,
        )
        if notice := notice or neighbours.notice:
            self._warnings.append(notice)
        ranked = [
            [
                (float(score), int(row))
                for score, row in zip(scores, rows, strict=True)
                if row >= 0 and int(row) not in leave_out
            ][: request.k]
            for scores, rows in zip(neighbours.scores, neighbours.rows, strict=True)
        ]
        return self._hits(ranked, request.filters)

    def _result(self, hits: list[Hit], request: Request) -> SearchResult:
        return SearchResult(hits, self._warnings, self._why_nothing(request) if not hits else "")

    def _text_vector(self, text: str) -> Float32Array:
        """(dim,) unit: from the cache, else through the text tower."""
        name = self._model.name
        vector = self._texts.get(name, self._model.text_fingerprint, text)
        if vector is None or len(vector) != self._model.dim:
            encoder = self._encoder()
            vector = encoder.texts([text])[0]
            if doubts := self._doubts(encoder, text):
                self._warnings += doubts  # each time it is asked: so it is not cached
            else:
                self._texts.put(name, encoder.fingerprints.text, text, vector, encoder.files)
        return vector

    def _doubts(self, encoder: LocalEncoder, text: str) -> list[tuple[str, str | None]]:
        """Why the model may not read a text as it is meant."""
        doubts: list[tuple[str, str | None]] = []
        (read,) = encoder.truncated([text])
        if read is not None:
            doubts.append(
                (
                    f"the query is too long for {self._model.name}: it was read up to "
                    f"'...{read[-SHOWN_LETTERS:]}'",
                    "say it in fewer words, or in parts with --also",
                )
            )
        if strange := encoder.unknown_words(text):
            doubts.append(
                (
                    f"{self._model.name} never met {' or '.join(map(_quoted, strange))}: "
                    "what it finds for that is a guess",
                    _OTHER_LETTERS
                    if any(map(_is_not_latin, strange))
                    else "say it in plainer words, or take a stronger model (`clipsearch models`)",
                )
            )
        return doubts

    def _image_vector(self, path: str) -> tuple[Float32Array, RowArray]:
        """(dim,) unit, and the rows of the library that hold this very photo."""
        from clipsearch.photos.decode import decode_photo, digest_photo

        try:
            rows = self._reader.rows_of_digest(self._model.id, digest_photo(path))
            if len(rows):
                vector = self._reader.vectors(self._model.id, rows[:1])[0]
                return vector / np.linalg.norm(vector), rows
            encoder = self._encoder()
            preprocess = encoder.preprocess
            photo = decode_photo(path, side_px=preprocess.source_px)
        except SkippedPhoto as error:
            error.hint = error.hint or (
                "give another photo, or a whole copy of this one"
                if os.path.exists(path)
                else "see if the name is right; a relative one begins at the folder you are in"
            )
            raise
        assert photo.image is not None
        return encoder.images(preprocess.pixels(photo.image)[np.newaxis])[0], rows

    def _encoder(self) -> LocalEncoder:
        """The encoder of the active model, if it still is what the library was made with."""
        encoder = self._loaded()
        if encoder.fingerprints.image != self._model.image_fingerprint:
            raise ModelError(
                f"the model {self._model.name} has changed since the library was made with it, "
                "so its vectors cannot be compared",
                hint=f"embed the photos again with `{embed_again(self._model.name)}`",
            )
        return encoder

    def _loaded(self) -> LocalEncoder:
        name = self._model.name
        try:
            return self._load(name)
        except ModelUnavailable:
            raise  # says how to fetch it
        except ModelError as error:
            from clipsearch.models import is_here

            # Of a directory find_model knows more to say: it may only have been moved.
            if os.path.isabs(name) or is_here(name):
                raise
            raise ModelError(
                f"the library was made with the model {name}, which is not on this machine any "
                "more",
                hint=f"import it again (`clipsearch models import DIR --name {name}`), or embed "
                "the photos with another one: `clipsearch index --model pocket`",
            ) from error

    def _spread_sample(self) -> Float32Array:
        """Vectors of the library, evenly drawn, (n, dim)."""
        dead = self._reader.tombstones(self._model.id)
        live = self._model.rows - len(dead)
        places = np.linspace(0, live - 1, min(live, SPREAD_SAMPLE)).astype(np.int64)
        # Counted among the live rows: of a library that shrank, most may be dead. As many lie
        # before the n-th live one as have n or fewer live ones before them.
        skipped = np.searchsorted(dead - np.arange(len(dead)), places, side="right")
        return self._reader.vectors(self._model.id, places + skipped)

    def _hits(
        self, ranked: Sequence[Sequence[tuple[float, int]]], filters: Sequence[Filter]
    ) -> list[list[Hit]]:
        """For each query its (score, row) pairs as hits."""
        rows = list(dict.fromkeys(row for pairs in ranked for _, row in pairs))
        asked = [one.value for one in filters if one.name == "folder"]
        photos: dict[int, Hit] = {}
        missing = 0
        for row, place in self._reader.places(self._model.id, rows).items():
            # Of several copies, one that is there, inside the folder that was asked for.
            files = sorted(
                zip(place.paths, place.sizes, strict=True),
                key=lambda file: (
                    not any(is_inside(file[0], folder) for folder in asked),
                    not os.path.exists(file[0]),
                ),
            )
            (path, size), *copies = files
            missing += not os.path.exists(path)
            photos[row] = Hit(
                0.0, path, place.photo_id, tuple(copy for copy, _ in copies), place.facts, size
            )
        if missing:
            self._warnings.append(
                (
                    f"{missing} of these files cannot be reached now",
                    "connect their disk; if they were moved or deleted, run `clipsearch index`",
                )
            )
        return [[replace(photos[row], score=score) for score, row in pairs] for pairs in ranked]

    def _why_nothing(self, request: Request) -> str:
        total = self._reader.count_rows(self._model.id)
        if not total:
            return "no photos: the library is empty"
        phrases = " and ".join(
            " or ".join(one.phrase for one in request.filters if one.name == name)
            for name in dict.fromkeys(one.name for one in request.filters)
        )
        passing = self._reader.rows_matching(self._model.id, request.filters)
        if passing is not None and not len(passing):
            return f"no photos: none of the {total:,} in the library is {phrases}"
        one = len(request.images) == 1
        only, asked, them = ("one", "is the one", "it") if one else ("ones", "are those", "them")
        return (
            f"no photos: the only {only} {phrases or 'there'} {asked} you asked with "
            f"(--include-self shows {them})"
        )


def _is_not_latin(word: str) -> bool:
    """Whether it has a letter that no language in Latin script has."""
    import unicodedata

    letters = filter(str.isalpha, word)
    return not all(unicodedata.name(letter, "LATIN").startswith("LATIN") for letter in letters)


def _quoted(word: str) -> str:
    return repr(word if len(word) <= SHOWN_LETTERS else f"{word[:SHOWN_LETTERS]}...")


_OTHER_LETTERS = (
    "say it in English, or take a model of many languages: `clipsearch models pull multilingual`, "
    "then `clipsearch index --model multilingual`"
)
_NO_VECTORS = np.empty((0, 0), dtype=np.float32)
