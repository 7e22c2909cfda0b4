"""What the library answers with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from clipsearch.records import PhotoFacts


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of long work: `done` of `total` (None: not known yet) in `phase`."""

    phase: str
    done: int
    total: int | None
    seconds: float
    skipped: int = 0

    @property
    def rate(self) -> float:
        """Photos a second so far; 0 before there is anything to divide."""
        return self.done / self.seconds if self.seconds > 0.2 else 0.0


@dataclass(slots=True)
class IndexReport:
    """What one run of `index` found and did; every number counts files, `photos` pictures.

    Attributes:
        model: the one that answers now; not the one asked for, where photos lack its vector.
        added, copied, moved, changed, removed, unchanged: files, by what became of them.
        touched: files written again with the same picture (a new date, new tags).
        embedded: photos that went through the image tower, in all.
        re_embedded: of them, photos known before, embedded because the model is another one.
        skipped: (path, reason) of files that are or should be photos and cannot be read.
        mendable: of the reasons in `skipped`, those that may go though the file stays as it is: a
            missing extra, a limit, a right.
        skipped_before: whether all of `skipped` were skipped for the same reasons by the run before
            of this `Library`, as happens with --watch.
        not_photos: files that turned out to be no pictures at all.
        unavailable: (root, reason) of folders that are not there; nothing of them is lost.
        unreadable_folders: (folder, reason) inside a root.
        photos: pictures that can be searched now.
    """

    model: str = ""
    added: int = 0
    copied: int = 0
    moved: int = 0
    changed: int = 0
    touched: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    re_embedded: int = 0
    not_photos: int = 0
    photos: int = 0
    seconds: float = 0.0
    encoding_seconds: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    mendable: set[str] = field(default_factory=set)
    skipped_before: bool = False
    unavailable: list[tuple[str, str]] = field(default_factory=list)
    unreadable_folders: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def photos_per_second(self) -> float:
        return self.embedded / self.encoding_seconds if self.encoding_seconds else 0.0

    @property
    def skipped_by_reason(self) -> list[tuple[str, int]]:
        """(reason, files): those that something can be done about first, then the frequent ones."""
        reasons = Counter(reason for _, reason in self.skipped).most_common()
        return sorted(reasons, key=lambda reason: reason[0] not in self.mendable)

    @property
    def changed_anything(self) -> bool:
        return bool(
            self.added + self.copied + self.moved + self.changed + self.removed + self.embedded
            or (self.skipped and not self.skipped_before)
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A photo that answers a query.

    Attributes:
        score: cosine between the photo and the query, higher is better; comparable within one
            query only.
        path: one place where the photo lies, absolute; bytes that are not valid UTF-8 are
            surrogate escapes (PEP 383), as `os` functions expect them.
        copies: the other places, exact copies.
    """

    score: float
    path: str
    photo_id: int
    copies: tuple[str, ...]
    facts: PhotoFacts
    size_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and CSV."""
        return {
            "score": round(self.score, 6),
            "path": self.path,
            "copies": list(self.copies),
            "width": self.facts.width,
            "height": self.facts.height,
            "format": self.facts.format,
            "size_bytes": self.size_bytes,
            "taken_at": self.facts.taken_at,
            "latitude": self.facts.latitude,
            "longitude": self.facts.longitude,
            "camera": self.facts.camera,
            "lens": self.facts.lens,
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits, best first, with what there is to say about them."""

    hits: list[Hit]
    warnings: list[tuple[str, str | None]]
    why_nothing: str


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model that the library has vectors of.

    Attributes:
        photos: how many have a vector of it.
        replaced: by that name there is another model on this machine by now, so new vectors could
            not be compared with these.
    """

    name: str
    dim: int
    photos: int
    active: bool
    image_fingerprint: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class RootStatus:
    """A folder that the library keeps up with.

    Attributes:
        left_out: the globs that were given for it, then what was removed of it, each from a '/' on.
    """

    path: str
    available: bool
    files: int
    last_scanned: float | None
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a library, for people and for JSON."""

    folder: str
    photos: int
    files: int
    problems: int
    size_bytes: int
    roots: list[RootStatus]
    models: list[ModelStatus]
    search: str


def embed_again(model: str) -> str:
    """The command that embeds a library's photos anew with what a model's name stands for now."""
    return "clipsearch index" if model == "pocket" else f"clipsearch index --model {model}"
